package main

import (
	"context"
	"regexp"
	"slices"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/internal/nix"
)

// Limits of what is told about failed builds.
const (
	logLines  = 20
	maxFailed = 20
)

// drvPath finds derivations in Nix's messages.
var drvPath = regexp.MustCompile(`/[^\s'"]+/[0-9a-z]{32}-[0-9A-Za-z+._?=-]+\.drv\b`)

// explainBuilds finds, for outputs that are missing, the build that failed and
// the last lines that it printed. It only helps people: what it cannot find
// out it leaves out.
func (p *publisher) explainBuilds(ctx context.Context, built []discover.Built, failed *nix.CommandError) {
	named := drvPath.FindAllString(failed.Message, -1)
	logs := map[string]string{}
	for _, b := range built {
		if len(b.Missing) == 0 || len(p.report.logs) == maxFailed || ctx.Err() != nil {
			continue
		}
		needed, err := p.nix.Requisites(ctx, b.DrvPath)
		if err != nil {
			p.log.Debug("no closure of a failed build", "error", err)
			continue
		}
		for _, drv := range append([]string{b.DrvPath}, named...) {
			if !slices.Contains(needed, drv) {
				continue
			}
			text, known := logs[drv]
			if !known {
				text, err = p.nix.BuildLog(ctx, drv, logLines)
				p.log.Debug("read a build log", "derivation", drv, "error", err)
				logs[drv] = text
			}
			if text != "" {
				p.report.logs[b.Attr.String()] = buildLog{drv, text}
				break
			}
		}
	}
}

// buildLog is the end of what a failed build printed.
type buildLog struct{ drv, text string }
