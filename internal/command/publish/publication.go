package publish

import (
	"path"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/ci"
	"github.com/org/nixoci-action/internal/secret"
)

// publication is the record of this run.
func (p *publisher) publication(roots []root) format.Publication {
	pub := format.Publication{
		Time: time.Now().UTC().Truncate(time.Millisecond), Flake: p.printable(p.cfg.Flake),
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
	job := ci.Detect(p.getenv)
	pub.Origin, pub.Ref, pub.RunURL = job.Origin, p.redact(job.Ref), p.printable(job.RunURL)
	if pub.Origin == "" && p.origin != "" {
		// Flake, too: programs that do not know Origin drop it when they merge
		// segments, and tell apart by Flake
		pub.Origin, pub.Flake = p.origin, p.origin
	}
	if pub.Revision == "" {
		pub.Revision = job.Revision
	}
	pub.Selection = p.redact(pub.Selection)
	for _, r := range roots {
		if _, found := p.secrets.Find([]byte(r.attr + " " + path.Base(r.path))); found {
			continue // it is not published either
		}
		pub.Roots = append(pub.Roots, format.Root{Attr: r.attr, Path: path.Base(r.path)})
	}
	slices.SortFunc(pub.Roots, func(a, b format.Root) int {
		if c := strings.Compare(a.Attr, b.Attr); c != 0 {
			return c
		}
		return strings.Compare(a.Path, b.Path)
	})
	return pub
}

// printable is a flake reference, or another URL, without secrets.
func (p *publisher) printable(ref string) string {
	ref, _ = secret.Reference(ref)
	return p.redact(ref)
}

func (p *publisher) redact(text string) string { return string(p.secrets.Redact([]byte(text))) }
