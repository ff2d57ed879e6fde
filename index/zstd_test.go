package index

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// A blob cannot take more than it says.
func TestUnpackedSize(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789"), 200_000)
	small := compress(text[:1000])
	if got := unpackedSize(small, maxEntries); got != 1000 {
		t.Errorf("got %d, want 1000", got)
	}
	if got := unpackedSize(small, 10); got != 10 {
		t.Errorf("got %d, want the limit", got)
	}
	if got := unpackedSize(compress(text[:20]), maxEntries); got != 20 {
		t.Errorf("got %d, want 20", got)
	}
	if got := unpackedSize([]byte("no zstd"), 10); got != 10 {
		t.Errorf("got %d, want the limit", got)
	}
	hidden := append(bytes.Clone(small), compress(text)...) // a second frame
	if b, err := decompress(hidden, unpackedSize(hidden, maxEntries)); err == nil {
		t.Errorf("a blob that says 1000 gave %d bytes", len(b))
	}
	var stream bytes.Buffer // does not know its size when it begins
	w, err := zstd.NewWriter(&stream)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rand.NewChaCha8([32]byte{}).Read(text); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := unpackedSize(stream.Bytes(), maxEntries); got != maxEntries {
		t.Errorf("got %d, want the limit", got)
	}
	if b, err := decompress(stream.Bytes(), maxEntries); err != nil || !bytes.Equal(b, text) {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
}
