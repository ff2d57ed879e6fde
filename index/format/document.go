package format

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
	// ExtrasSize is the size at which a blob with documents is complete. A
	// reader that wants one of them fetches them all.
	ExtrasSize = 2 << 20
)

// documentWindow bounds the memory of who reads a document.
const documentWindow = 1 << 20

// documentEncoders are used by many goroutines at once: the first for documents
// that fit the window. Only so does the frame of a tiny one say its size.
var documentEncoders = sync.OnceValue(func() [2]*zstd.Encoder {
	var es [2]*zstd.Encoder
	for i := range es {
		var err error
		if es[i], err = zstd.NewWriter(nil, zstd.WithWindowSize(documentWindow), zstd.WithSingleSegment(i == 0)); err != nil {
			panic(err) // only for wrong options
		}
	}
	return es
})

// EncodeDocument compresses a document for storage. It fails if the document
// is empty or larger than a reader would take.
func EncodeDocument(b []byte) ([]byte, error) {
	if len(b) == 0 || len(b) > MaxDocument {
		return nil, fmt.Errorf("a document of %d bytes: not between 1 and %d", len(b), MaxDocument)
	}
	encoder := documentEncoders()[0]
	if len(b) > documentWindow {
		encoder = documentEncoders()[1]
	}
	c := encoder.EncodeAll(b, make([]byte, 0, len(b)/4+64))
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
	return d.IOReadCloser(), int64(h.FrameContentSize), nil
}
