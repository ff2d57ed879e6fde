package main

import (
	"path"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/index"
)

// publication is the record of this run. Where it runs is known in CI only.
func (p *publisher) publication(roots []root) index.Publication {
	pub := index.Publication{
		Time: time.Now().UTC().Truncate(time.Millisecond), Flake: p.cfg.Flake,
		Revision: p.report.revision, Systems: p.report.Systems,
	}
	switch {
	case p.cfg.Part != nil:
		pub.Series = p.cfg.Part.Series
	case p.cfg.Matrix == matrixRecord:
		pub.Series = series(p.cfg, p.getenv)
	default:
		pub.Selection = selection(p.cfg, roots, p.getenv)
	}
	pub.Partial = !p.complete || p.cfg.Part != nil
	if p.cfg.Pin != "" && p.complete { // else it would take the place of one that is
		pub.Pin, pub.PinKeep = p.cfg.Pin, p.cfg.PinKeep
	}
	if p.getenv("GITHUB_ACTIONS") == "true" {
		pub.Ref = p.getenv("GITHUB_REF")
		if pub.Revision == "" {
			pub.Revision = p.getenv("GITHUB_SHA")
		}
		if id := p.getenv("GITHUB_RUN_ID"); id != "" {
			pub.RunURL = p.getenv("GITHUB_SERVER_URL") + "/" + p.getenv("GITHUB_REPOSITORY") + "/actions/runs/" + id
		}
	}
	for _, r := range roots {
		pub.Roots = append(pub.Roots, index.Root{Attr: r.attr, Path: path.Base(r.path)})
	}
	slices.SortFunc(pub.Roots, func(a, b index.Root) int {
		if c := strings.Compare(a.Attr, b.Attr); c != 0 {
			return c
		}
		return strings.Compare(a.Path, b.Path)
	})
	return pub
}
