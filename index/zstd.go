package index

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

// decompress refuses what would grow beyond limit bytes.
func decompress(b []byte, limit uint64) ([]byte, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(limit))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.DecodeAll(b, nil)
}
