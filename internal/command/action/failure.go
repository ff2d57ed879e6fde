package action

import (
	"fmt"
	"path"
	"strings"

	"github.com/org/nixoci-action/internal/ui"
)

// failure is why outputs failed: their evaluation, or a build.
type failure struct {
	cause
	attrs []string
}

type cause struct{ reason, message, drv, log string }

// failuresByCause gathers the outputs that failed. Those that need the same
// failed build are one failure: its log is told once.
func (r *publishReport) failuresByCause() []failure {
	var all []failure
	place := map[cause]int{}
	for _, o := range r.Outputs {
		if o.Status != "failed" {
			continue
		}
		c := cause{o.Reason, o.Message, o.FailedDrv, o.Log}
		i, ok := place[c]
		if !ok {
			i = len(all)
			place[c] = i
			all = append(all, failure{cause: c})
		}
		all[i].attrs = append(all[i].attrs, o.Attr)
	}
	return all
}

// maxAnnotations is how many of these GitHub shows of one step, less the one
// for the error that the command itself ends with.
const maxAnnotations = 10 - 1

// annotate points to the failed outputs, with the last lines of the builds.
func (s *session) annotate(r *publishReport, warn bool) {
	all := r.failuresByCause()
	shown := all
	if len(all) > maxAnnotations {
		shown = all[:maxAnnotations-1]
	}
	for _, f := range shown {
		text := f.reason
		if f.drv != "" {
			text += ", in " + drvName(f.drv)
		}
		if len(f.attrs) > 1 {
			text = strings.Join(f.attrs, ", ") + ": " + text
		}
		if f.message != "" {
			text += ": " + f.message
		}
		if f.log != "" {
			text += "\nlast lines of its log:\n" + f.log
		}
		s.msg.Annotate(warn, cut(ui.Few(f.attrs), maxCell), cut(text, maxMessage))
	}
	if rest := all[len(shown):]; len(rest) > 0 {
		var attrs []string
		for _, f := range rest {
			attrs = append(attrs, f.attrs...)
		}
		s.msg.Annotate(warn, fmt.Sprintf("%d more failed", len(attrs)), cut(strings.Join(attrs, ", "), maxMessage)+"\nthe job summary and the log say why")
	}
}

// drvName is a derivation's name: "hello-1.0" for
// "/nix/store/<hash part>-hello-1.0.drv".
func drvName(drv string) string { return pathName(strings.TrimSuffix(drv, ".drv")) }

// pathName is the name of a store path.
func pathName(p string) string {
	base := path.Base(p)
	if _, name, ok := strings.Cut(base, "-"); ok {
		return name
	}
	return base
}
