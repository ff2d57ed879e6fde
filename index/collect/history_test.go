package collect

import (
	"slices"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
)

// pub is a publication of main whose roots are entries, by attribute.
func pub(age float64, roots map[string]format.Entry) format.Publication {
	p := format.Publication{Time: indextest.DaysAgo(age), Ref: "refs/heads/main"}
	for attr, e := range roots {
		p.Roots = append(p.Roots, format.Root{Attr: attr, Path: e.Path.Base()})
	}
	return p
}

func record(t *testing.T, repo registry.Repository, p format.Publication, entries ...format.Entry) *index.Snapshot {
	t.Helper()
	c := index.Open(repo, indextest.At(indextest.Noon.Sub(p.Time).Hours()/24))
	base, err := c.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, index.WriterOptions{OnUpstream: func(hashPart string) bool {
		return !slices.ContainsFunc(entries, func(e format.Entry) bool { return e.Path.HashPart == hashPart })
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
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		lib := indextest.NewEntry(t, repo, "lib")
		app := indextest.NewEntry(t, repo, "app", lib.Path.Base())
		tool := indextest.NewEntry(t, repo, "tool", lib.Path.Base())
		upstream := indextest.NewEntry(t, repo, "upstream")
		first := pub(9, map[string]format.Entry{"app": app, "up": upstream})
		record(t, repo, first, lib, app)
		record(t, repo, with(pub(8, map[string]format.Entry{"app": app}), func(p *format.Publication) { p.Partial = true }))
		record(t, repo, with(pub(7, map[string]format.Entry{"app": app}), func(p *format.Publication) { p.Ref = "refs/heads/other" }))
		gone := indextest.NewEntry(t, repo, "gone")
		record(t, repo, pub(6, map[string]format.Entry{"app": app, "tool": gone})) // as if gc had removed it
		last := pub(5, map[string]format.Entry{"app": app, "tool": tool, "up": upstream})
		s := record(t, repo, last, tool)

		size := func(entries ...format.Entry) (sum index.Total) {
			for _, e := range entries {
				sum.Add(e.NarSize, e.NAR.Size)
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
		check("after another publish", History(indextest.Sweep(t, open()), last, 20), want)
		check("the last one", History(s, last, 1), want[1:])
		check("none", History(s, last, 0), nil)
		again := with(last, func(p *format.Publication) { p.Time = indextest.DaysAgo(4) })
		check("one that is not recorded", History(s, again, 2), []Past{want[1], {again.Time, want[1].Total}})
		again.Partial = true
		check("one in which something failed", History(s, again, 20), want)
		other := indextest.From("refs/heads/new", 0, app.Path.Base())
		check("of a new line", History(s, other, 20), []Past{{other.Time, want[0].Total}})
		if got, want := s.Stored(), size(lib, app, tool).FileSize; got != want {
			t.Errorf("stored: got %d bytes, want %d", got, want)
		}
	})
}

// 20 publications of a branch, with closures of 5,000 paths each.
func BenchmarkHistory(b *testing.B) {
	s := indextest.BenchSnapshot(b, 20_000)
	var roots []format.Root
	for _, seg := range s.Loaded() {
		for i := range seg.Len() {
			if e, err := format.DecodeLine(seg.Line(i), ""); err == nil {
				roots = append(roots, format.Root{Path: e.Path.Base()})
			}
		}
	}
	seg := s.Loaded()[len(s.Segments())-1]
	for i := range 20 {
		from := i * 100
		seg.Header.Publications = append(seg.Header.Publications, format.Publication{Time: indextest.Noon.Add(time.Duration(i) * time.Hour), Ref: "refs/heads/bench", Roots: roots[from : from+5000]})
	}
	p := seg.Header.Publications[len(seg.Header.Publications)-1]
	b.ReportAllocs()
	for b.Loop() {
		past := History(s, p, 20)
		if len(past) != 20 || past[19].Paths < 5000 {
			b.Fatal(len(past))
		}
	}
}
