package publish

import (
	"path"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/secret"
	"github.com/org/nixoci-action/matrix"
)

// publication is the record of this run.
func (p *publisher) publication(roots []root) format.Publication {
	pub := format.Publication{
		Time: time.Now().UTC().Truncate(time.Millisecond), Flake: p.printable(p.Flake),
		Revision: p.report.revision, Systems: p.report.Systems,
	}
	job := p.Job
	switch {
	case p.Part != nil:
		pub.Series = p.Part.Series
	case p.Matrix == matrix.Recording:
		pub.Series = series(p.Options, job)
	default:
		pub.Selection = selection(p.Options, roots, job)
	}
	pub.Partial = !p.complete || p.Part != nil
	if p.Pin != "" && p.complete { // else it would take the place of one that is
		pub.Pin, pub.PinKeep = p.Pin, p.PinKeep
	}
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
		if _, found := p.Secrets.Find([]byte(r.attr + " " + path.Base(r.path))); found {
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

func (p *publisher) redact(text string) string { return string(p.Secrets.Redact([]byte(text))) }
