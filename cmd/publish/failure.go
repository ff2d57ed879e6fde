package main

import (
	"context"
	"slices"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/internal/nix"
)

// Limits of what is told about failed builds.
const (
	logLines  = 20
	maxLogs   = 200
	maxFailed = 100 // outputs
)

// explainBuilds finds, for outputs that are missing, the build that failed and
// the last lines that it printed. It only helps people: what it cannot find
// out it leaves out.
func (p *publisher) explainBuilds(ctx context.Context, built []discover.Built, failed *nix.CommandError) {
	logs := map[string]string{}
	for _, b := range built {
		if len(b.Missing) == 0 || b.DrvPath == "" || len(p.report.logs) == maxFailed || ctx.Err() != nil {
			continue
		}
		needed, err := p.nix.Requisites(ctx, b.DrvPath)
		if err != nil {
			p.log.Debug("no closure of a failed build", "error", err)
			continue
		}
		// what has failed comes before what needs it
		candidates := slices.DeleteFunc(slices.Clone(failed.Derivations), func(drv string) bool { return !slices.Contains(needed, drv) })
		if len(candidates) == 0 {
			candidates = []string{b.DrvPath}
		}
		var cause buildLog
		for _, drv := range candidates {
			text, known := logs[drv]
			if !known && len(logs) < maxLogs {
				text, err = p.nix.BuildLog(ctx, drv, logLines)
				p.log.Debug("read a build log", "derivation", drv, "error", err)
				logs[drv] = text
			}
			if cause.drv == "" || text != "" {
				cause = buildLog{drv, text}
			}
			if text != "" {
				break
			}
		}
		if cause.drv != "" {
			p.report.logs[b.Attr.String()] = cause
		}
	}
}

// buildLog is the end of what a failed build printed.
type buildLog struct{ drv, text string }
