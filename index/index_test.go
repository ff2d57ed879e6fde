package index

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/nix-community/go-nix/pkg/nixbase32"

	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
	"github.com/org/nixoci-action/internal/storepath"
)

// backends are the repositories that every test of the protocol runs on.
func backends(t *testing.T, f func(t *testing.T, open func() registry.Repository)) {
	t.Run("oci", func(t *testing.T) { f(t, opener(t, "oci:"+t.TempDir())) })
	t.Run("ggcr", func(t *testing.T) { f(t, opener(t, registrytest.GGCR(t)+"/a/b")) })
	t.Run("distribution", func(t *testing.T) { f(t, opener(t, registrytest.NewDistribution(t).Addr+"/a/b")) })
	t.Run("forge", func(t *testing.T) {
		forge := registrytest.NewForge(t)
		f(t, opener(t, forge.Cache("a/b"), forge))
	})
}

func opener(t *testing.T, cache string, login ...authn.Keychain) func() registry.Repository {
	return func() registry.Repository {
		r, err := registry.Open(cache, registry.Options{Push: true, Keychain: authn.NewMultiKeychain(login...)})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
}

func quick() Options { return Options{Settle: time.Millisecond} }

// newEntry puts a NAR into repo and returns its entry. Paths with the same name
// and references are the same path.
func newEntry(t *testing.T, repo registry.Repository, name string, refs ...string) Entry {
	t.Helper()
	data := []byte("compressed NAR of " + name)
	desc, err := repo.PutBlob(context.Background(), data)
	if err != nil {
		t.Fatal(err)
	}
	return entryFor(name, desc, refs...)
}

func entryFor(name string, desc v1.Descriptor, refs ...string) Entry {
	sum := sha256.Sum256([]byte("path " + name))
	nar := sha256.Sum256([]byte("NAR of " + name))
	file := sha256.Sum256([]byte("compressed NAR of " + name))
	return Entry{
		Path:    storepath.Path{Dir: storepath.DefaultDir, HashPart: nixbase32.EncodeToString(sum[:20]), Name: name},
		NarHash: FileHash(nar[:]), NarSize: 120, References: refs, Compression: CompressionZstd,
		FileHash: FileHash(file[:]),
		NAR:      Location{Blob: desc.Digest, BlobSize: desc.Size, Size: desc.Size},
	}
}

func publish(t *testing.T, repo registry.Repository, o WriterOptions, entries ...Entry) (Result, error) {
	t.Helper()
	ctx := context.Background()
	c := Open(repo, quick())
	base, err := c.Sweep(ctx)
	if err != nil {
		return Result{}, err
	}
	w, err := c.NewWriter(base, o)
	if err != nil {
		return Result{}, err
	}
	for _, e := range entries {
		if err := w.AddWith(ctx, e, documentsFor(&e)); err != nil {
			return Result{}, err
		}
	}
	return w.Close(ctx, nil)
}

func mustPublish(t *testing.T, repo registry.Repository, entries ...Entry) {
	t.Helper()
	r, err := publish(t, repo, WriterOptions{}, entries...)
	if err != nil || r.Committed != len(entries) {
		t.Fatalf("got %+v, %v; want %d entries committed", r, err, len(entries))
	}
}

func has(t *testing.T, s *Snapshot, entries ...Entry) {
	t.Helper()
	for _, want := range entries {
		got, ok := s.Lookup(want.Path.HashPart)
		if !ok {
			t.Errorf("%s is missing", want.Path.Name)
			continue
		}
		want.Added = got.Added
		if got.Narinfo() != want.Narinfo() || got.NAR != want.NAR {
			t.Errorf("%s: got %+v, want %+v", want.Path.Name, got, want)
		}
	}
}

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
		return &Snapshot{segments: []*segment{{header: Header{Publications: pubs}}, {header: Header{Unpinned: unpinned}}}}
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

func TestTooNew(t *testing.T) {
	l, err := encodeSegmentList(segmentList{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := decompress(l, maxSegmentList)
	if err != nil {
		t.Fatal(err)
	}
	newer := compress([]byte(strings.Replace(string(raw), `"minReader":1`, `"minReader":2`, 1)))
	var tooNew *TooNewError
	if _, err := parseSegmentList(newer); !errors.As(err, &tooNew) {
		t.Errorf("got %v, want *TooNewError", err)
	}
}
