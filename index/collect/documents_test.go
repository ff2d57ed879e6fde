package collect

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
)

// Compaction and collection take over documents where they are, leave out what
// is lost, and copy what is mostly waste.
func TestCollectDocuments(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		var old, keep []format.Entry
		for i := range 6 {
			e := indextest.NewEntry(t, repo, fmt.Sprint("p", i))
			e.Deriver = indextest.DrvOf(e.Path.Name)
			old = append(old, e)
		}
		indextest.PublishWith(t, repo, 90, "refs/pull/1/merge", old...)
		keep = old[4:]
		indextest.PublishAt(t, repo, 50, "refs/heads/main", keep...)
		indextest.Documented(t, repo, indextest.Sweep(t, open()), old...)
		before, _ := indextest.Sweep(t, open()).Lookup(keep[0].Path.HashPart)
		_, done := mustCollect(t, repo, 0, defaults)
		s := indextest.Sweep(t, open())
		indextest.Documented(t, repo, s, keep...)
		indextest.Lacks(t, s, old[:4]...)
		after, _ := s.Lookup(keep[0].Path.HashPart)
		if after.Listing.Blob == before.Listing.Blob || done.Repacked < after.Listing.BlobSize {
			t.Errorf("a third of the documents is needed: they moved from %+v to %+v, %d bytes copied", before.Listing, after.Listing, done.Repacked)
		}
		mustCollect(t, repo, -2, defaults)
		indextest.Documented(t, repo, indextest.Sweep(t, open()), keep...)
		if size, err := repo.BlobSize(context.Background(), before.Listing.Blob); err == nil && strings.HasPrefix(repo.String(), "oci:") {
			t.Errorf("the old blob of %d bytes is still there", size)
		}
		// small segments that are merged keep theirs
		for i := range piled {
			e := indextest.NewEntry(t, repo, fmt.Sprint("q", i))
			keep = append(keep, e)
			indextest.PublishWith(t, repo, -3, "refs/heads/main", e)
		}
		s = indextest.Sweep(t, open())
		if len(s.Segments()) > piled {
			t.Errorf("%d segments: nothing was merged", len(s.Segments()))
		}
		indextest.Documented(t, repo, s, keep...)
	})
}

// A program that does not know documents may copy a line that names some, and
// not name their blob. Once the registry has taken it, they are forgotten.
func TestDocumentsThatOthersLost(t *testing.T) {
	lose := func(t *testing.T, repo *indextest.Memory) (a, b format.Entry) {
		a, b = indextest.NewEntry(t, repo, "a"), indextest.NewEntry(t, repo, "b")
		indextest.PublishWith(t, repo, 90, "refs/pull/1/merge", a, b)
		e, _ := indextest.Sweep(t, repo).Lookup(a.Path.HashPart)
		delete(repo.Blobs, e.Listing.Blob)
		return a, b
	}
	forgotten := func(t *testing.T, repo *indextest.Memory, a format.Entry) {
		t.Helper()
		s := indextest.Sweep(t, repo)
		indextest.Has(t, s, a)
		if e, _ := s.Lookup(a.Path.HashPart); e.Listing.Size != 0 {
			t.Errorf("got %+v", e.Listing)
		}
	}
	t.Run("collection", func(t *testing.T) {
		repo := indextest.NewMemory()
		a, b := lose(t, repo)
		o := defaults
		o.Keep = []Keep{{Reason: "the test", Paths: []string{a.Path.Base()}}}
		_, done := mustCollect(t, repo, 0, o)
		forgotten(t, repo, a)
		indextest.Lacks(t, indextest.Sweep(t, repo), b)
		if len(done.Lost) > 0 {
			t.Errorf("got %d paths lost", len(done.Lost))
		}
	})
	t.Run("compaction", func(t *testing.T) {
		repo := indextest.NewMemory()
		a, _ := lose(t, repo)
		for i := range piled {
			indextest.PublishAt(t, repo, -1, "refs/heads/main", indextest.NewEntry(t, repo, fmt.Sprint("q", i)))
		}
		forgotten(t, repo, a)
	})
	t.Run("repeat", func(t *testing.T) {
		repo := indextest.NewMemory()
		a, _ := lose(t, repo)
		e, _ := indextest.Sweep(t, repo).Lookup(a.Path.HashPart)
		indextest.PublishAt(t, repo, -1, "refs/heads/main", e)
		forgotten(t, repo, a)
	})
}

// What this version does not understand in an entry's extras costs these, not
// the path.
func TestStrangeExtras(t *testing.T) {
	a := indextest.EntryFor("a", v1.Descriptor{Digest: format.EmptyConfig.Digest, Size: 2})
	a.Listing = format.Location{Blob: format.EmptyConfig.Digest, BlobSize: 100, Offset: 10, Size: 20}
	line, err := format.AppendLine(nil, &a)
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(line) || len(line) > 600 {
		t.Errorf("got %s", line)
	}
	if e, err := format.DecodeLine(line, "/nix/store"); err != nil || e.Listing != a.Listing {
		t.Errorf("got %+v, %v", e.Listing, err)
	}
	good := string(line[bytes.Index(line, []byte(`["`)) : bytes.LastIndex(line, []byte(`]`))+1])
	for _, bad := range []string{
		`null`, `{}`, `[]`, `"x"`, `7`, `{"blob":"x","more":[1,2]}`, strings.Replace(good, `,10,`, `,-10,`, 1), strings.Replace(good, `,20]`, `,200]`, 1),
		strings.Replace(good, `,20]`, `,0]`, 1), strings.Replace(good, `,20]`, `,9223372036854775807]`, 1), strings.Replace(good, "44136f", "44136F", 1), strings.Replace(good, `,100,`, `,99999999999,`, 1),
	} {
		strange := strings.Replace(string(line), good, bad, 1)
		e, err := format.DecodeLine([]byte(strange), "/nix/store")
		if err != nil || e.Listing.Size != 0 || e.Path != a.Path {
			t.Errorf("%s: got %+v, %v", bad, e.Extras, err)
		}
		var r row
		if _, ok := r.decode([]byte(strange), &[]blob{}); !ok || len(r.extras) > 0 {
			t.Errorf("%s: a collection reads %+v, %v", bad, r.extras, ok)
		}
	}
	for name, spoil := range map[string]func(*format.Entry){
		"document past the blob": func(e *format.Entry) {
			e.Log = format.Location{Blob: format.EmptyConfig.Digest, BlobSize: 2, Offset: 1, Size: 2}
		},
		"document too large": func(e *format.Entry) {
			e.Log = format.Location{Blob: format.EmptyConfig.Digest, BlobSize: format.MaxExtrasBlob + 1, Size: 2}
		},
		"build ID":       func(e *format.Entry) { e.BuildIDs = []string{"../../etc/passwd"} },
		"realisation":    func(e *format.Entry) { e.Realisations = []format.Realisation{{ID: "sha256:x!out"}} },
		"no realisation": func(e *format.Entry) { e.Realisations = []format.Realisation{{}} },
		"two in one": func(e *format.Entry) {
			e.Realisations = []format.Realisation{{ID: indextest.ModelRealisation("x").ID, Drv: indextest.DrvOf("x")}}
		},
		"output": func(e *format.Entry) {
			e.Realisations = []format.Realisation{{Drv: indextest.DrvOf("x"), Output: `o"ut`}}
		},
		"signature": func(e *format.Entry) {
			e.Realisations = []format.Realisation{{ID: indextest.ModelRealisation("x").ID, Signatures: []string{"x"}}}
		},
	} {
		e := a
		spoil(&e)
		if _, err := format.NewContent([]format.Entry{e}); err == nil {
			t.Errorf("%s: written all the same", name)
		}
	}
}
