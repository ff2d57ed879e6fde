package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

// storage is a cache on this machine's disk.
type storage struct {
	cache, dir string
	// free runs the registry's own collector, if there is one; it may take
	// untagged manifests as well.
	free func(tb testing.TB, untagged bool)
}

func newDirectory(t *testing.T) storage {
	dir := filepath.Join(t.TempDir(), "cache")
	return storage{"oci:" + dir, dir, func(testing.TB, bool) {}}
}

func newDistribution(t *testing.T) storage {
	d := registrytest.NewDistribution(t)
	return storage{d.Addr + "/a/b", d.Dir, func(tb testing.TB, untagged bool) { d.CollectBeside(tb, untagged) }}
}

// storages are the places whose bytes can be counted.
func storages(t *testing.T, f func(t *testing.T, create func(*testing.T) storage)) {
	t.Run("oci", func(t *testing.T) { t.Parallel(); f(t, newDirectory) })
	t.Run("distribution", func(t *testing.T) { t.Parallel(); f(t, newDistribution) })
}

// in is the same world in a subtest.
func (w *world) in(t *testing.T) *world {
	return &world{T: t, Env: w.Env, keyFile: w.keyFile, publicKey: w.publicKey}
}

// sweep reads a cache's index as it is now.
func sweep(tb testing.TB, cache string) *index.Snapshot {
	tb.Helper()
	repo, err := registry.Open(cache, registry.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	s, err := index.Open(repo, index.Options{}).Sweep(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// waste is the number of bytes in packs that no path needs. A collection leaves
// a pack alone while it is at least half of use.
func waste(tb testing.TB, s *index.Snapshot) int64 {
	tb.Helper()
	used, sizes, seen := map[v1.Hash]int64{}, map[v1.Hash]int64{}, map[format.Location]bool{}
	for e := range s.All {
		if !seen[e.NAR] {
			seen[e.NAR] = true
			used[e.NAR.Blob] += e.NAR.Size
			sizes[e.NAR.Blob] = e.NAR.BlobSize
		}
	}
	total := int64(0)
	for blob, size := range sizes {
		if 2*used[blob] < size {
			tb.Errorf("of %d bytes in %s only %d are needed", size, blob, used[blob])
		}
		total += size - used[blob]
	}
	return total
}

// bases are the sorted base names of all paths in a cache.
func bases(s *index.Snapshot) []string {
	var all []string
	for e := range s.All {
		all = append(all, e.Path.Base())
	}
	slices.Sort(all)
	return all
}

// corpus is what is published first, in groups, and what then takes its place.
type corpus struct {
	groups                   [][]string
	old, current, added, all []string
}

// newCorpus makes groups of small and of large paths. Each group is published by
// itself and so has a pack of its own, of which another part is current. All
// names have the same letters, so each publication takes the place of the one
// before.
func newCorpus(w *world) *corpus {
	seed := rand.Uint64()
	w.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const small, large = 12, 2
	var c corpus
	for g, keep := range []int{0, 2, 5, 8, small} {
		var contents []string
		for range small {
			contents = append(contents, noise(random, 20_000+random.IntN(80_000)))
		}
		for range large {
			contents = append(contents, noise(random, 1_600_000))
		}
		paths := w.add(fmt.Sprintf("x-%d", g), contents...)
		keepLarge := g / 2
		c.groups = append(c.groups, paths)
		c.current = append(append(c.current, paths[:keep]...), paths[small:small+keepLarge]...)
		c.old = append(append(c.old, paths[keep:small]...), paths[small+keepLarge:]...)
	}
	c.added = w.add("x-9", noise(random, 1_600_000), noise(random, 10_000), noise(random, 30_000))
	c.current = append(c.current, c.added...)
	c.all = slices.Concat(c.old, c.current)
	return &c
}

// publish publishes the groups, then what is current.
func (c *corpus) publish(w *world, cache string) {
	w.Helper()
	for _, g := range c.groups {
		w.publish(cache, g...)
	}
	if r := w.publish(cache, c.current...); r.Uploaded.Paths != len(c.added) {
		w.Fatalf("got %d uploads, want %d", r.Uploaded.Paths, len(c.added))
	}
}

// What is collected is free afterwards: the storage takes no more than if what
// is left were published into an empty one. What was removed can be published
// again.
func TestStorageIsFreed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	corpus := newCorpus(w)
	old, current := corpus.old, corpus.current
	storages(t, func(t *testing.T, create func(*testing.T) storage) {
		w := w.in(t)
		s := create(t)
		corpus.publish(w, s.cache)
		before := registrytest.FolderSize(t, s.dir)
		c := w.gc(s.cache, atOnce...)
		if c.code != 0 || c.Result.Removed.Paths != len(old) || c.Result.Kept.Paths != len(current) || c.Result.Waiting != 0 {
			t.Fatalf("got %d, %+v\n%s", c.code, c.Result, c.stderr)
		}
		fresh := create(t)
		w.publish(fresh.cache, current...)
		want, unused := registrytest.FolderSize(t, fresh.dir), waste(t, sweep(t, s.cache))
		for _, untagged := range []bool{false, true} {
			s.free(t, untagged)
			got := registrytest.FolderSize(t, s.dir)
			t.Logf("untagged too: %t; before: %d bytes, after: %d, of which %d unused in packs; published afresh: %d, ratio %.3f, without what is unused %.4f",
				untagged, before, got, unused, want, float64(got)/float64(want), float64(got-unused)/float64(want))
			if unused == 0 || got-unused > want+want/20 {
				t.Errorf("%d bytes are left and %d unused in packs, want at most 5%% more than %d", got, unused, want)
			}
		}

		conf := w.proxy(s.cache)
		w.newClient(conf).substitute(current...)
		if r := newReader(conf); r.shown(t, old...) != 0 || r.shown(t, current...) != len(current) {
			t.Errorf("the proxy shows %d paths that were removed, and %d of %d others", r.shown(t, old...), r.shown(t, current...), len(current))
		}
		if r := w.publish(s.cache, corpus.all...); r.Uploaded.Paths != len(old) {
			t.Errorf("published again: got %d uploads, want %d", r.Uploaded.Paths, len(old))
		}
		w.refresh(conf)
		w.newClient(conf).substitute(corpus.all...)
	})
}

// shown counts the paths of which a proxy shows a narinfo.
func (r *reader) shown(tb testing.TB, paths ...string) int {
	tb.Helper()
	n := 0
	for _, p := range paths {
		info, err := r.narinfo(filepath.Base(p))
		if err != nil {
			tb.Fatal(err)
		}
		if info != nil {
			n++
		}
	}
	return n
}

// reader asks a proxy as Nix does. It may be used concurrently.
type reader struct {
	url    string
	client *http.Client
}

// newReader reads from the proxy that printed conf.
func newReader(conf string) *reader {
	line, _, _ := strings.Cut(conf, "\n")
	return &reader{strings.TrimPrefix(line, "extra-substituters = "), &http.Client{Timeout: limit}}
}
