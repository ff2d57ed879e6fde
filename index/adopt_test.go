package index

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

	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

// theirEntry is an entry as nixcache-oci makes them: old, and with xz.
func theirEntry(t *testing.T, repo registry.Repository, name string, refs ...string) Entry {
	t.Helper()
	e := newEntry(t, repo, name, refs...)
	e.Compression, e.Added = CompressionXZ, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return e
}

// theirChain is n entries, each of which refers to the one before.
func theirChain(t *testing.T, repo registry.Repository, n int) []Entry {
	t.Helper()
	var all []Entry
	refs := []string{"00000000000000000000000000000000-on-upstream"}
	for i := range n {
		e := theirEntry(t, repo, fmt.Sprint("chain", i), refs...)
		refs = []string{e.Path.Base()}
		all = append(all, e)
	}
	return all
}

func mustAdopt(t *testing.T, repo registry.Repository, o AdoptOptions) Adopted {
	t.Helper()
	s, a, err := Open(repo, quick()).Adopt(context.Background(), o)
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
	d, err := repo.Resolve(context.Background(), RootTag)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Every path of nixcache-oci's is ours afterwards, as it was, and no NAR is
// sent.
func TestAdopt(t *testing.T) {
	t.Parallel()
	fresh(t, func(t *testing.T, next func() registry.Repository) {
		repo := watch(next())
		entries := theirChain(t, repo, 5)
		putForeign(t, repo, foreignIndexOf(entries...))
		nars := map[v1.Hash]bool{}
		for _, e := range entries {
			nars[e.NAR.Blob] = true
		}
		repo.put, repo.tags = map[v1.Hash]int{}, nil
		progress := 0
		a := mustAdopt(t, repo, AdoptOptions{SegmentLayers: 2, Progress: func(checked, total int) {
			if progress++; checked != progress || total != 5 {
				t.Errorf("progress: got %d of %d after %d", checked, total, progress)
			}
		}})
		if a.Paths != 5 || a.NarSize != 5*120 || len(a.Segments) != 3 || len(a.Lost)+len(a.Incomplete) != 0 || progress != 5 {
			t.Errorf("got %+v, progress %d", a, progress)
		}
		for d := range repo.put {
			if nars[d] {
				t.Error("a NAR was sent")
			}
		}
		// 5 NARs looked for, 3 segments and a root written
		if repo.asked != 5 || len(repo.tags) != 4 || repo.tags[3] != RootTag {
			t.Errorf("asked for %d blobs, wrote %v", repo.asked, repo.tags)
		}
		s := sees(t, repo, entries...)
		if s.Foreign() || s.Len() != 5 || !slices.Equal(s.Config().PublicKeys, []string{foreignKey}) || !s.Config().CompatIndex.On {
			t.Errorf("foreign %v, %d entries, %+v", s.Foreign(), s.Len(), s.Config())
		}
		// each segment is closed with those before it
		before := map[string]bool{}
		for _, seg := range s.Loaded() {
			for i := range seg.Len() {
				e, _ := decodeLine(seg.line(i), "/nix/store")
				before[e.Path.Base()] = true
			}
			for i := range seg.Len() {
				e, _ := decodeLine(seg.line(i), "/nix/store")
				if r := e.References[0]; !before[r] && !strings.HasSuffix(r, "on-upstream") {
					t.Errorf("%s comes before %s", e.Path.Base(), r)
				}
			}
		}
		root := rootDigest(t, repo)
		if a := mustAdopt(t, repo, AdoptOptions{}); a.Paths != 0 || rootDigest(t, repo) != root {
			t.Errorf("once more: got %+v", a)
		}
		more := newEntry(t, repo, "more", entries[4].Path.Base())
		upstream := func(hashPart string) bool { return hashPart[0] == '0' }
		if r, err := publish(t, repo, WriterOptions{OnUpstream: upstream}, append(entries, more)...); err != nil || r.Committed != 6 || r.Adopted.Paths != 0 {
			t.Errorf("publishing: got %+v, %v", r, err)
		}
	})
}

// The cache has a configuration even where it has no path.
func TestAdoptNothing(t *testing.T) {
	t.Parallel()
	gone := theirEntry(t, open(t, t.TempDir()), "gone")
	for _, idx := range []map[string]any{foreignIndexOf(), foreignIndexOf(gone)} {
		repo := open(t, t.TempDir())
		putForeign(t, repo, idx)
		mustAdopt(t, repo, AdoptOptions{})
		loseRoot(t, repo)
		s, err := Open(repo, quick()).Sweep(context.Background())
		if err != nil || s.Len() != 0 || len(s.Config().PublicKeys) != 1 || !s.Config().CompatIndex.On {
			t.Errorf("got %d entries, %+v, %v", s.Len(), s.Config(), err)
		}
	}
}

// loseRoot writes a root of ours that knows nothing.
func loseRoot(t *testing.T, repo registry.Repository) {
	t.Helper()
	if err := Open(repo, quick()).WriteEmptyRoot(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// Wherever an adoption ends, readers see every path, also those that have read
// before, and the next one finishes it without doing anything twice.
func TestAdoptCrashAfterEveryStep(t *testing.T) {
	t.Parallel()
	fresh(t, func(t *testing.T, next func() registry.Repository) {
		ctx := context.Background()
		for steps := 0; ; steps++ {
			if steps > 50 {
				t.Fatal("an adoption takes more than 50 steps")
			}
			repo := next()
			entries := theirChain(t, repo, 5)
			putForeign(t, repo, foreignIndexOf(entries...))
			reader := Open(repo, quick())
			if _, err := reader.Refresh(ctx); err != nil {
				t.Fatal(err)
			}
			crashed := &crashing{Repository: repo, left: steps}
			_, first, err := Open(crashed, quick()).Adopt(ctx, AdoptOptions{SegmentLayers: 2})
			if err != nil && !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
			sees(t, repo, entries...)
			for what, read := range map[string]func(context.Context) (*Snapshot, error){"refresh": reader.Refresh, "sweep": reader.Sweep} {
				s, err := read(ctx)
				if err != nil {
					t.Fatalf("after %d steps, %s: %v", steps, what, err)
				}
				has(t, s, entries...)
			}
			if err == nil {
				break
			}
			second := mustAdopt(t, repo, AdoptOptions{SegmentLayers: 2})
			if first.Paths+second.Paths != 5 {
				t.Errorf("after %d steps: adopted %d and %d paths of 5", steps, first.Paths, second.Paths)
			}
			if s := sees(t, repo, entries...); s.Foreign() || !s.Config().CompatIndex.On || len(s.Config().PublicKeys) != 1 {
				t.Errorf("after %d steps: foreign %v, %+v", steps, s.Foreign(), s.Config())
			}
		}
	})
}

// What could not be looked for is not absent, and neither is everything at
// once.
func TestAdoptUnreadable(t *testing.T) {
	t.Parallel()
	fresh(t, func(t *testing.T, next func() registry.Repository) {
		ctx := context.Background()
		for what, size := range map[string]func(v1.Hash) func(v1.Hash) error{
			"an error": func(bad v1.Hash) func(v1.Hash) error {
				return func(d v1.Hash) error {
					if d == bad {
						return errCrash
					}
					return nil
				}
			},
			"a registry that denies all": func(v1.Hash) func(v1.Hash) error {
				return func(v1.Hash) error { return registry.ErrNotFound }
			},
		} {
			repo := watch(next())
			entries := theirChain(t, repo, 5)
			putForeign(t, repo, foreignIndexOf(entries...))
			root := rootDigest(t, repo)
			repo.size, repo.tags = size(entries[2].NAR.Blob), nil
			s, _, err := Open(repo, quick()).Adopt(ctx, AdoptOptions{})
			if err == nil || errors.Is(err, registry.ErrNotFound) || s != nil {
				t.Errorf("%s: got %v", what, err)
			}
			if rootDigest(t, repo) != root || len(repo.tags) != 0 {
				t.Errorf("%s: wrote %v", what, repo.tags)
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
	c, err := newContent([]Entry{there, user, needs, far})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.PutBlob(ctx, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	m, err := newManifest("", c.layers, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.PutManifest(ctx, "held", m); err != nil {
		t.Fatal(err)
	}
	putForeign(t, repo, foreignIndexOf(there, user, lost, needs, far))
	d.Collect(t)
	a := mustAdopt(t, repo, AdoptOptions{})
	if a.Paths != 2 || len(a.Lost) != 1 || a.Lost[0].Path != lost.Path || len(a.Incomplete) != 2 {
		t.Errorf("got %+v", a)
	}
	nothing, err := newManifest("", nil, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.PutManifest(ctx, "held", nothing); err != nil {
		t.Fatal(err)
	}
	d.Collect(t)
	s := sees(t, repo, there, user)
	if s.Len() != 2 {
		t.Errorf("got %d entries", s.Len())
	}
	for _, e := range []Entry{there, user} {
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
	repo := watch(open(t, dir))
	good := theirEntry(t, repo, "good")
	unusable := theirEntry(t, repo, "unusable")
	needs := theirEntry(t, repo, "needs", unusable.Path.Base())
	size := theirEntry(t, repo, "size")
	size.NAR.BlobSize, size.NAR.Size = size.NAR.BlobSize+1, size.NAR.Size+1
	goes := theirEntry(t, repo, "goes", good.Path.Base())
	after := theirEntry(t, repo, "after", goes.Path.Base())
	idx := foreignIndexOf(good, unusable, needs, size, goes, after)
	entries, _ := idx["entries"].(map[string]any)
	entries[unusable.Path.HashPart] = map[string]any{"narinfo": "no narinfo"}
	putForeign(t, repo, idx)
	repo.before = func(string) {
		_ = os.Remove(filepath.Join(dir, "blobs", "sha256", goes.NAR.Blob.Hex))
	}
	a := mustAdopt(t, repo, AdoptOptions{})
	names := func(entries []Entry) []string {
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
	if s := sees(t, repo, good); s.Len() != 1 || s.Foreign() {
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
			return foreignIndexOf(e)
		},
	} {
		repo := open(t, t.TempDir())
		ours := newEntry(t, repo, "ours")
		mustPublish(t, repo, ours)
		putForeign(t, repo, idx(repo))
		root := rootDigest(t, repo)
		if _, _, err := Open(repo, quick()).Adopt(ctx, AdoptOptions{}); !errors.Is(err, ErrForeign) {
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
	fresh(t, func(t *testing.T, next func() registry.Repository) {
		repo := next()
		ours, pruned := newEntry(t, repo, "ours"), newEntry(t, repo, "pruned")
		mustPublish(t, repo, ours, pruned)
		published := sees(t, repo)
		known, _ := published.Lookup(ours.Path.HashPart)
		theirs := theirEntry(t, repo, "theirs", ours.Path.Base())
		putForeign(t, repo, foreignIndexOf(known, theirs))
		if a := mustAdopt(t, repo, AdoptOptions{}); a.Paths != 1 || len(a.Segments) != 1 {
			t.Errorf("got %+v", a)
		}
		s := sees(t, repo, known, pruned, theirs)
		if e, _ := s.Lookup(theirs.Path.HashPart); time.Since(e.Added) > time.Hour {
			t.Errorf("what was taken over is old already, and would be collected: %s", e.Added)
		}
		if s.Len() != 3 || s.Config().CompatIndex.On {
			t.Errorf("got %d entries, %+v", s.Len(), s.Config())
		}
		// its publisher has sent one again: soon, and long after
		again := known
		again.Added = known.Added.Add(PinAfter - time.Second)
		putForeign(t, repo, foreignIndexOf(again, theirs))
		if a := mustAdopt(t, repo, AdoptOptions{}); a.Paths != 0 {
			t.Errorf("sent again soon: got %+v", a)
		}
		again.Added = known.Added.Add(PinAfter)
		putForeign(t, repo, foreignIndexOf(again, theirs))
		if a := mustAdopt(t, repo, AdoptOptions{}); a.Paths != 1 {
			t.Errorf("sent again: got %+v", a)
		}
		sees(t, repo, again, pruned, theirs)
	})
}

// A path that a collection has removed does not come back by an old copy of
// the index.
func TestAdoptNotWhatWasRemoved(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	repo := open(t, t.TempDir())
	old := theirEntry(t, repo, "old")
	needs := theirEntry(t, repo, "needs", old.Path.Base())
	needs.Added = time.Now()
	ours := newEntry(t, repo, "ours")
	c := Open(repo, quick())
	base, err := c.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	content, err := newContent([]Entry{ours})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Put(ctx, Header{Removed: []Removal{{old.Path.HashPart, old.Added.Unix()}}}, content); err != nil {
		t.Fatal(err)
	}
	putForeign(t, repo, foreignIndexOf(old, needs))
	if a := mustAdopt(t, repo, AdoptOptions{}); a.Paths != 0 || len(a.Incomplete) != 1 {
		t.Errorf("got %+v", a)
	}
	if s := sees(t, repo, ours); s.Len() != 1 {
		t.Errorf("got %d entries", s.Len())
	}
}

// nixcache-oci writes the root while we publish: before our first segment,
// between our reading of the root and our writing, and right after it.
func TestAdoptInMidPublish(t *testing.T) {
	t.Parallel()
	fresh(t, func(t *testing.T, next func() registry.Repository) {
		for what, hook := range map[string]func(w *watched, write func()){
			"before a segment": func(w *watched, write func()) {
				w.before = func(tag string) {
					if tag != RootTag {
						write()
					}
				}
			},
			"before the root": func(w *watched, write func()) {
				w.after = func(tag string) {
					if tag != RootTag {
						w.mu.Lock()
						w.blobPut = write // the segment list, after the root was read
						w.mu.Unlock()
					}
				}
			},
			"after the root": func(w *watched, write func()) {
				w.after = func(tag string) {
					if tag == RootTag {
						write()
					}
				}
			},
		} {
			t.Run(what, func(t *testing.T) {
				inner := next()
				first := theirEntry(t, inner, "first")
				putForeign(t, inner, foreignIndexOf(first))
				mustAdopt(t, inner, AdoptOptions{})
				second, third := theirEntry(t, inner, "second"), theirEntry(t, inner, "third")
				repo := watch(inner)
				left := [][]Entry{{first, second}, {first, second, third}}
				hook(repo, func() {
					if len(left) > 0 {
						idx := foreignIndexOf(left[0]...)
						left = left[1:]
						putForeign(t, inner, idx)
					}
				})
				ours := newEntry(t, inner, "ours")
				r, err := publish(t, repo, WriterOptions{}, ours)
				if err != nil || r.Committed != 1 {
					t.Fatalf("got %+v, %v", r, err)
				}
				want := []Entry{first, ours, second, third}[:4-len(left)]
				if r.Adopted.Paths != len(want)-2 {
					t.Errorf("adopted %d paths, want %d", r.Adopted.Paths, len(want)-2)
				}
				if s := sees(t, inner, want...); s.Foreign() || s.Len() != len(want) {
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
	fresh(t, func(t *testing.T, next func() registry.Repository) {
		repo := next()
		entries := theirChain(t, repo, 5)
		putForeign(t, repo, foreignIndexOf(entries...))
		all := entries
		var wg sync.WaitGroup
		for i := range 4 {
			own := newEntry(t, repo, fmt.Sprint("own", i))
			all = append(all, own)
			wg.Go(func() {
				c := Open(repo, quick())
				base, _, err := c.Adopt(context.Background(), AdoptOptions{SegmentLayers: 2})
				if err != nil {
					t.Error(err)
					return
				}
				w, err := c.NewWriter(base, WriterOptions{})
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
		s, err := Open(repo, quick()).Sweep(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		has(t, s, all...)
		if s.Foreign() || s.Len() != 9 {
			t.Errorf("foreign %v, got %d entries", s.Foreign(), s.Len())
		}
	})
}
