package indextest

import (
	"context"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
)

// BuildID is a build ID.
const BuildID = "0123456789abcdef0123456789abcdef01234567"

// Signature is one that passes for a signature.
var Signature = "k-1:" + strings.Repeat("A", 86) + "=="

// readDocument reads one that an entry names.
func readDocument(t *testing.T, repo registry.Repository, l format.Location) string {
	t.Helper()
	blob, err := registry.ReadBlob(context.Background(), repo, l.Blob, l.BlobSize)
	if err != nil {
		t.Fatal(err)
	}
	r, size, err := format.OpenDocument(blob[l.Offset : l.Offset+l.Size])
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

// PublishWith is PublishAt with documents made of the entries' names.
func PublishWith(t *testing.T, repo registry.Repository, days float64, ref string, entries ...format.Entry) index.Result {
	t.Helper()
	return publish(t, repo, days, ref, entries, func(w *index.Writer, e format.Entry) error {
		return w.AddWith(context.Background(), e, DocumentsFor(&e))
	})
}

// DocumentsFor are documents made of an entry's names.
func DocumentsFor(e *format.Entry) index.Documents {
	d := index.Documents{Listing: []byte("listing of " + e.Path.Name)}
	if e.Deriver != "" {
		d.Log = []byte("log of " + e.Deriver)
	}
	return d
}

// Documented makes sure that entries are there with what belongs to them.
func Documented(t *testing.T, repo registry.Repository, s *index.Snapshot, entries ...format.Entry) {
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

// DrvOf is the base name of the derivation with a name.
func DrvOf(name string) string { return EntryFor(name+".drv", v1.Descriptor{}).Path.Base() }

// SampleLine is the line of an entry that has everything.
func SampleLine(tb testing.TB) []byte {
	e := EntryFor("hello-1.0", v1.Descriptor{Digest: format.EmptyConfig.Digest, Size: 2}, "00000000000000000000000000000000-dep")
	e.Added = time.Unix(1_700_000_000, 0)
	e.Extras = format.Extras{
		Listing: format.Location{Blob: format.EmptyConfig.Digest, BlobSize: 1000, Size: 10}, BuildIDs: []string{BuildID},
		Realisations: []format.Realisation{{ID: ModelRealisation("x").ID, Signatures: []string{Signature}}},
	}
	line, err := format.AppendLine(nil, &e)
	if err != nil {
		tb.Fatal(err)
	}
	return line
}

// ModelRealisation is a realisation of its own for each key.
func ModelRealisation(key string) format.Realisation {
	sum, _, _ := v1.SHA256(strings.NewReader(key))
	return format.Realisation{ID: "sha256:" + sum.Hex + "!out"}
}

// Frame makes a frame of zstd that holds b, at most 128 KiB, as it is (RFC 8878,
// section 3.1.1). A fuzz target has no time to compress.
func Frame(b []byte) []byte {
	size := uint32(len(b))
	out := []byte{0x28, 0xb5, 0x2f, 0xfd, 0b1010_0000}        // one segment, its size in four bytes
	out = binary.LittleEndian.AppendUint32(out, size)         // of the contents
	block := binary.LittleEndian.AppendUint32(nil, size<<3|1) // the last block, raw
	return append(append(out, block[:3]...), b...)
}
