package index_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

// theirEntry is an entry as nixcache-oci makes them: old, and with xz.
func theirEntry(t *testing.T, repo registry.Repository, name string, refs ...string) format.Entry {
	t.Helper()
	e := indextest.NewEntry(t, repo, name, refs...)
	e.Compression, e.Added = bincache.CompressionXZ, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return e
}

// theirChain is n entries, each of which refers to the one before.
func theirChain(t *testing.T, repo registry.Repository, n int) []format.Entry {
	t.Helper()
	var all []format.Entry
	refs := []string{"00000000000000000000000000000000-on-upstream"}
	for i := range n {
		e := theirEntry(t, repo, fmt.Sprint("chain", i), refs...)
		refs = []string{e.Path.Base()}
		all = append(all, e)
	}
	return all
}

func mustAdopt(t *testing.T, repo registry.Repository, o index.AdoptOptions) index.Adopted {
	t.Helper()
	s, a, err := index.Open(repo, indextest.Quick()).Adopt(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if s.Foreign() {
		t.Error("the snapshot is foreign")
	}
	return a
}

func rootDigest(t *testing.T, repo registry.Repository) v1.Hash {
	t.Helper()
	d, err := repo.Resolve(context.Background(), format.RootTag)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Every path of nixcache-oci's is ours afterwards, as it was, and no NAR is
// sent.
func TestAdopt(t *testing.T) {
	t.Parallel()
	indextest.Fresh(t, func(t *testing.T, next func() registry.Repository) {
		repo := indextest.Watch(next())
		entries := theirChain(t, repo, 5)
		indextest.PutForeign(t, repo, indextest.ForeignIndexOf(entries...))
		nars := map[v1.Hash]bool{}
		for _, e := range entries {
			nars[e.NAR.Blob] = true
		}
		repo.Put, repo.Written = map[v1.Hash]int{}, nil
		progress := 0
		a := mustAdopt(t, repo, index.AdoptOptions{SegmentLayers: 2, Progress: func(checked, total int) {
			if progress++; checked != progress || total != 5 {
				t.Errorf("progress: got %d of %d after %d", checked, total, progress)
			}
		}})
		if a.Paths != 5 || a.NarSize != 5*120 || len(a.Segments) != 3 || len(a.Lost)+len(a.Incomplete) != 0 || progress != 5 {
			t.Errorf("got %+v, progress %d", a, progress)
		}
		for d := range repo.Put {
			if nars[d] {
				t.Error("a NAR was sent")
			}
		}
		// 5 NARs looked for, 3 segments and a root written
		if repo.Asked != 5 || len(repo.Written) != 4 || repo.Written[3] != format.RootTag {
			t.Errorf("asked for %d blobs, wrote %v", repo.Asked, repo.Written)
		}
		s := indextest.Sees(t, repo, entries...)
		if s.Foreign() || s.Len() != 5 || !slices.Equal(s.Config().PublicKeys, []string{indextest.ForeignKey}) || !s.Config().CompatIndex.On {
			t.Errorf("foreign %v, %d entries, %+v", s.Foreign(), s.Len(), s.Config())
		}
		// each segment is closed with those before it
		before := map[string]bool{}
		for _, seg := range s.Loaded() {
			for i := range seg.Len() {
				e, _ := format.DecodeLine(seg.Line(i), "/nix/store")
				before[e.Path.Base()] = true
			}
			for i := range seg.Len() {
				e, _ := format.DecodeLine(seg.Line(i), "/nix/store")
				if r := e.References[0]; !before[r] && !strings.HasSuffix(r, "on-upstream") {
					t.Errorf("%s comes before %s", e.Path.Base(), r)
				}
			}
		}
		root := rootDigest(t, repo)
		if a := mustAdopt(t, repo, index.AdoptOptions{}); a.Paths != 0 || rootDigest(t, repo) != root {
			t.Errorf("once more: got %+v", a)
		}
		more := indextest.NewEntry(t, repo, "more", entries[4].Path.Base())
		upstream := func(hashPart string) bool { return hashPart[0] == '0' }
		if r, err := indextest.Publish(t, repo, index.WriterOptions{OnUpstream: upstream}, append(entries, more)...); err != nil || r.Committed != 6 || r.Adopted.Paths != 0 {
			t.Errorf("publishing: got %+v, %v", r, err)
		}
	})
}

// The cache has a configuration even where it has no path.
func TestAdoptNothing(t *testing.T) {
	t.Parallel()
	gone := theirEntry(t, indextest.Open(t, t.TempDir()), "gone")
	for _, idx := range []map[string]any{indextest.ForeignIndexOf(), indextest.ForeignIndexOf(gone)} {
		repo := indextest.Open(t, t.TempDir())
		indextest.PutForeign(t, repo, idx)
		mustAdopt(t, repo, index.AdoptOptions{})
		loseRoot(t, repo)
		s, err := index.Open(repo, indextest.Quick()).Sweep(context.Background())
		if err != nil || s.Len() != 0 || len(s.Config().PublicKeys) != 1 || !s.Config().CompatIndex.On {
			t.Errorf("got %d entries, %+v, %v", s.Len(), s.Config(), err)
		}
	}
}

// loseRoot writes a root of ours that knows nothing.
func loseRoot(t *testing.T, repo registry.Repository) {
	t.Helper()
	if err := index.Open(repo, indextest.Quick()).WriteEmptyRoot(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// Wherever an adoption ends, readers see every path, also those that have read
// before, and the next one finishes it without doing anything twice.
func TestAdoptCrashAfterEveryStep(t *testing.T) {
	t.Parallel()
	indextest.Fresh(t, func(t *testing.T, next func() registry.Repository) {
		ctx := context.Background()
		for steps := 0; ; steps++ {
			if steps > 50 {
				t.Fatal("an adoption takes more than 50 steps")
			}
			repo := next()
			entries := theirChain(t, repo, 5)
			indextest.PutForeign(t, repo, indextest.ForeignIndexOf(entries...))
			reader := index.Open(repo, indextest.Quick())
			if _, err := reader.Refresh(ctx); err != nil {
				t.Fatal(err)
			}
			crashed := &indextest.Crashing{Repository: repo, Left: steps}
			_, first, err := index.Open(crashed, indextest.Quick()).Adopt(ctx, index.AdoptOptions{SegmentLayers: 2})
			if err != nil && !errors.Is(err, indextest.ErrCrash) {
				t.Fatal(err)
			}
			indextest.Sees(t, repo, entries...)
			for what, read := range map[string]func(context.Context) (*index.Snapshot, error){"refresh": reader.Refresh, "sweep": reader.Sweep} {
				s, err := read(ctx)
				if err != nil {
					t.Fatalf("after %d steps, %s: %v", steps, what, err)
				}
				indextest.Has(t, s, entries...)
			}
			if err == nil {
				break
			}
			second := mustAdopt(t, repo, index.AdoptOptions{SegmentLayers: 2})
			if first.Paths+second.Paths != 5 {
				t.Errorf("after %d steps: adopted %d and %d paths of 5", steps, first.Paths, second.Paths)
			}
			if s := indextest.Sees(t, repo, entries...); s.Foreign() || !s.Config().CompatIndex.On || len(s.Config().PublicKeys) != 1 {
				t.Errorf("after %d steps: foreign %v, %+v", steps, s.Foreign(), s.Config())
			}
		}
	})
}

// What could not be looked for is not absent, and neither is everything at
// once.
func TestAdoptUnreadable(t *testing.T) {
	t.Parallel()
	indextest.Fresh(t, func(t *testing.T, next func() registry.Repository) {
		ctx := context.Background()
		for what, size := range map[string]func(v1.Hash) func(v1.Hash) error{
			"an error": func(bad v1.Hash) func(v1.Hash) error {
				return func(d v1.Hash) error {
					if d == bad {
						return indextest.ErrCrash
					}
					return nil
				}
			},
			"a registry that denies all": func(v1.Hash) func(v1.Hash) error {
				return func(v1.Hash) error { return registry.ErrNotFound }
			},
		} {
			repo := indextest.Watch(next())
			entries := theirChain(t, repo, 5)
			indextest.PutForeign(t, repo, indextest.ForeignIndexOf(entries...))
			root := rootDigest(t, repo)
			repo.Size, repo.Written = size(entries[2].NAR.Blob), nil
			s, _, err := index.Open(repo, indextest.Quick()).Adopt(ctx, index.AdoptOptions{})
			if err == nil || errors.Is(err, registry.ErrNotFound) || s != nil {
				t.Errorf("%s: got %v", what, err)
			}
			if rootDigest(t, repo) != root || len(repo.Written) != 0 {
				t.Errorf("%s: wrote %v", what, repo.Written)
			}
		}
	})
}

// What a real collector has taken is left out, with what refers to it; what is
// adopted no collector takes.
func TestAdoptAfterCollection(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	d := registrytest.NewDistribution(t)
	repo, err := registry.Open(d.Addr+"/a/b", registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	there := theirEntry(t, repo, "there")
	user := theirEntry(t, repo, "user", there.Path.Base())
	lost := theirEntry(t, repo, "lost", there.Path.Base())
	needs := theirEntry(t, repo, "needs", lost.Path.Base(), there.Path.Base())
	far := theirEntry(t, repo, "far", needs.Path.Base())
	c, err := format.NewContent([]format.Entry{there, user, needs, far})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.PutBlob(ctx, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	m, err := indextest.NewManifest("", c.Layers, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.PutManifest(ctx, "held", m); err != nil {
		t.Fatal(err)
	}
	indextest.PutForeign(t, repo, indextest.ForeignIndexOf(there, user, lost, needs, far))
	d.Collect(t)
	a := mustAdopt(t, repo, index.AdoptOptions{})
	if a.Paths != 2 || len(a.Lost) != 1 || a.Lost[0].Path != lost.Path || len(a.Incomplete) != 2 {
		t.Errorf("got %+v", a)
	}
	nothing, err := indextest.NewManifest("", nil, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.PutManifest(ctx, "held", nothing); err != nil {
		t.Fatal(err)
	}
	d.Collect(t)
	s := indextest.Sees(t, repo, there, user)
	if s.Len() != 2 {
		t.Errorf("got %d entries", s.Len())
	}
	for _, e := range []format.Entry{there, user} {
		if _, err := registry.ReadBlob(ctx, repo, e.NAR.Blob, e.NAR.BlobSize); err != nil {
			t.Errorf("%s: %v", e.Path.Name, err)
		}
	}
	if _, err := repo.BlobSize(ctx, far.NAR.Blob); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("the collector took nothing: %v", err)
	}
}

// Entries that cannot be used, blobs of another size, and blobs that go while
// we look: what refers to them is left out as well.
func TestAdoptLeavesOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	repo := indextest.Watch(indextest.Open(t, dir))
	good := theirEntry(t, repo, "good")
	unusable := theirEntry(t, repo, "unusable")
	needs := theirEntry(t, repo, "needs", unusable.Path.Base())
	size := theirEntry(t, repo, "size")
	size.NAR.BlobSize, size.NAR.Size = size.NAR.BlobSize+1, size.NAR.Size+1
	goes := theirEntry(t, repo, "goes", good.Path.Base())
	after := theirEntry(t, repo, "after", goes.Path.Base())
	idx := indextest.ForeignIndexOf(good, unusable, needs, size, goes, after)
	entries, _ := idx["entries"].(map[string]any)
	entries[unusable.Path.HashPart] = map[string]any{"narinfo": "no narinfo"}
	indextest.PutForeign(t, repo, idx)
	repo.Before = func(string) {
		_ = os.Remove(filepath.Join(dir, "blobs", "sha256", goes.NAR.Blob.Hex))
	}
	a := mustAdopt(t, repo, index.AdoptOptions{})
	names := func(entries []format.Entry) []string {
		var names []string
		for _, e := range entries {
			names = append(names, e.Path.Name)
		}
		slices.Sort(names)
		return names
	}
	if a.Paths != 1 || !slices.Equal(names(a.Lost), []string{"goes", "size"}) || !slices.Equal(names(a.Incomplete), []string{"after", "needs"}) {
		t.Errorf("got %d paths, lost %v, incomplete %v", a.Paths, names(a.Lost), names(a.Incomplete))
	}
	if s := indextest.Sees(t, repo, good); s.Len() != 1 || s.Foreign() {
		t.Errorf("got %d entries", s.Len())
	}
}

// An index that is none is left alone, and so is one for another store.
func TestAdoptRefuses(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for what, idx := range map[string]func(registry.Repository) map[string]any{
		"no index": func(registry.Repository) map[string]any { return map[string]any{"version": 2} },
		"other store": func(repo registry.Repository) map[string]any {
			e := theirEntry(t, repo, "theirs")
			e.Path.Dir = "/other/store"
			return indextest.ForeignIndexOf(e)
		},
	} {
		repo := indextest.Open(t, t.TempDir())
		ours := indextest.NewEntry(t, repo, "ours")
		indextest.MustPublish(t, repo, ours)
		indextest.PutForeign(t, repo, idx(repo))
		root := rootDigest(t, repo)
		if _, _, err := index.Open(repo, indextest.Quick()).Adopt(ctx, index.AdoptOptions{}); !errors.Is(err, format.ErrForeign) {
			t.Errorf("%s: got %v, want ErrForeign", what, err)
		}
		if rootDigest(t, repo) != root {
			t.Errorf("%s: the root was changed", what)
		}
	}
}

// Where nixcache-oci has overwritten our root, what it added is adopted, and
// nothing else.
func TestAdoptRepairs(t *testing.T) {
	t.Parallel()
	indextest.Fresh(t, func(t *testing.T, next func() registry.Repository) {
		repo := next()
		ours, pruned := indextest.NewEntry(t, repo, "ours"), indextest.NewEntry(t, repo, "pruned")
		indextest.MustPublish(t, repo, ours, pruned)
		published := indextest.Sees(t, repo)
		known, _ := published.Lookup(ours.Path.HashPart)
		theirs := theirEntry(t, repo, "theirs", ours.Path.Base())
		indextest.PutForeign(t, repo, indextest.ForeignIndexOf(known, theirs))
		if a := mustAdopt(t, repo, index.AdoptOptions{}); a.Paths != 1 || len(a.Segments) != 1 {
			t.Errorf("got %+v", a)
		}
		s := indextest.Sees(t, repo, known, pruned, theirs)
		if e, _ := s.Lookup(theirs.Path.HashPart); time.Since(e.Added) > time.Hour {
			t.Errorf("what was taken over is old already, and would be collected: %s", e.Added)
		}
		if s.Len() != 3 || s.Config().CompatIndex.On {
			t.Errorf("got %d entries, %+v", s.Len(), s.Config())
		}
		// its publisher has sent one again: soon, and long after
		again := known
		again.Added = known.Added.Add(format.PinAfter - time.Second)
		indextest.PutForeign(t, repo, indextest.ForeignIndexOf(again, theirs))
		if a := mustAdopt(t, repo, index.AdoptOptions{}); a.Paths != 0 {
			t.Errorf("sent again soon: got %+v", a)
		}
		again.Added = known.Added.Add(format.PinAfter)
		indextest.PutForeign(t, repo, indextest.ForeignIndexOf(again, theirs))
		if a := mustAdopt(t, repo, index.AdoptOptions{}); a.Paths != 1 {
			t.Errorf("sent again: got %+v", a)
		}
		indextest.Sees(t, repo, again, pruned, theirs)
	})
}

// A path that a collection has removed does not come back by an old copy of
// the index.
func TestAdoptNotWhatWasRemoved(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	repo := indextest.Open(t, t.TempDir())
	old := theirEntry(t, repo, "old")
	needs := theirEntry(t, repo, "needs", old.Path.Base())
	needs.Added = time.Now()
	ours := indextest.NewEntry(t, repo, "ours")
	c := index.Open(repo, indextest.Quick())
	base, err := c.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, index.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	content, err := format.NewContent([]format.Entry{ours})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Put(ctx, format.Header{Removed: []format.Removal{{HashPart: old.Path.HashPart, Added: old.Added.Unix()}}}, content); err != nil {
		t.Fatal(err)
	}
	indextest.PutForeign(t, repo, indextest.ForeignIndexOf(old, needs))
	if a := mustAdopt(t, repo, index.AdoptOptions{}); a.Paths != 0 || len(a.Incomplete) != 1 {
		t.Errorf("got %+v", a)
	}
	if s := indextest.Sees(t, repo, ours); s.Len() != 1 {
		t.Errorf("got %d entries", s.Len())
	}
}

// nixcache-oci writes the root while we publish: before our first segment,
// between our reading of the root and our writing, and right after it.
func TestAdoptInMidPublish(t *testing.T) {
	t.Parallel()
	indextest.Fresh(t, func(t *testing.T, next func() registry.Repository) {
		for what, hook := range map[string]func(w *indextest.Watched, write func()){
			"before a segment": func(w *indextest.Watched, write func()) {
				w.Before = func(tag string) {
					if tag != format.RootTag {
						write()
					}
				}
			},
			"before the root": func(w *indextest.Watched, write func()) {
				w.After = func(tag string) {
					if tag != format.RootTag {
						w.Mu.Lock()
						w.BlobPut = write // the segment list, after the root was read
						w.Mu.Unlock()
					}
				}
			},
			"after the root": func(w *indextest.Watched, write func()) {
				w.After = func(tag string) {
					if tag == format.RootTag {
						write()
					}
				}
			},
		} {
			t.Run(what, func(t *testing.T) {
				inner := next()
				first := theirEntry(t, inner, "first")
				indextest.PutForeign(t, inner, indextest.ForeignIndexOf(first))
				mustAdopt(t, inner, index.AdoptOptions{})
				second, third := theirEntry(t, inner, "second"), theirEntry(t, inner, "third")
				repo := indextest.Watch(inner)
				left := [][]format.Entry{{first, second}, {first, second, third}}
				hook(repo, func() {
					if len(left) > 0 {
						idx := indextest.ForeignIndexOf(left[0]...)
						left = left[1:]
						indextest.PutForeign(t, inner, idx)
					}
				})
				ours := indextest.NewEntry(t, inner, "ours")
				r, err := indextest.Publish(t, repo, index.WriterOptions{}, ours)
				if err != nil || r.Committed != 1 {
					t.Fatalf("got %+v, %v", r, err)
				}
				want := []format.Entry{first, ours, second, third}[:4-len(left)]
				if r.Adopted.Paths != len(want)-2 {
					t.Errorf("adopted %d paths, want %d", r.Adopted.Paths, len(want)-2)
				}
				if s := indextest.Sees(t, inner, want...); s.Foreign() || s.Len() != len(want) {
					t.Errorf("foreign %v, got %d entries, want %d", s.Foreign(), s.Len(), len(want))
				}
			})
		}
	})
}

// Several writers that take over at once lose nothing, and neither does what
// is published at the same time.
func TestAdoptAtOnce(t *testing.T) {
	t.Parallel()
	indextest.Fresh(t, func(t *testing.T, next func() registry.Repository) {
		repo := next()
		entries := theirChain(t, repo, 5)
		indextest.PutForeign(t, repo, indextest.ForeignIndexOf(entries...))
		all := entries
		var wg sync.WaitGroup
		for i := range 4 {
			own := indextest.NewEntry(t, repo, fmt.Sprint("own", i))
			all = append(all, own)
			wg.Go(func() {
				c := index.Open(repo, indextest.Quick())
				base, _, err := c.Adopt(context.Background(), index.AdoptOptions{SegmentLayers: 2})
				if err != nil {
					t.Error(err)
					return
				}
				w, err := c.NewWriter(base, index.WriterOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				if err := w.Add(context.Background(), own); err != nil {
					t.Error(err)
				}
				if r, err := w.Close(context.Background(), nil); err != nil || r.Committed != 1 {
					t.Errorf("got %+v, %v", r, err)
				}
			})
		}
		wg.Wait()
		// the root may lack one: nobody looks again after the last
		s, err := index.Open(repo, indextest.Quick()).Sweep(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		indextest.Has(t, s, all...)
		if s.Foreign() || s.Len() != 9 {
			t.Errorf("foreign %v, got %d entries", s.Foreign(), s.Len())
		}
	})
}
