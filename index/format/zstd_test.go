package format

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
	if got := UnpackedSize(small, MaxEntries); got != 1000 {
		t.Errorf("got %d, want 1000", got)
	}
	if got := UnpackedSize(small, 10); got != 10 {
		t.Errorf("got %d, want the limit", got)
	}
	if got := UnpackedSize(compress(text[:20]), MaxEntries); got != 20 {
		t.Errorf("got %d, want 20", got)
	}
	if got := UnpackedSize([]byte("no zstd"), 10); got != 10 {
		t.Errorf("got %d, want the limit", got)
	}
	hidden := append(bytes.Clone(small), compress(text)...) // a second frame
	if b, err := decompress(hidden, UnpackedSize(hidden, MaxEntries)); err == nil {
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
	if got := UnpackedSize(stream.Bytes(), MaxEntries); got != MaxEntries {
		t.Errorf("got %d, want the limit", got)
	}
	if b, err := decompress(stream.Bytes(), MaxEntries); err != nil || !bytes.Equal(b, text) {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
}
