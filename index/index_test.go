package index_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
)

func TestPublishAndRead(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		ctx := context.Background()
		repo := open()
		empty, err := index.Open(repo, indextest.Quick()).Refresh(ctx)
		if err != nil || empty.Len() != 0 || empty.Digest() != "" {
			t.Fatalf("empty cache: got %d entries, %v", empty.Len(), err)
		}
		a := indextest.NewEntry(t, repo, "a")
		b := indextest.NewEntry(t, repo, "b", a.Path.Base())
		b.Signatures = []string{"k-1:" + strings.Repeat("A", 86) + "=="}
		b.Deriver, b.CA = a.Path.Base(), "fixed:r:sha256:"+strings.Repeat("0", 52)
		indextest.MustPublish(t, repo, b, a)

		reader := index.Open(open(), indextest.Quick())
		s, err := reader.Refresh(ctx)
		if err != nil {
			t.Fatal(err)
		}
		indextest.Has(t, s, a, b)
		if s, err = reader.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		indextest.Has(t, s, a, b)
		for what, read := range map[string]func(context.Context) (*index.Snapshot, error){"root": reader.Refresh, "tags": reader.Sweep} {
			if again, err := read(ctx); err != nil || again != s {
				t.Errorf("unchanged %s: got a new snapshot, %v", what, err)
			}
		}
		if e, ok := s.LookupNAR(bincache.HashDigits(a.FileHash)); !ok || e.Path != a.Path {
			t.Errorf("by file hash: got %v, %v", e.Path, ok)
		}
		if e, ok := s.LookupNARHash(b.NarHash); !ok || e.Path != b.Path {
			t.Errorf("by NAR hash: got %v, %v", e.Path, ok)
		}

		c := indextest.NewEntry(t, repo, "c", b.Path.Base())
		indextest.MustPublish(t, repo, c)
		if s, err = reader.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		indextest.Has(t, s, a, b, c)
		if s.Len() != 3 || len(s.Segments()) != 2 {
			t.Errorf("got %d entries in %d segments", s.Len(), len(s.Segments()))
		}
	})
}

func TestIncompleteEntriesStayInvisible(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		a := indextest.NewEntry(t, repo, "a", "00000000000000000000000000000000-on-upstream")
		b := indextest.NewEntry(t, repo, "b", "11111111111111111111111111111111-nowhere")
		c := indextest.NewEntry(t, repo, "c", a.Path.Base(), b.Path.Base())
		self := indextest.NewEntry(t, repo, "self")
		self.References = []string{self.Path.Base()}
		up := func(h string) bool { return h[0] == '0' }
		r, err := indextest.Publish(t, repo, index.WriterOptions{OnUpstream: up}, c, b, a, self)
		if err != nil || r.Committed != 2 || len(r.Incomplete) != 2 {
			t.Fatalf("got %+v, %v; want a and self committed, b and c incomplete", r, err)
		}
		s, err := index.Open(repo, indextest.Quick()).Refresh(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		indextest.Has(t, s, a, self)
		if s.Len() != 2 {
			t.Errorf("got %d entries, want 2", s.Len())
		}
	})
}

// Eight writers at once: the root is fought over, and every segment is in it
// afterwards, or found by a sweep.
func TestConcurrentWritersLoseNothing(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		const writers, rounds = 8, 3
		var all []format.Entry
		perWriter := make([][]format.Entry, writers)
		repo := open()
		for w := range perWriter {
			for i := range rounds {
				e := indextest.NewEntry(t, repo, fmt.Sprintf("w%d-%d", w, i))
				perWriter[w] = append(perWriter[w], e)
				all = append(all, e)
			}
		}
		var wg sync.WaitGroup
		for _, mine := range perWriter {
			wg.Go(func() {
				repo := open()
				for _, e := range mine {
					if r, err := indextest.Publish(t, repo, index.WriterOptions{}, e); err != nil || r.Committed != 1 {
						t.Errorf("got %+v, %v", r, err)
					}
				}
			})
		}
		wg.Wait()
		indextest.Has(t, indextest.Sweep(t, repo), all...)
		// one that had read an older root may have written it last: the next writer,
		// who looks at the tags, repairs that
		last := indextest.NewEntry(t, repo, "last")
		indextest.MustPublish(t, repo, last)
		s, err := index.Open(open(), indextest.Quick()).Refresh(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		indextest.Has(t, s, append(all, last)...)
	})
}

// A publication speaks of what clients can get, and of nothing else.
func TestPublicationNamesVisibleRoots(t *testing.T) {
	ctx := context.Background()
	repo, err := registry.Open("oci:"+t.TempDir(), registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	old := indextest.NewEntry(t, repo, "old")
	indextest.MustPublish(t, repo, old)
	a := indextest.NewEntry(t, repo, "a")
	b := indextest.NewEntry(t, repo, "b", "11111111111111111111111111111111-nowhere")
	cache := index.Open(repo, indextest.Quick())
	base, err := cache.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := cache.NewWriter(base, index.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pub := format.Publication{Time: time.Now(), Flake: "."}
	for _, e := range []format.Entry{a, b} {
		if err := w.Add(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range []format.Entry{a, b, old} {
		pub.Roots = append(pub.Roots, format.Root{Attr: e.Path.Name, Path: e.Path.Base()})
	}
	if _, err := w.Close(ctx, &pub); err != nil {
		t.Fatal(err)
	}
	s, err := index.Open(repo, indextest.Quick()).Refresh(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := []format.Root{pub.Roots[0], pub.Roots[2]}
	if got := s.Publications(); len(got) != 1 || !slices.Equal(got[0].Roots, want) {
		t.Fatalf("got %+v, want the roots %v", got, want)
	}
	pub.Roots = want
	if !s.Published(pub, time.Now().Add(-time.Hour)) || s.Published(pub, time.Now().Add(time.Hour)) {
		t.Error("Published does not find it, or finds it too young")
	}
}

// A publication is recorded again where it is no longer the newest of its line
// or has lost its pin.
func TestPublished(t *testing.T) {
	t.Parallel()
	pub := func(age float64, root, pin string) format.Publication {
		return indextest.Pinned(indextest.From("refs/heads/main", age, root), pin, 1)
	}
	snapshot := func(unpinned []format.Unpin, pubs ...format.Publication) *index.Snapshot {
		return index.SnapshotOf(&format.Segment{Header: format.Header{Publications: pubs}}, &format.Segment{Header: format.Header{Unpinned: unpinned}})
	}
	elsewhere := indextest.From("refs/heads/x", 0, "b")
	for _, tc := range []struct {
		name string
		s    *index.Snapshot
		p    format.Publication
		want bool
	}{
		{"nothing", snapshot(nil), pub(0, "a", ""), false},
		{"the same", snapshot(nil, pub(0.5, "a", ""), elsewhere), pub(0, "a", ""), true},
		{"too old", snapshot(nil, pub(2, "a", "")), pub(0, "a", ""), false},
		{"another pin", snapshot(nil, pub(0.5, "a", "x")), pub(0, "a", "y"), false},
		{"something newer", snapshot(nil, pub(0.2, "b", ""), pub(0.5, "a", "")), pub(0, "a", ""), false},
		{"pinned", snapshot([]format.Unpin{{Name: "x", Time: indextest.DaysAgo(0.6)}, {Name: "y", Time: indextest.Noon}}, pub(0.5, "a", "x")), pub(0, "a", "x"), true},
		{"unpinned", snapshot([]format.Unpin{{Name: "x", Time: indextest.DaysAgo(0.4)}}, pub(0.5, "a", "x")), pub(0, "a", "x"), false},
	} {
		if got := tc.s.Published(tc.p, indextest.DaysAgo(1)); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestCommitsOnTheWay(t *testing.T) {
	repo, err := registry.Open("oci:"+t.TempDir(), registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	var entries []format.Entry
	prev := []string{}
	for i := range 25 {
		e := indextest.NewEntry(t, repo, fmt.Sprintf("p%d", i), prev...)
		prev = []string{e.Path.Base()}
		entries = append(entries, e)
	}
	var sizes []int
	o := index.WriterOptions{CommitEvery: 10, SegmentLayers: 4, Committed: func(_ string, n int) { sizes = append(sizes, n) }}
	slices.Reverse(entries[10:20]) // uploads finish in any order
	if r, err := indextest.Publish(t, repo, o, entries...); err != nil || r.Committed != 25 {
		t.Fatalf("got %+v, %v", r, err)
	}
	// 10, 10 and 5 entries, at most four blobs a segment, one of them with listings
	if want := []int{3, 3, 3, 1, 3, 3, 3, 1, 3, 2}; !slices.Equal(sizes, want) {
		t.Errorf("got segments of %v, want %v", sizes, want)
	}
	s, err := index.Open(repo, indextest.Quick()).Refresh(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	indextest.Has(t, s, entries...)
}

func TestConfigSurvivesALostRoot(t *testing.T) {
	ctx := context.Background()
	repo, err := registry.Open("oci:"+t.TempDir(), registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	key := func(n string) string { return n + ":" + strings.Repeat("A", 43) + "=" }
	for _, n := range []string{"one-1", "two-1"} {
		if _, err := indextest.Publish(t, repo, index.WriterOptions{Config: format.Config{PublicKeys: []string{key(n)}}}, indextest.NewEntry(t, repo, n)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := index.Open(repo, indextest.Quick()).Refresh(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Config().PublicKeys; !slices.Equal(got, []string{key("one-1"), key("two-1")}) {
		t.Errorf("got %v", got)
	}
	if _, err := indextest.Publish(t, repo, index.WriterOptions{Config: format.Config{StoreDir: "/other/store"}}, indextest.NewEntry(t, repo, "x")); err == nil {
		t.Error("another store directory was accepted")
	}
}
