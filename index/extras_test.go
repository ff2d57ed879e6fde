package index_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
)

func TestExtras(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		a, b := indextest.NewEntry(t, repo, "a"), indextest.NewEntry(t, repo, "a-dev")
		a.Deriver, b.Deriver = indextest.DrvOf("a"), indextest.DrvOf("a")
		a.BuildIDs = []string{indextest.BuildID}
		id := format.Realisation{ID: "sha256:" + strings.Repeat("ab", 32) + "!out", Signatures: []string{indextest.Signature}}
		trace := format.Realisation{Drv: indextest.DrvOf("a"), Output: "out"}
		a.Realisations = []format.Realisation{id, trace}
		indextest.PublishWith(t, repo, 2, "refs/heads/main", a, b, indextest.NewEntry(t, repo, "c"))
		s := indextest.Sweep(t, open())
		indextest.Documented(t, repo, s, a, b, indextest.EntryFor("c", v1.Descriptor{}))
		ea, _ := s.Lookup(a.Path.HashPart)
		eb, _ := s.Lookup(b.Path.HashPart)
		if ea.Log != eb.Log || ea.Log.Blob != ea.Listing.Blob {
			t.Errorf("one build's outputs have the logs %+v and %+v, the listing %+v", ea.Log, eb.Log, ea.Listing)
		}
		if e, ok := s.LookupBuildID(indextest.BuildID); !ok || e.Path != a.Path {
			t.Errorf("got %+v, %v", e.Path, ok)
		}
		if r, e, ok := s.LookupRealisation(id.ID); !ok || e.Path != a.Path || !r.Equal(id) {
			t.Errorf("got %+v of %s, %v", r, e.Path, ok)
		}
		if r, e, ok := s.LookupBuildTrace(trace.Drv, "out"); !ok || e.Path != a.Path || !r.Equal(trace) {
			t.Errorf("got %+v of %s, %v", r, e.Path, ok)
		}
		for _, no := range []string{"", "x", a.Path.Base(), indextest.DrvOf("b")} {
			if _, ok := s.LookupLog(no); ok {
				t.Errorf("there is a log of %q", no)
			}
			if _, _, ok := s.LookupBuildTrace(no, "out"); ok {
				t.Errorf("there is a build trace of %q", no)
			}
		}

		if es := s.Derived(indextest.DrvOf("a")); len(es) != 2 {
			t.Errorf("got %d outputs of the derivation", len(es))
		}
		if es := slices.Concat(s.Derived(""), s.Derived(indextest.DrvOf("b")), s.Derived(a.Path.Base())); len(es) != 0 {
			t.Errorf("got %+v", es)
		}

		// who repeats an entry without its extras, as one that does not know
		// them, keeps them; and can add to them
		plain := a
		plain.Extras = format.Extras{Realisations: []format.Realisation{{ID: strings.Replace(id.ID, "ab", "cd", 1)}}}
		indextest.PublishAt(t, repo, 0, "refs/heads/main", plain)
		s = indextest.Sweep(t, open())
		indextest.Documented(t, repo, s, a)
		if e, _ := s.Lookup(a.Path.HashPart); len(e.Realisations) != 3 || len(e.BuildIDs) != 1 {
			t.Errorf("repeated: got %+v", e.Extras)
		}
		// but another build of the path has nothing of the old one's contents
		other := indextest.NewEntry(t, repo, "other contents")
		other.Path, other.Deriver = a.Path, a.Deriver
		indextest.PublishAt(t, repo, -1, "refs/heads/main", other)
		if e, _ := indextest.Sweep(t, open()).Lookup(a.Path.HashPart); e.Listing.Size != 0 || e.Log.Size != 0 || e.Realisations != nil {
			t.Errorf("other contents: got %+v", e.Extras)
		}
	})
}

// Many documents take few blobs.
func TestDocumentsShareBlobs(t *testing.T) {
	repo := indextest.NewMemory()
	var entries []format.Entry
	for i := range 600 {
		e := indextest.NewEntry(t, repo, fmt.Sprint("p", i))
		e.Deriver = indextest.DrvOf(e.Path.Name)
		entries = append(entries, e)
	}
	indextest.PublishWith(t, repo, 0, "refs/heads/main", entries...)
	s := indextest.Sweep(t, repo)
	indextest.Documented(t, repo, s, entries...)
	blobs := map[v1.Hash]bool{}
	s.All(func(e format.Entry) bool {
		for _, l := range e.DocumentLocations() {
			blobs[l.Blob] = true
		}
		return true
	})
	if len(blobs) != 2 { // one for each segment
		t.Errorf("the documents of 600 paths are in %d blobs", len(blobs))
	}
}

// refusingBlobs takes no blob that looks like documents.
type refusingBlobs struct{ *indextest.Memory }

func (r refusingBlobs) PutBlob(ctx context.Context, b []byte) (v1.Descriptor, error) {
	if r, _, err := format.OpenDocument(b); err == nil {
		defer r.Close()
		if text, _ := io.ReadAll(r); bytes.HasPrefix(text, []byte("listing of ")) {
			return v1.Descriptor{}, errors.New("no room")
		}
	}
	return r.Memory.PutBlob(ctx, b)
}

// A publish does not fail for documents that cannot be stored.
func TestDocumentsAreNotEssential(t *testing.T) {
	repo := refusingBlobs{indextest.NewMemory()}
	a := indextest.NewEntry(t, repo, "a")
	indextest.PublishWith(t, repo, 0, "refs/heads/main", a)
	s := indextest.Sweep(t, repo)
	indextest.Has(t, s, a)
	if e, _ := s.Lookup(a.Path.HashPart); e.Listing.Size != 0 {
		t.Errorf("got %+v", e.Listing)
	}
	large := indextest.NewEntry(t, repo.Memory, "large")
	c := index.Open(repo.Memory, indextest.Quick())
	base, err := c.Sweep(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, index.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AddWith(context.Background(), large, index.Documents{Listing: make([]byte, format.MaxDocument+1), Log: []byte("short")}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if e, ok := indextest.Sweep(t, repo).Lookup(large.Path.HashPart); !ok || e.Listing.Size != 0 || e.Log.Size == 0 {
		t.Errorf("a listing that is too large: got %+v, %v", e.Extras, ok)
	}
}

// What a collector has taken between the documents and their segment is left
// out of that.
func TestDocumentsLostBeforeTheirSegment(t *testing.T) {
	ctx := context.Background()
	repo := indextest.NewMemory()
	a := indextest.NewEntry(t, repo, "a")
	indextest.PublishWith(t, repo, 1, "refs/heads/main", indextest.NewEntry(t, repo, "x"))
	c := index.Open(repo, indextest.At(0))
	base, err := c.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, index.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AddWith(ctx, a, indextest.DocumentsFor(&a)); err != nil {
		t.Fatal(err)
	}
	if err := w.StoreDocuments(ctx); err != nil {
		t.Fatal(err)
	}
	delete(repo.Blobs, w.Pending(a.Path.HashPart).Listing.Blob)
	r, err := w.Close(ctx, nil)
	if err != nil || r.Committed != 1 || len(r.Lost) > 0 {
		t.Errorf("got %+v, %v", r, err)
	}
	if e, ok := indextest.Sweep(t, repo).Lookup(a.Path.HashPart); !ok || e.Listing.Size != 0 {
		t.Errorf("got %+v, %v", e.Listing, ok)
	}
}
