package index_test

import (
	"encoding/json"
	"strconv"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
)

// Blobs that several paths are in count once; how a line is written makes no
// difference.
func TestStored(t *testing.T) {
	t.Parallel()
	s := indextest.BenchSnapshot(t, 1000)
	blobs := map[v1.Hash]int64{}
	for e := range s.All {
		blobs[e.NAR.Blob] = e.NAR.BlobSize
	}
	want := int64(0)
	for _, n := range blobs {
		want += n
	}
	if got := s.Stored(); got != want || len(blobs) == s.Len() {
		t.Errorf("got %d, want %d in %d blobs", got, want, len(blobs))
	}
	line := indextest.SampleLine(t)
	digest, size, ok := format.LineBlob(line)
	if !ok || size <= 0 {
		t.Fatalf("got %s, %d, %t", digest, size, ok)
	}
	var v map[string]any
	if err := json.Unmarshal(line, &v); err != nil {
		t.Fatal(err)
	}
	spaced, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if d, n, ok := format.LineBlob(spaced); !ok || string(d) != string(digest) || n != size {
		t.Errorf("in another form: got %s, %d, %t; want %s, %d", d, n, ok, digest, size)
	}
	for _, bad := range []string{"", "{}", `{"blob":"sha256:`, `{"blob":"sha256:x","blobSize":1`, `{"blob":"x","blobSize":"a"}`} {
		if _, _, ok := format.LineBlob([]byte(bad)); ok {
			t.Errorf("%q passes", bad)
		}
	}
}

func BenchmarkStored(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			s := indextest.BenchSnapshot(b, n)
			for b.Loop() {
				if s.Stored() == 0 {
					b.Fatal("nothing is stored")
				}
			}
		})
	}
}
