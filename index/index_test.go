package index

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/registry"
)

func TestPublishAndRead(t *testing.T) {
	backends(t, func(t *testing.T, open func() registry.Repository) {
		ctx := context.Background()
		repo := open()
		empty, err := Open(repo, quick()).Refresh(ctx)
		if err != nil || empty.Len() != 0 || empty.Digest() != "" {
			t.Fatalf("empty cache: got %d entries, %v", empty.Len(), err)
		}
		a := newEntry(t, repo, "a")
		b := newEntry(t, repo, "b", a.Path.Base())
		b.Signatures = []string{"k-1:" + strings.Repeat("A", 86) + "=="}
		b.Deriver, b.CA = a.Path.Base(), "fixed:r:sha256:abc"
		mustPublish(t, repo, b, a)

		reader := Open(open(), quick())
		s, err := reader.Refresh(ctx)
		if err != nil {
			t.Fatal(err)
		}
		has(t, s, a, b)
		if s, err = reader.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		has(t, s, a, b)
		for what, read := range map[string]func(context.Context) (*Snapshot, error){"root": reader.Refresh, "tags": reader.Sweep} {
			if again, err := read(ctx); err != nil || again != s {
				t.Errorf("unchanged %s: got a new snapshot, %v", what, err)
			}
		}
		if e, ok := s.LookupNAR(strings.TrimPrefix(a.FileHash, "sha256:")); !ok || e.Path != a.Path {
			t.Errorf("by file hash: got %v, %v", e.Path, ok)
		}
		if e, ok := s.LookupNARHash(b.NarHash); !ok || e.Path != b.Path {
			t.Errorf("by NAR hash: got %v, %v", e.Path, ok)
		}

		c := newEntry(t, repo, "c", b.Path.Base())
		mustPublish(t, repo, c)
		if s, err = reader.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		has(t, s, a, b, c)
		if s.Len() != 3 || len(s.Segments()) != 2 {
			t.Errorf("got %d entries in %d segments", s.Len(), len(s.Segments()))
		}
	})
}

func TestIncompleteEntriesStayInvisible(t *testing.T) {
	backends(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		a := newEntry(t, repo, "a", "00000000000000000000000000000000-on-upstream")
		b := newEntry(t, repo, "b", "11111111111111111111111111111111-nowhere")
		c := newEntry(t, repo, "c", a.Path.Base(), b.Path.Base())
		self := newEntry(t, repo, "self")
		self.References = []string{self.Path.Base()}
		up := func(h string) bool { return h[0] == '0' }
		r, err := publish(t, repo, WriterOptions{OnUpstream: up}, c, b, a, self)
		if err != nil || r.Committed != 2 || len(r.Incomplete) != 2 {
			t.Fatalf("got %+v, %v; want a and self committed, b and c incomplete", r, err)
		}
		s, err := Open(repo, quick()).Refresh(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		has(t, s, a, self)
		if s.Len() != 2 {
			t.Errorf("got %d entries, want 2", s.Len())
		}
	})
}

// Eight writers at once: the root is fought over, and every segment is in it
// afterwards, or found by a sweep.
func TestConcurrentWritersLoseNothing(t *testing.T) {
	backends(t, func(t *testing.T, open func() registry.Repository) {
		const writers, rounds = 8, 3
		var all []Entry
		perWriter := make([][]Entry, writers)
		repo := open()
		for w := range perWriter {
			for i := range rounds {
				e := newEntry(t, repo, fmt.Sprintf("w%d-%d", w, i))
				perWriter[w] = append(perWriter[w], e)
				all = append(all, e)
			}
		}
		var wg sync.WaitGroup
		for _, mine := range perWriter {
			wg.Go(func() {
				repo := open()
				for _, e := range mine {
					if r, err := publish(t, repo, WriterOptions{}, e); err != nil || r.Committed != 1 {
						t.Errorf("got %+v, %v", r, err)
					}
				}
			})
		}
		wg.Wait()
		s, err := Open(open(), quick()).Refresh(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		has(t, s, all...)
	})
}

// A publication speaks of what clients can get, and of nothing else.
func TestPublicationNamesVisibleRoots(t *testing.T) {
	ctx := context.Background()
	repo, err := registry.Open("oci:"+t.TempDir(), registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	old := newEntry(t, repo, "old")
	mustPublish(t, repo, old)
	a := newEntry(t, repo, "a")
	b := newEntry(t, repo, "b", "11111111111111111111111111111111-nowhere")
	cache := Open(repo, quick())
	base, err := cache.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := cache.NewWriter(base, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pub := Publication{Time: time.Now(), Flake: "."}
	for _, e := range []Entry{a, b} {
		if err := w.Add(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range []Entry{a, b, old} {
		pub.Roots = append(pub.Roots, Root{Attr: e.Path.Name, Path: e.Path.Base()})
	}
	if _, err := w.Close(ctx, &pub); err != nil {
		t.Fatal(err)
	}
	s, err := Open(repo, quick()).Refresh(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := []Root{pub.Roots[0], pub.Roots[2]}
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
	pub := func(age float64, root, pin string) Publication {
		return pinned(from("refs/heads/main", age, root), pin, 1)
	}
	snapshot := func(unpinned []Unpin, pubs ...Publication) *Snapshot {
		return SnapshotOf(&segment{header: Header{Publications: pubs}}, &segment{header: Header{Unpinned: unpinned}})
	}
	elsewhere := from("refs/heads/x", 0, "b")
	for _, tc := range []struct {
		name string
		s    *Snapshot
		p    Publication
		want bool
	}{
		{"nothing", snapshot(nil), pub(0, "a", ""), false},
		{"the same", snapshot(nil, pub(0.5, "a", ""), elsewhere), pub(0, "a", ""), true},
		{"too old", snapshot(nil, pub(2, "a", "")), pub(0, "a", ""), false},
		{"another pin", snapshot(nil, pub(0.5, "a", "x")), pub(0, "a", "y"), false},
		{"something newer", snapshot(nil, pub(0.2, "b", ""), pub(0.5, "a", "")), pub(0, "a", ""), false},
		{"pinned", snapshot([]Unpin{{"x", daysAgo(0.6)}, {"y", noon}}, pub(0.5, "a", "x")), pub(0, "a", "x"), true},
		{"unpinned", snapshot([]Unpin{{"x", daysAgo(0.4)}}, pub(0.5, "a", "x")), pub(0, "a", "x"), false},
	} {
		if got := tc.s.Published(tc.p, daysAgo(1)); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestCommitsOnTheWay(t *testing.T) {
	repo, err := registry.Open("oci:"+t.TempDir(), registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	var entries []Entry
	prev := []string{}
	for i := range 25 {
		e := newEntry(t, repo, fmt.Sprintf("p%d", i), prev...)
		prev = []string{e.Path.Base()}
		entries = append(entries, e)
	}
	var sizes []int
	o := WriterOptions{CommitEvery: 10, SegmentLayers: 4, Committed: func(_ string, n int) { sizes = append(sizes, n) }}
	slices.Reverse(entries[10:20]) // uploads finish in any order
	if r, err := publish(t, repo, o, entries...); err != nil || r.Committed != 25 {
		t.Fatalf("got %+v, %v", r, err)
	}
	// 10, 10 and 5 entries, at most four blobs a segment, one of them with listings
	if want := []int{3, 3, 3, 1, 3, 3, 3, 1, 3, 2}; !slices.Equal(sizes, want) {
		t.Errorf("got segments of %v, want %v", sizes, want)
	}
	s, err := Open(repo, quick()).Refresh(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	has(t, s, entries...)
}

func TestConfigSurvivesALostRoot(t *testing.T) {
	ctx := context.Background()
	repo, err := registry.Open("oci:"+t.TempDir(), registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	key := func(n string) string { return n + ":" + strings.Repeat("A", 43) + "=" }
	for _, n := range []string{"one-1", "two-1"} {
		if _, err := publish(t, repo, WriterOptions{Config: Config{PublicKeys: []string{key(n)}}}, newEntry(t, repo, n)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(repo, quick()).Refresh(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Config().PublicKeys; !slices.Equal(got, []string{key("one-1"), key("two-1")}) {
		t.Errorf("got %v", got)
	}
	if _, err := publish(t, repo, WriterOptions{Config: Config{StoreDir: "/other/store"}}, newEntry(t, repo, "x")); err == nil {
		t.Error("another store directory was accepted")
	}
}
