package publish

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/internal/nix"
)

// Limits of what is told about failed builds.
const (
	logLines  = 20
	maxFailed = 100 // outputs
)

// explainBuilds finds, for outputs that are missing, the build that failed and
// the last lines that it printed, or what else stood in the way. It only helps
// people: what it cannot find out it leaves out.
func (p *publisher) explainBuilds(ctx context.Context, built []discover.Built) {
	for _, b := range built {
		if b.Err == nil || len(p.report.logs) == maxFailed || ctx.Err() != nil {
			continue
		}
		var failed *nix.CommandError
		if !errors.As(b.Err, &failed) || b.DrvPath == "" {
			p.report.logs[b.Attr.String()] = buildLog{message: b.Err.Error()}
			continue
		}
		needed, err := p.Nix.Requisites(ctx, b.DrvPath)
		if err != nil {
			p.Log.Debug("no closure of a failed build", "error", err)
			continue
		}
		// what has failed comes before what needs it
		candidates := slices.DeleteFunc(slices.Clone(failed.Derivations), func(drv string) bool { return !slices.Contains(needed, drv) })
		if len(candidates) == 0 {
			candidates = []string{b.DrvPath}
		}
		var cause buildLog
		for _, drv := range candidates {
			text := p.show.Log(drv, logLines)
			if cause.drv == "" || text != "" {
				cause = buildLog{drv: drv, text: text}
			}
			if text != "" {
				break
			}
		}
		if cause.text == "" {
			cause.message = errorAbout(failed.Message, cause.drv)
		}
		p.report.logs[b.Attr.String()] = cause
	}
}

// buildLog is a failed build, as far as it is known, and the end of what it
// printed. Where that is nothing, message is what Nix says.
type buildLog struct{ drv, text, message string }

// maxErrorLines bounds what is repeated of one of Nix's errors, in lines.
const maxErrorLines = 6

// errorAbout picks an error from Nix's message: the first about a derivation, or
// else the first that is about none.
func errorAbout(message, drv string) string {
	found := map[string][]string{} // by the derivation that it names first
	var current string
	open := false
	for i, line := range strings.Split(message, "\n") {
		text, begins := strings.CutPrefix(line, "error: ")
		if begins = begins || i == 0; begins { // the first has lost its prefix
			current = derivation.FindString(line)
			_, known := found[current]
			open = !known
		}
		open = open && (begins || strings.HasPrefix(line, " ")) // what follows an error is indented
		if open && len(found[current]) < maxErrorLines {
			found[current] = append(found[current], strings.TrimSpace(text))
		}
	}
	if lines, ok := found[drv]; ok {
		return strings.Join(lines, "\n")
	}
	return strings.Join(found[""], "\n")
}

// derivation finds derivations in Nix's messages.
var derivation = regexp.MustCompile(`/[^\s'"]+/[0-9a-z]{32}-[0-9A-Za-z+._?=-]+\.drv\b`)
