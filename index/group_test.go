package index_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
)

// newGroup is a group whose base is what the cache shows now.
func newGroup(c *index.Cache, change ...func(*index.GroupOptions)) *index.Group {
	o := index.GroupOptions{Base: c.Refresh, Gather: time.Millisecond}
	for _, f := range change {
		f(&o)
	}
	return c.NewGroup(o)
}

// addition is a path whose NAR is not in the repository.
func unsent(name string, refs ...string) index.Addition {
	return index.Addition{Entry: indextest.EntryFor(name, v1.Descriptor{}, refs...), Data: []byte("compressed NAR of " + name)}
}

func TestGroup(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		ctx := context.Background()
		repo := open()
		indextest.MustPublish(t, repo, indextest.NewEntry(t, repo, "old"))
		g := newGroup(index.Open(repo, indextest.Quick()))
		const clients, paths = 4, 10
		var mu sync.Mutex
		var all []format.Entry
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				refs := []string{indextest.EntryFor("old", v1.Descriptor{}).Path.Base()}
				for j := range paths {
					a := unsent(fmt.Sprintf("c%d-%d", i, j), refs...)
					if j%2 == 0 {
						a = index.Addition{Entry: indextest.NewEntry(t, repo, a.Entry.Path.Name, refs...)}
					}
					if err := g.Add(ctx, a); err != nil {
						t.Error(err)
						return
					}
					got, ok := g.Lookup(a.Entry.Path.HashPart)
					if !ok || got.Path != a.Entry.Path {
						t.Errorf("%s was added, and is not there", a.Entry.Path)
					}
					refs = []string{a.Entry.Path.Base()}
					mu.Lock()
					all = append(all, got)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if n := g.Written(); n < paths || n > clients*paths/2 {
			t.Errorf("%d clients with %d paths each wrote %d segments", clients, paths, n)
		}
		s, err := index.Open(open(), indextest.Quick()).Sweep(ctx)
		if err != nil {
			t.Fatal(err)
		}
		indextest.Has(t, s, all...)
		for _, e := range all { // in a pack or not, the bytes are there
			b, err := repo.Blob(ctx, e.NAR.Blob, e.NAR.Offset, e.NAR.Size)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, e.NAR.Size)
			if _, err := b.Read(got); string(got) != "compressed NAR of "+e.Path.Name {
				t.Errorf("%s has the NAR %q, %v", e.Path, got, err)
			}
			b.Close()
		}
		root := all[len(all)-1].Path.Base()
		if recorded, err := g.Settle(ctx, &format.Publication{Time: time.Now(), Roots: []format.Root{{Path: root}, {Path: "00000000000000000000000000000000-x"}}}); err != nil || !recorded {
			t.Fatalf("got %v, %v", recorded, err)
		}
		if g.Unsettled() {
			t.Error("still unsettled")
		}
		if s, err = index.Open(open(), indextest.Quick()).Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		indextest.Has(t, s, all...)
		if ps := s.Publications(); len(ps) != 1 || len(ps[0].Roots) != 1 || ps[0].Roots[0].Path != root {
			t.Errorf("got the publications %+v", ps)
		}
		if n := len(s.Segments()); n >= 2*index.FanIn {
			t.Errorf("%d segments are left, want them merged", n)
		}
		g.Seen(s)
		if _, ok := g.Lookup(all[0].Path.HashPart); ok {
			t.Error("it still remembers what the index shows")
		}
	})
}

func TestGroupRefuses(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	repo, err := registry.Open("oci:"+dir, registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	g := newGroup(index.Open(repo, indextest.Quick()))
	missing := indextest.EntryFor("missing", v1.Descriptor{}).Path.Base()
	var incomplete *index.IncompleteError
	if err := g.Add(ctx, unsent("a", missing)); !errors.As(err, &incomplete) || !slices.Equal(incomplete.Missing, []string{missing}) {
		t.Errorf("got %v, want an *IncompleteError", err)
	}
	if err := g.Add(ctx, index.Addition{Entry: unsent("a", missing).Entry}); err == nil {
		t.Error("an entry without a NAR was taken")
	}
	if err := g.Add(ctx, index.Addition{Entry: unsent("a", missing).Entry, Data: []byte("compressed NAR of a"), Upstream: []string{missing[:32]}}); err != nil {
		t.Errorf("with its reference on an upstream: %v", err)
	}
	lost := indextest.NewEntry(t, repo, "lost")
	if err := os.Remove(filepath.Join(dir, "blobs", "sha256", lost.NAR.Blob.Hex)); err != nil {
		t.Fatal(err)
	}
	var le *index.LostError
	if err := g.Add(ctx, index.Addition{Entry: lost}); !errors.As(err, &le) || le.FileHash != lost.FileHash {
		t.Errorf("got %v, want a *LostError", err)
	}
	// two that refer to each other's company
	var wg sync.WaitGroup
	for _, a := range []index.Addition{unsent("x"), unsent("y", indextest.EntryFor("x", v1.Descriptor{}).Path.Base()), unsent("z", missing)} {
		wg.Go(func() {
			err := g.Add(ctx, a)
			if want := a.Entry.Path.Name == "z"; (err != nil) != want {
				t.Errorf("%s: got %v", a.Entry.Path, err)
			}
		})
	}
	wg.Wait()
	s, err := index.Open(repo, indextest.Quick()).Sweep(ctx)
	if err != nil || s.Len() != 3 {
		t.Errorf("got %d entries, %v; want a, x and y", s.Len(), err)
	}
}

// What a collection may be removing at this moment is written again before
// something that refers to it.
func TestGroupRepeatsWhatIsOld(t *testing.T) {
	ctx := context.Background()
	repo := indextest.NewMemory()
	a := indextest.NewEntry(t, repo, "a")
	b := indextest.NewEntry(t, repo, "b", a.Path.Base())
	young := indextest.NewEntry(t, repo, "young", b.Path.Base())
	indextest.MustPublish(t, repo, a, b)
	now := time.Now().Add(format.PinAfter + time.Hour)
	o := indextest.Quick()
	o.Now = func() time.Time { return now }
	c := index.Open(repo, o)
	g := newGroup(c)
	if err := g.Add(ctx, index.Addition{Entry: young}); err != nil {
		t.Fatal(err)
	}
	s, err := index.Open(repo, indextest.Quick()).Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []format.Entry{a, b, young} {
		if e, ok := s.Lookup(want.Path.HashPart); !ok || e.Added.Unix() != now.Unix() {
			t.Errorf("%s: got %v, added %s, want %s", want.Path, ok, e.Added, now)
		}
	}
	if g.Written() != 1 {
		t.Errorf("%d segments, want 1", g.Written())
	}
}

// Whatever Add has acknowledged is there, with all it refers to, wherever the
// process dies.
func TestGroupCrashAfterEveryStep(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		ctx := context.Background()
		repo := open()
		indextest.MustPublish(t, repo, indextest.NewEntry(t, repo, "first"))
		var acknowledged []format.Entry
		for steps := 0; ; steps++ {
			if steps > 100 {
				t.Fatal("more than 100 steps")
			}
			g := newGroup(index.Open(&indextest.Crashing{Repository: repo, Left: steps}, indextest.Quick()))
			failed := false
			refs := []string{indextest.EntryFor("first", v1.Descriptor{}).Path.Base()}
			for i := range 3 {
				a := unsent(fmt.Sprintf("s%d-%d", steps, i), refs...)
				if err := g.Add(ctx, a); err != nil {
					failed = true
					break
				}
				e, _ := g.Lookup(a.Entry.Path.HashPart)
				acknowledged = append(acknowledged, e)
				refs = []string{e.Path.Base()}
			}
			if _, err := g.Settle(ctx, &format.Publication{Time: time.Now(), Roots: []format.Root{{Path: refs[0]}}}); err != nil {
				failed = true
			}
			s, err := index.Open(open(), indextest.Quick()).Sweep(ctx)
			if err != nil {
				t.Fatalf("after a crash at step %d: %v", steps, err)
			}
			indextest.Has(t, s, acknowledged...)
			for e := range s.All {
				for _, r := range e.References {
					if !s.Has(r[:32]) {
						t.Errorf("after a crash at step %d %s lacks %s", steps, e.Path, r)
					}
				}
			}
			if !failed {
				break
			}
		}
	})
}
