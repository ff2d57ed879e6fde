package format

import (
	"sync"

	"github.com/klauspost/compress/zstd"
)

// The index is compressed in one piece each time, so one encoder serves all.
var encoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err) // only for wrong options
	}
	return e
})

func compress(b []byte) []byte { return encoder().EncodeAll(b, nil) }

// window is the largest window of what the encoder writes, in bytes. A decoder
// that may use less memory refuses the shortest text.
const window = 8 << 20

// decompress refuses what would grow beyond limit bytes.
func decompress(b []byte, limit uint64) ([]byte, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(max(limit, window)))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	out, err := d.DecodeAll(b, nil)
	if err == nil && uint64(len(out)) > limit {
		err = zstd.ErrDecoderSizeExceeded
	}
	return out, err
}

// UnpackedSize is what a blob says that it takes when it is decompressed, or
// limit if it says nothing, or more. To decompress it with this as the limit
// makes it true. What is very short does not say, and is looked at.
func UnpackedSize(blob []byte, limit uint64) uint64 {
	var h zstd.Header
	if err := h.Decode(blob); err != nil {
		return limit
	}
	if h.HasFCS {
		return min(h.FrameContentSize, limit)
	}
	if b, err := decompress(blob, min(unsaid, limit)); err == nil {
		return uint64(len(b))
	}
	return limit
}

// unsaid is the size up to which a blob need not say its own, in bytes.
const unsaid = 1 << 20
