package index

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Limits of documents and of the blobs that hold them, in bytes. A reader
// holds one blob in memory at a time, since that is what can be verified.
const (
	// MaxDocument bounds a document.
	MaxDocument = 64 << 20
	// MaxExtrasBlob bounds a blob with compressed documents.
	MaxExtrasBlob = 16 << 20
	// extrasSize is the size at which a blob with documents is complete. A
	// reader that wants one of them fetches them all.
	extrasSize = 2 << 20
)

// documentEncoder is used by many goroutines at once. The window bounds the
// memory of who reads a document.
var documentEncoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithWindowSize(1<<20))
	if err != nil {
		panic(err) // only for wrong options
	}
	return e
})

// EncodeDocument compresses a document for storage. It fails if the document
// is empty or larger than a reader would take.
func EncodeDocument(b []byte) ([]byte, error) {
	if len(b) == 0 || len(b) > MaxDocument {
		return nil, fmt.Errorf("a document of %d bytes: not between 1 and %d", len(b), MaxDocument)
	}
	c := documentEncoder().EncodeAll(b, make([]byte, 0, len(b)/4+64))
	if len(c) > MaxExtrasBlob {
		return nil, fmt.Errorf("a document of %d bytes, compressed: more than %d", len(c), MaxExtrasBlob)
	}
	return bytes.Clone(c), nil
}

// OpenDocument decompresses what EncodeDocument has made. It returns the
// document's size in bytes, too; the reader fails if there is more or less.
// The caller closes it.
func OpenDocument(b []byte) (io.ReadCloser, int64, error) {
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return nil, 0, fmt.Errorf("decompressing a document: %w", err)
	}
	if !h.HasFCS || h.FrameContentSize == 0 || h.FrameContentSize > MaxDocument {
		return nil, 0, fmt.Errorf("decompressing a document: it says that it has %d bytes", h.FrameContentSize)
	}
	d, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderMaxMemory(MaxDocument))
	if err != nil {
		return nil, 0, fmt.Errorf("decompressing a document: %w", err)
	}
	return d.IOReadCloser(), int64(h.FrameContentSize), nil //nolint:gosec // at most MaxDocument
}
