package action

import (
	"fmt"
	"strings"

	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/report"
)

// Limits of annotations. GitHub shows ten of one step; one is for the error that
// the command itself ends with. Texts are in bytes.
const (
	maxAnnotations = 10 - 1
	maxTitle       = 200
	maxText        = 4000
)

// annotate points to the failed outputs, with the last lines of the builds.
func (s *session) annotate(r *report.Publish, warn bool) {
	all := r.Causes()
	shown := all
	if len(all) > maxAnnotations {
		shown = all[:maxAnnotations-1]
	}
	for _, c := range shown {
		s.msg.Annotate(warn, s.place(c.Message), ui.Cut(ui.Few(c.Attrs), maxTitle), ui.Cut(c.Text(), maxText))
	}
	if rest := all[len(shown):]; len(rest) > 0 {
		var attrs []string
		for _, c := range rest {
			attrs = append(attrs, c.Attrs...)
		}
		s.msg.Annotate(warn, ui.Place{}, fmt.Sprintf("%d more failed", len(attrs)), ui.Cut(strings.Join(attrs, ", "), maxText)+"\nthe job summary and the log say why")
	}
}
