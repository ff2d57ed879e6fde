package index

import (
	"slices"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/registry"
)

// pub is a publication of main whose roots are entries, by attribute.
func pub(age float64, roots map[string]Entry) Publication {
	p := Publication{Time: daysAgo(age), Ref: "refs/heads/main"}
	for attr, e := range roots {
		p.Roots = append(p.Roots, Root{Attr: attr, Path: e.Path.Base()})
	}
	return p
}

func record(t *testing.T, repo registry.Repository, p Publication, entries ...Entry) *Snapshot {
	t.Helper()
	c := Open(repo, at(noon.Sub(p.Time).Hours()/24))
	base, err := c.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, WriterOptions{OnUpstream: func(hashPart string) bool {
		return !slices.ContainsFunc(entries, func(e Entry) bool { return e.Path.HashPart == hashPart })
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := w.Add(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := w.Close(t.Context(), &p); err != nil || r.Committed != len(entries) {
		t.Fatalf("got %+v, %v", r, err)
	}
	return c.Current()
}

// The history has each complete publication of the line with its closure; a
// writer's own snapshot shows what it has just written.
func TestHistory(t *testing.T) {
	t.Parallel()
	backends(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		lib := newEntry(t, repo, "lib")
		app := newEntry(t, repo, "app", lib.Path.Base())
		tool := newEntry(t, repo, "tool", lib.Path.Base())
		upstream := newEntry(t, repo, "upstream")
		first := pub(9, map[string]Entry{"app": app, "up": upstream})
		record(t, repo, first, lib, app)
		record(t, repo, with(pub(8, map[string]Entry{"app": app}), func(p *Publication) { p.Partial = true }))
		record(t, repo, with(pub(7, map[string]Entry{"app": app}), func(p *Publication) { p.Ref = "refs/heads/other" }))
		gone := newEntry(t, repo, "gone")
		record(t, repo, pub(6, map[string]Entry{"app": app, "tool": gone})) // as if gc had removed it
		last := pub(5, map[string]Entry{"app": app, "tool": tool, "up": upstream})
		s := record(t, repo, last, tool)

		size := func(entries ...Entry) (sum Total) {
			for _, e := range entries {
				sum = Total{sum.Paths + 1, sum.NarSize + e.NarSize, sum.FileSize + e.NAR.Size}
			}
			return sum
		}
		want := []Past{{first.Time, size(lib, app)}, {last.Time, size(lib, app, tool)}}
		check := func(what string, got, want []Past) {
			t.Helper()
			if !slices.EqualFunc(got, want, func(a, b Past) bool { return a.Time.Equal(b.Time) && a.Total == b.Total }) {
				t.Errorf("%s: got %v, want %v", what, got, want)
			}
		}
		check("after its publish", History(s, last, 20), want)
		check("after another publish", History(sweep(t, open()), last, 20), want)
		check("the last one", History(s, last, 1), want[1:])
		check("none", History(s, last, 0), nil)
		again := with(last, func(p *Publication) { p.Time = daysAgo(4) })
		check("one that is not recorded", History(s, again, 2), []Past{want[1], {again.Time, want[1].Total}})
		again.Partial = true
		check("one in which something failed", History(s, again, 20), want)
		other := from("refs/heads/new", 0, app.Path.Base())
		check("of a new line", History(s, other, 20), []Past{{other.Time, want[0].Total}})
		if got, want := s.Stored(), size(lib, app, tool).FileSize; got != want {
			t.Errorf("stored: got %d bytes, want %d", got, want)
		}
	})
}

// 20 publications of a branch, with closures of 5,000 paths each.
func BenchmarkHistory(b *testing.B) {
	s := benchSnapshot(b, 20_000)
	var roots []Root
	for _, seg := range s.Loaded() {
		for i := range seg.Len() {
			if e, err := decodeLine(seg.line(i), ""); err == nil {
				roots = append(roots, Root{Path: e.Path.Base()})
			}
		}
	}
	seg := s.Loaded()[len(s.Segments())-1]
	for i := range 20 {
		from := i * 100
		seg.header.Publications = append(seg.header.Publications, Publication{Time: noon.Add(time.Duration(i) * time.Hour), Ref: "refs/heads/bench", Roots: roots[from : from+5000]})
	}
	p := seg.header.Publications[len(seg.header.Publications)-1]
	b.ReportAllocs()
	for b.Loop() {
		past := History(s, p, 20)
		if len(past) != 20 || past[19].Paths < 5000 {
			b.Fatal(len(past))
		}
	}
}
