package index

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

	"github.com/org/nixoci-action/internal/registry"
)

func TestExtras(t *testing.T) {
	backends(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		a, b := newEntry(t, repo, "a"), newEntry(t, repo, "a-dev")
		a.Deriver, b.Deriver = drvOf("a"), drvOf("a")
		a.BuildIDs = []string{testBuildID}
		id := Realisation{ID: "sha256:" + strings.Repeat("ab", 32) + "!out", Signatures: []string{testSig}}
		trace := Realisation{Drv: drvOf("a"), Output: "out"}
		a.Realisations = []Realisation{id, trace}
		publishWith(t, repo, 2, "refs/heads/main", a, b, newEntry(t, repo, "c"))
		s := sweep(t, open())
		documented(t, repo, s, a, b, entryFor("c", v1.Descriptor{}))
		ea, _ := s.Lookup(a.Path.HashPart)
		eb, _ := s.Lookup(b.Path.HashPart)
		if ea.Log != eb.Log || ea.Log.Blob != ea.Listing.Blob {
			t.Errorf("one build's outputs have the logs %+v and %+v, the listing %+v", ea.Log, eb.Log, ea.Listing)
		}
		if e, ok := s.LookupBuildID(testBuildID); !ok || e.Path != a.Path {
			t.Errorf("got %+v, %v", e.Path, ok)
		}
		if r, e, ok := s.LookupRealisation(id.ID); !ok || e.Path != a.Path || !r.equal(id) {
			t.Errorf("got %+v of %s, %v", r, e.Path, ok)
		}
		if r, e, ok := s.LookupBuildTrace(trace.Drv, "out"); !ok || e.Path != a.Path || !r.equal(trace) {
			t.Errorf("got %+v of %s, %v", r, e.Path, ok)
		}
		for _, no := range []string{"", "x", a.Path.Base(), drvOf("b")} {
			if _, ok := s.LookupLog(no); ok {
				t.Errorf("there is a log of %q", no)
			}
			if _, _, ok := s.LookupBuildTrace(no, "out"); ok {
				t.Errorf("there is a build trace of %q", no)
			}
		}

		if es := s.Derived(drvOf("a")); len(es) != 2 {
			t.Errorf("got %d outputs of the derivation", len(es))
		}
		if es := slices.Concat(s.Derived(""), s.Derived(drvOf("b")), s.Derived(a.Path.Base())); len(es) != 0 {
			t.Errorf("got %+v", es)
		}

		// who repeats an entry without its extras, as one that does not know
		// them, keeps them; and can add to them
		plain := a
		plain.Extras = Extras{Realisations: []Realisation{{ID: strings.Replace(id.ID, "ab", "cd", 1)}}}
		publishAt(t, repo, 0, "refs/heads/main", plain)
		s = sweep(t, open())
		documented(t, repo, s, a)
		if e, _ := s.Lookup(a.Path.HashPart); len(e.Realisations) != 3 || len(e.BuildIDs) != 1 {
			t.Errorf("repeated: got %+v", e.Extras)
		}
		// but another build of the path has nothing of the old one's contents
		other := newEntry(t, repo, "other contents")
		other.Path, other.Deriver = a.Path, a.Deriver
		publishAt(t, repo, -1, "refs/heads/main", other)
		if e, _ := sweep(t, open()).Lookup(a.Path.HashPart); e.Listing.Size != 0 || e.Log.Size != 0 || e.Realisations != nil {
			t.Errorf("other contents: got %+v", e.Extras)
		}
	})
}

// Many documents take few blobs.
func TestDocumentsShareBlobs(t *testing.T) {
	repo := newMemory()
	var entries []Entry
	for i := range 600 {
		e := newEntry(t, repo, fmt.Sprint("p", i))
		e.Deriver = drvOf(e.Path.Name)
		entries = append(entries, e)
	}
	publishWith(t, repo, 0, "refs/heads/main", entries...)
	s := sweep(t, repo)
	documented(t, repo, s, entries...)
	blobs := map[v1.Hash]bool{}
	s.All(func(e Entry) bool {
		for _, l := range e.locations() {
			blobs[l.Blob] = true
		}
		return true
	})
	if len(blobs) != 2 { // one for each segment
		t.Errorf("the documents of 600 paths are in %d blobs", len(blobs))
	}
}

// refusingBlobs takes no blob that looks like documents.
type refusingBlobs struct{ *memory }

func (r refusingBlobs) PutBlob(ctx context.Context, b []byte) (v1.Descriptor, error) {
	if r, _, err := OpenDocument(b); err == nil {
		defer r.Close()
		if text, _ := io.ReadAll(r); bytes.HasPrefix(text, []byte("listing of ")) {
			return v1.Descriptor{}, errors.New("no room")
		}
	}
	return r.memory.PutBlob(ctx, b)
}

// A publish does not fail for documents that cannot be stored.
func TestDocumentsAreNotEssential(t *testing.T) {
	repo := refusingBlobs{newMemory()}
	a := newEntry(t, repo, "a")
	publishWith(t, repo, 0, "refs/heads/main", a)
	s := sweep(t, repo)
	has(t, s, a)
	if e, _ := s.Lookup(a.Path.HashPart); e.Listing.Size != 0 {
		t.Errorf("got %+v", e.Listing)
	}
	large := newEntry(t, repo.memory, "large")
	c := Open(repo.memory, quick())
	base, err := c.Sweep(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AddWith(context.Background(), large, Documents{Listing: make([]byte, MaxDocument+1), Log: []byte("short")}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if e, ok := sweep(t, repo).Lookup(large.Path.HashPart); !ok || e.Listing.Size != 0 || e.Log.Size == 0 {
		t.Errorf("a listing that is too large: got %+v, %v", e.Extras, ok)
	}
}

// What a collector has taken between the documents and their segment is left
// out of that.
func TestDocumentsLostBeforeTheirSegment(t *testing.T) {
	ctx := context.Background()
	repo := newMemory()
	a := newEntry(t, repo, "a")
	publishWith(t, repo, 1, "refs/heads/main", newEntry(t, repo, "x"))
	c := Open(repo, at(0))
	base, err := c.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AddWith(ctx, a, documentsFor(&a)); err != nil {
		t.Fatal(err)
	}
	if err := w.StoreDocuments(ctx); err != nil {
		t.Fatal(err)
	}
	delete(repo.blobs, w.Pending(a.Path.HashPart).Listing.Blob)
	r, err := w.Close(ctx, nil)
	if err != nil || r.Committed != 1 || len(r.Lost) > 0 {
		t.Errorf("got %+v, %v", r, err)
	}
	if e, ok := sweep(t, repo).Lookup(a.Path.HashPart); !ok || e.Listing.Size != 0 {
		t.Errorf("got %+v, %v", e.Listing, ok)
	}
}
