package index

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
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

// at are options with a clock that stands still, so many days ago.
func at(days float64) Options {
	o := quick()
	o.Now = func() time.Time { return noon.Add(-time.Duration(days * 24 * float64(time.Hour))) }
	return o
}

// publishAt publishes entries as one publication of a branch, whose roots they
// all are.
func publishAt(t *testing.T, repo registry.Repository, days float64, ref string, entries ...Entry) {
	t.Helper()
	ctx := context.Background()
	c := Open(repo, at(days))
	base, err := c.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := Publication{Time: c.Options().Now(), Ref: ref}
	for _, e := range entries {
		p.Roots = append(p.Roots, Root{Path: e.Path.Base()})
		if err := w.Add(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := w.Close(ctx, &p); err != nil || len(r.Incomplete)+len(r.Lost) > 0 {
		t.Fatalf("got %+v, %v", r, err)
	}
}

func sweep(t *testing.T, repo registry.Repository) *Snapshot {
	t.Helper()
	s, err := Open(repo, quick()).Sweep(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func lacks(t *testing.T, s *Snapshot, entries ...Entry) {
	t.Helper()
	for _, e := range entries {
		if s.Has(e.Path.HashPart) {
			t.Errorf("%s is still there", e.Path.Name)
		}
	}
}

func tags(t *testing.T, repo registry.Repository) []string {
	t.Helper()
	all, err := repo.Tags(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

var noon = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

func daysAgo(n float64) time.Time { return noon.Add(-time.Duration(n * 24 * float64(time.Hour))) }

// from makes a publication of one root.
func from(ref string, age float64, root string) Publication {
	return Publication{Time: daysAgo(age), Ref: ref, Systems: []string{"x86_64-linux"}, Roots: []Root{{Path: root}}}
}

func pinned(p Publication, name string, keep int) Publication {
	p.Pin, p.PinKeep = name, keep
	return p
}

// crashing stops working before its nth write, for good, as a killed process
// does.
type crashing struct {
	registry.Repository
	mu   sync.Mutex
	left int
}

var errCrash = errors.New("crashed")

func (c *crashing) step() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left--; c.left < 0 {
		return errCrash
	}
	return nil
}

func (c *crashing) PutManifest(ctx context.Context, tag string, m registry.Manifest) (v1.Hash, error) {
	if err := c.step(); err != nil {
		return v1.Hash{}, err
	}
	return c.Repository.PutManifest(ctx, tag, m)
}

func (c *crashing) PutBlob(ctx context.Context, b []byte) (v1.Descriptor, error) {
	if err := c.step(); err != nil {
		return v1.Descriptor{}, err
	}
	return c.Repository.PutBlob(ctx, b)
}

func (c *crashing) DeleteManifest(ctx context.Context, tag string, digest v1.Hash) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.Repository.DeleteManifest(ctx, tag, digest)
}

// watched counts what is asked of a repository, and lets a test step in.
type watched struct {
	registry.Repository
	mu      sync.Mutex
	put     map[v1.Hash]int // blobs
	asked   int             // for the sizes of blobs
	read    map[v1.Hash]int // blobs
	tags    []string        // written
	size    func(v1.Hash) error
	before  func(tag string) // a manifest is written
	after   func(tag string)
	blobPut func()
}

func watch(repo registry.Repository) *watched {
	return &watched{Repository: repo, put: map[v1.Hash]int{}, read: map[v1.Hash]int{}}
}

func (w *watched) PutBlob(ctx context.Context, b []byte) (v1.Descriptor, error) {
	d, err := w.Repository.PutBlob(ctx, b)
	w.mu.Lock()
	w.put[d.Digest]++
	hook := w.blobPut
	w.blobPut = nil
	w.mu.Unlock()
	if hook != nil {
		hook()
	}
	return d, err
}

func (w *watched) WriteBlob(context.Context, func(io.Writer) error) (v1.Descriptor, error) {
	return v1.Descriptor{}, errors.New("a NAR is sent")
}

func (w *watched) Blob(ctx context.Context, digest v1.Hash, offset, length int64) (io.ReadCloser, error) {
	w.mu.Lock()
	w.read[digest]++
	w.mu.Unlock()
	return w.Repository.Blob(ctx, digest, offset, length)
}

func (w *watched) BlobSize(ctx context.Context, digest v1.Hash) (int64, error) {
	w.mu.Lock()
	w.asked++
	w.mu.Unlock()
	if w.size != nil {
		if err := w.size(digest); err != nil {
			return 0, err
		}
	}
	return w.Repository.BlobSize(ctx, digest)
}

func (w *watched) PutManifest(ctx context.Context, tag string, m registry.Manifest) (v1.Hash, error) {
	if w.before != nil {
		w.before(tag)
	}
	w.mu.Lock()
	w.tags = append(w.tags, tag)
	w.mu.Unlock()
	d, err := w.Repository.PutManifest(ctx, tag, m)
	if err == nil && w.after != nil {
		w.after(tag)
	}
	return d, err
}

// fresh runs f on every kind of repository; each call of what f gets returns
// an empty one.
func fresh(t *testing.T, f func(t *testing.T, next func() registry.Repository)) {
	open := func(t *testing.T, name func(n int) string) func() registry.Repository {
		n := 0
		return func() registry.Repository {
			n++
			r, err := registry.Open(name(n), registry.Options{Push: true})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
	}
	t.Run("oci", func(t *testing.T) {
		t.Parallel()
		f(t, open(t, func(int) string { return "oci:" + t.TempDir() }))
	})
	t.Run("ggcr", func(t *testing.T) {
		t.Parallel()
		addr := registrytest.GGCR(t)
		f(t, open(t, func(n int) string { return fmt.Sprintf("%s/a/b%d", addr, n) }))
	})
	t.Run("distribution", func(t *testing.T) {
		t.Parallel()
		addr := registrytest.NewDistribution(t).Addr
		f(t, open(t, func(n int) string { return fmt.Sprintf("%s/a/b%d", addr, n) }))
	})
}

// sees checks that a cache, as its readers find it, has entries, and has them
// at least as young.
func sees(t *testing.T, repo registry.Repository, entries ...Entry) *Snapshot {
	t.Helper()
	s, err := Open(repo, quick()).Refresh(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	has(t, s, entries...)
	for _, want := range entries {
		if got, _ := s.Lookup(want.Path.HashPart); got.Added.Before(want.Added.Truncate(time.Second)) {
			t.Errorf("%s was added at %s, want %s or later", want.Path.Name, got.Added, want.Added)
		}
	}
	return s
}

func open(t *testing.T, dir string) registry.Repository {
	t.Helper()
	repo, err := registry.Open("oci:"+dir, registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

const foreignKey = "k-1:KfkQg/uPdyL8LgT8v2igbxY2zG5MuLqz1WHmWbX0J1A="

func sha(b []byte) (v1.Hash, int64, error) { return v1.SHA256(bytes.NewReader(b)) }

const testBuildID = "0123456789abcdef0123456789abcdef01234567"

var testSig = "k-1:" + strings.Repeat("A", 86) + "=="

// document reads one that an entry names.
func readDocument(t *testing.T, repo registry.Repository, l Location) string {
	t.Helper()
	blob, err := registry.ReadBlob(context.Background(), repo, l.Blob, l.BlobSize)
	if err != nil {
		t.Fatal(err)
	}
	r, size, err := OpenDocument(blob[l.Offset : l.Offset+l.Size])
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil || int64(len(b)) != size {
		t.Fatalf("got %d bytes of %d, %v", len(b), size, err)
	}
	return string(b)
}

// publishWith publishes entries with documents made of their names.
func publishWith(t *testing.T, repo registry.Repository, days float64, ref string, entries ...Entry) Result {
	t.Helper()
	ctx := context.Background()
	c := Open(repo, at(days))
	base, err := c.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := Publication{Time: c.Options().Now(), Ref: ref}
	for _, e := range entries {
		p.Roots = append(p.Roots, Root{Path: e.Path.Base()})
		if err := w.AddWith(ctx, e, documentsFor(&e)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := w.Close(ctx, &p)
	if err != nil || len(r.Incomplete)+len(r.Lost) > 0 {
		t.Fatalf("got %+v, %v", r, err)
	}
	return r
}

func documentsFor(e *Entry) Documents {
	d := Documents{Listing: []byte("listing of " + e.Path.Name)}
	if e.Deriver != "" {
		d.Log = []byte("log of " + e.Deriver)
	}
	return d
}

// documented makes sure that entries are there with what belongs to them.
func documented(t *testing.T, repo registry.Repository, s *Snapshot, entries ...Entry) {
	t.Helper()
	for _, want := range entries {
		e, ok := s.Lookup(want.Path.HashPart)
		if !ok || e.Listing.Size == 0 || (e.Log.Size == 0) != (want.Deriver == "") {
			t.Errorf("%s: got %+v, %v", want.Path.Name, e.Extras, ok)
			continue
		}
		if got := readDocument(t, repo, e.Listing); got != "listing of "+want.Path.Name {
			t.Errorf("%s has the listing %q", want.Path.Name, got)
		}
		if want.Deriver == "" {
			continue
		}
		of, ok := s.LookupLog(want.Deriver)
		if !ok || of.Deriver != want.Deriver {
			t.Errorf("no log of %s", want.Deriver)
			continue
		}
		if got := readDocument(t, repo, of.Log); got != "log of "+want.Deriver {
			t.Errorf("%s has the log %q", want.Deriver, got)
		}
	}
}

func drvOf(name string) string { return entryFor(name+".drv", v1.Descriptor{}).Path.Base() }

// raceEnabled tells that everything takes twenty times as long.
var raceEnabled bool

func sampleLine(tb testing.TB) []byte {
	e := entryFor("hello-1.0", v1.Descriptor{Digest: emptyConfig.Digest, Size: 2}, "00000000000000000000000000000000-dep")
	e.Added = time.Unix(1_700_000_000, 0)
	e.Extras = Extras{
		Listing: Location{Blob: emptyConfig.Digest, BlobSize: 1000, Size: 10}, BuildIDs: []string{testBuildID},
		Realisations: []Realisation{{ID: modelRealisation("x").ID, Signatures: []string{testSig}}},
	}
	line, err := appendLine(nil, &e)
	if err != nil {
		tb.Fatal(err)
	}
	return line
}

func modelRealisation(key string) Realisation {
	sum, _, _ := v1.SHA256(strings.NewReader(key))
	return Realisation{ID: "sha256:" + sum.Hex + "!out"}
}

// benchSnapshot is a cache of n entries in segments of 500, each with five
// references to earlier ones; a third of the NARs are in packs. Ten
// publications have a tenth of the paths each.
func benchSnapshot(tb testing.TB, n int) *Snapshot {
	tb.Helper()
	r := rand.New(rand.NewPCG(1, 1))
	now := time.Now()
	ctx := context.Background()
	bases := make([]string, n)
	repo := newMemory()
	o := quick()
	o.Now = func() time.Time { return now }
	c := Open(repo, o)
	w, err := c.NewWriter(c.Current(), WriterOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	put := func(blob string) v1.Hash {
		d, err := repo.PutBlob(ctx, []byte(blob))
		if err != nil {
			tb.Fatal(err)
		}
		return d.Digest
	}
	end := now
	for start := 0; start < n; start += 500 {
		var entries []Entry
		for i := start; i < min(start+500, n); i++ {
			sum := sha256.Sum256([]byte(strconv.Itoa(i)))
			name := fmt.Sprintf("package-%d-1.%d", i, i%10)
			e := Entry{
				Path:    storepath.Path{Dir: storepath.DefaultDir, HashPart: nixbase32.EncodeToString(sum[:20]), Name: name},
				NarHash: FileHash(sum[:]), NarSize: 1 << 20, Compression: CompressionZstd, FileHash: FileHash(sum[:]),
				Signatures: []string{"cache.example.org-1:" + strings.Repeat("A", 86) + "=="},
				Added:      end.Add(-time.Duration(n-i) * (90 * 24 * time.Hour / time.Duration(n))),
			}
			e.NAR = Location{Blob: put(strconv.Itoa(i)), BlobSize: 1 << 18, Size: 1 << 18}
			if i%3 == 0 {
				e.NAR = Location{Blob: put("pack" + strconv.Itoa(i/100)), BlobSize: 8 << 20, Offset: int64(i%100) << 13, Size: 1 << 13}
			}
			bases[i] = e.Path.Base()
			for range min(i, 5) {
				e.References = append(e.References, bases[i-1-r.IntN(min(i, 1000))])
			}
			slices.Sort(e.References)
			e.References = slices.Compact(e.References)
			entries = append(entries, e)
		}
		var h Header
		if start%(n/10/500*500+500) == 0 {
			h.Publications = []Publication{{Time: entries[0].Added, Ref: "refs/heads/main", Roots: []Root{{Path: entries[len(entries)-1].Path.Base()}}}}
		}
		content, err := newContent(entries)
		if err != nil {
			tb.Fatal(err)
		}
		now = entries[0].Added
		if _, err := w.Put(ctx, h, content); err != nil {
			tb.Fatal(err)
		}
	}
	now = end
	if err := w.WriteRoot(ctx, nil); err != nil {
		tb.Fatal(err)
	}
	s, err := c.Sweep(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// putForeign writes a root as nixcache-oci does.
func putForeign(t *testing.T, repo registry.Repository, idx map[string]any) {
	t.Helper()
	ctx := context.Background()
	b, err := json.Marshal(idx)
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range [][]byte{b, []byte("{}")} {
		if _, err := repo.PutBlob(ctx, blob); err != nil {
			t.Fatal(err)
		}
	}
	sum, size, err := sha(b)
	if err != nil {
		t.Fatal(err)
	}
	m, err := newManifest("", []v1.Descriptor{{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: sum, Size: size}}, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.PutManifest(ctx, RootTag, m); err != nil {
		t.Fatal(err)
	}
}

// foreignIndexOf is nixcache-oci's index of entries, with their times.
func foreignIndexOf(entries ...Entry) map[string]any {
	m := map[string]any{}
	for _, e := range entries {
		m[e.Path.HashPart] = map[string]any{
			"name": e.Path.Name, "narinfo": e.Narinfo(), "nar_digest": e.NAR.Blob.String(), "nar_size": e.NAR.BlobSize,
			"added": e.Added.UTC().Format(time.RFC3339),
		}
	}
	return map[string]any{"version": 1, "repo": "o/r", "entries": m, "gc_roots": []string{}, "public_key": foreignKey}
}
