package collect

import (
	"context"
	"testing"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
)

// What others were only built with goes when the whole is published and the delay
// has passed; what an unfinished run has left stays. So does what somebody else
// relies on.
func TestBuildDeps(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		ctx := context.Background()
		repo := open()
		app := indextest.NewEntry(t, repo, "app")
		compiler := indextest.NewEntry(t, repo, "compiler")
		library := indextest.NewEntry(t, repo, "library")
		shared := indextest.NewEntry(t, repo, "shared")
		again := indextest.NewEntry(t, repo, "again")
		other := indextest.NewEntry(t, repo, "other", shared.Path.Base())
		left := indextest.NewEntry(t, repo, "left")
		add := func(days float64, p *format.Publication, entries ...format.Entry) {
			t.Helper()
			c := index.Open(repo, indextest.At(days))
			base, err := c.Sweep(ctx)
			if err != nil {
				t.Fatal(err)
			}
			w, err := c.NewWriter(base, index.WriterOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if err := w.Add(ctx, e); err != nil {
					t.Fatal(err)
				}
			}
			if p != nil {
				p.Time = c.Options().Now()
			}
			if r, err := w.Close(ctx, p); err != nil || len(r.Incomplete) > 0 {
				t.Fatalf("got %+v, %v", r, err)
			}
		}
		add(10, nil, left)
		add(10, &format.Publication{
			Ref: "refs/heads/main", Roots: []format.Root{{Path: app.Path.Base()}},
			BuildDeps: []string{compiler.Path.Base(), library.Path.Base(), shared.Path.Base(), again.Path.Base()},
		}, app, compiler, library, shared, again)
		add(9.8, nil, other) // as with nix copy
		add(9, nil, again)

		p, _ := mustCollect(t, repo, 9.5, defaults)
		if p.Removed.Paths != 0 {
			t.Errorf("before the delay has passed: got %+v removed", p.Removed)
		}
		p, _ = mustCollect(t, repo, 7, defaults)
		if p.Removed.Paths != 2 {
			t.Errorf("got %+v removed", p.Removed)
		}
		s := indextest.Sweep(t, open())
		indextest.Has(t, s, app, shared, again, other, left)
		indextest.Lacks(t, s, compiler, library)
	})
}
