package upload

import (
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/org/nixoci-action/bincache"
)

// codec makes compressors, and keeps them for the next NAR.
type codec struct {
	name string
	zstd sync.Pool
}

// window bounds an encoder's memory to about 4 MB. A larger one costs four
// times that and saves nothing on ordinary store paths; the high levels, which
// are chosen for size, get one all the same.
const (
	window     = 1 << 20
	windowHigh = 8 << 20
	highLevel  = 10
)

func newCodec(name string, level int) (*codec, error) {
	if name == "" {
		name = bincache.CompressionZstd
	}
	if level <= 0 {
		level = 3
	}
	switch name {
	case bincache.CompressionZstd, bincache.CompressionXZ, bincache.CompressionNone:
	default:
		return nil, fmt.Errorf("unknown compression %q", name)
	}
	size := window
	if level >= highLevel {
		size = windowHigh
	}
	c := &codec{name: name}
	c.zstd.New = func() any {
		e, err := zstd.NewWriter(nil,
			zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
			zstd.WithEncoderConcurrency(1), // parallel over paths
			zstd.WithWindowSize(size))
		if err != nil {
			panic(err) // only for wrong options
		}
		return e
	}
	return c, nil
}

// writer compresses into w. Its Close completes the compressed NAR; release
// must be called in any case.
func (c *codec) writer(w io.Writer) (wc io.WriteCloser, release func(), err error) {
	switch c.name {
	case bincache.CompressionXZ:
		x, err := xz.NewWriter(w)
		return x, func() {}, err
	case bincache.CompressionNone:
		return nopCloser{w}, func() {}, nil
	}
	e := c.zstd.Get().(*zstd.Encoder)
	e.Reset(w)
	return e, func() {
		e.Reset(nil)
		c.zstd.Put(e)
	}, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
