package indextest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/bincache"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/nix-community/go-nix/pkg/nixbase32"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/storepath"
)

// Quick are options that do not wait long.
func Quick() index.Options { return index.Options{Settle: time.Millisecond} }

// NewEntry puts a NAR into repo and returns its entry. Paths with the same name
// and references are the same path.
func NewEntry(t *testing.T, repo registry.Repository, name string, refs ...string) format.Entry {
	t.Helper()
	data := []byte("compressed NAR of " + name)
	desc, err := repo.PutBlob(context.Background(), data)
	if err != nil {
		t.Fatal(err)
	}
	return EntryFor(name, desc, refs...)
}

// EntryFor is the entry of NewEntry, for a NAR that is in a blob.
func EntryFor(name string, desc v1.Descriptor, refs ...string) format.Entry {
	sum := sha256.Sum256([]byte("path " + name))
	nar := sha256.Sum256([]byte("NAR of " + name))
	file := sha256.Sum256([]byte("compressed NAR of " + name))
	return format.Entry{
		Path:    storepath.Path{Dir: storepath.DefaultDir, HashPart: nixbase32.EncodeToString(sum[:20]), Name: name},
		NarHash: bincache.FormatHash(nar[:]), NarSize: 120, References: refs, Compression: bincache.CompressionZstd,
		FileHash: bincache.FormatHash(file[:]),
		NAR:      format.Location{Blob: desc.Digest, BlobSize: desc.Size, Size: desc.Size},
	}
}

// Publish adds entries, with documents, in a writer of their own.
func Publish(t *testing.T, repo registry.Repository, o index.WriterOptions, entries ...format.Entry) (index.Result, error) {
	t.Helper()
	ctx := context.Background()
	c := index.Open(repo, Quick())
	base, err := c.Sweep(ctx)
	if err != nil {
		return index.Result{}, err
	}
	w, err := c.NewWriter(base, o)
	if err != nil {
		return index.Result{}, err
	}
	for _, e := range entries {
		if err := w.AddWith(ctx, e, DocumentsFor(&e)); err != nil {
			return index.Result{}, err
		}
	}
	return w.Close(ctx, nil)
}

// MustPublish is Publish where nothing is left out.
func MustPublish(t *testing.T, repo registry.Repository, entries ...format.Entry) {
	t.Helper()
	r, err := Publish(t, repo, index.WriterOptions{}, entries...)
	if err != nil || r.Committed != len(entries) {
		t.Fatalf("got %+v, %v; want %d entries committed", r, err, len(entries))
	}
}

// Has checks that a snapshot has entries as they are given, whenever they were added.
func Has(t *testing.T, s *index.Snapshot, entries ...format.Entry) {
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

// At are options with a clock that stands still, so many days ago.
func At(days float64) index.Options {
	o := Quick()
	o.Now = func() time.Time { return Noon.Add(-time.Duration(days * 24 * float64(time.Hour))) }
	return o
}

// PublishAt publishes entries as one publication of a branch, whose roots they
// all are.
func PublishAt(t *testing.T, repo registry.Repository, days float64, ref string, entries ...format.Entry) {
	t.Helper()
	publish(t, repo, days, ref, entries, func(w *index.Writer, e format.Entry) error { return w.Add(context.Background(), e) })
}

func publish(t *testing.T, repo registry.Repository, days float64, ref string, entries []format.Entry, add func(*index.Writer, format.Entry) error) index.Result {
	t.Helper()
	ctx := context.Background()
	c := index.Open(repo, At(days))
	base, err := c.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, index.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := format.Publication{Time: c.Options().Now(), Ref: ref}
	for _, e := range entries {
		p.Roots = append(p.Roots, format.Root{Path: e.Path.Base()})
		if err := add(w, e); err != nil {
			t.Fatal(err)
		}
	}
	r, err := w.Close(ctx, &p)
	if err != nil || len(r.Incomplete)+len(r.Lost) > 0 {
		t.Fatalf("got %+v, %v", r, err)
	}
	return r
}

// Sweep reads the index with the tag list, at a time when no segment of these
// tests is from the future.
func Sweep(t *testing.T, repo registry.Repository) *index.Snapshot {
	t.Helper()
	s, err := index.Open(repo, At(-30)).Sweep(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Lacks checks that a snapshot does not have entries.
func Lacks(t *testing.T, s *index.Snapshot, entries ...format.Entry) {
	t.Helper()
	for _, e := range entries {
		if s.Has(e.Path.HashPart) {
			t.Errorf("%s is still there", e.Path.Name)
		}
	}
}

// Tags are all of a repository's tags, sorted.
func Tags(t *testing.T, repo registry.Repository) []string {
	t.Helper()
	all, err := repo.Tags(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// Noon is now, in tests that count days.
var Noon = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// DaysAgo is a time so many days before Noon.
func DaysAgo(n float64) time.Time { return Noon.Add(-time.Duration(n * 24 * float64(time.Hour))) }

// From makes a publication of one root.
func From(ref string, age float64, root string) format.Publication {
	return format.Publication{Time: DaysAgo(age), Ref: ref, Systems: []string{"x86_64-linux"}, Roots: []format.Root{{Path: root}}}
}

// Pinned gives a publication a pin.
func Pinned(p format.Publication, name string, keep int) format.Publication {
	p.Pin, p.PinKeep = name, keep
	return p
}

// Sees checks that a cache, as its readers find it, has entries, and has them
// at least as young.
func Sees(t *testing.T, repo registry.Repository, entries ...format.Entry) *index.Snapshot {
	t.Helper()
	s, err := index.Open(repo, Quick()).Refresh(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	Has(t, s, entries...)
	for _, want := range entries {
		if got, _ := s.Lookup(want.Path.HashPart); got.Added.Before(want.Added.Truncate(time.Second)) {
			t.Errorf("%s was added at %s, want %s or later", want.Path.Name, got.Added, want.Added)
		}
	}
	return s
}

// RaceEnabled tells that everything takes twenty times as long.
var RaceEnabled bool

// BenchSnapshot is a cache of n entries in segments of 500, each with five
// references to earlier ones; a third of the NARs are in packs. Ten
// publications have a tenth of the paths each.
func BenchSnapshot(tb testing.TB, n int) *index.Snapshot {
	tb.Helper()
	r := rand.New(rand.NewPCG(1, 1))
	now := time.Now()
	ctx := context.Background()
	bases := make([]string, n)
	repo := NewMemory()
	o := Quick()
	o.Now = func() time.Time { return now }
	c := index.Open(repo, o)
	w, err := c.NewWriter(c.Current(), index.WriterOptions{})
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
		var entries []format.Entry
		for i := start; i < min(start+500, n); i++ {
			sum := sha256.Sum256([]byte(strconv.Itoa(i)))
			name := fmt.Sprintf("package-%d-1.%d", i, i%10)
			e := format.Entry{
				Path:    storepath.Path{Dir: storepath.DefaultDir, HashPart: nixbase32.EncodeToString(sum[:20]), Name: name},
				NarHash: bincache.FormatHash(sum[:]), NarSize: 1 << 20, Compression: bincache.CompressionZstd, FileHash: bincache.FormatHash(sum[:]),
				Signatures: []string{"cache.example.org-1:" + strings.Repeat("A", 86) + "=="},
				Added:      end.Add(-time.Duration(n-i) * (90 * 24 * time.Hour / time.Duration(n))),
			}
			e.NAR = format.Location{Blob: put(strconv.Itoa(i)), BlobSize: 1 << 18, Size: 1 << 18}
			if i%3 == 0 {
				e.NAR = format.Location{Blob: put("pack" + strconv.Itoa(i/100)), BlobSize: 8 << 20, Offset: int64(i%100) << 13, Size: 1 << 13}
			}
			bases[i] = e.Path.Base()
			for range min(i, 5) {
				e.References = append(e.References, bases[i-1-r.IntN(min(i, 1000))])
			}
			slices.Sort(e.References)
			e.References = slices.Compact(e.References)
			entries = append(entries, e)
		}
		var h format.Header
		if start%(n/10/500*500+500) == 0 {
			h.Publications = []format.Publication{{Time: entries[0].Added, Ref: "refs/heads/main", Roots: []format.Root{{Path: entries[len(entries)-1].Path.Base()}}}}
		}
		content, err := format.NewContent(entries)
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
