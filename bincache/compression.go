package bincache

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Names of compressions, as they stand in a narinfo.
const (
	CompressionZstd  = "zstd"
	CompressionXZ    = "xz"
	CompressionBzip2 = "bzip2"
	CompressionGzip  = "gzip"
	CompressionNone  = "none"
)

// DefaultCompression is meant by a narinfo that names none.
const DefaultCompression = CompressionBzip2

// NARMagic begins every NAR.
const NARMagic = "\x0d\x00\x00\x00\x00\x00\x00\x00nix-archive-1\x00\x00\x00"

// Compression is a way in which a NAR may be compressed.
type Compression struct {
	// Name is one of the constants.
	Name string
	// Extension of the NARs' URLs, File.Detail. Nix goes by the narinfo, not by
	// the extension, and gives gzip none.
	Extension string
	// Magic begins every NAR that is compressed so.
	Magic string
}

var compressions = []Compression{
	{CompressionZstd, ".nar.zst", "\x28\xb5\x2f\xfd"},
	{CompressionXZ, ".nar.xz", "\xfd7zXZ\x00"},
	{CompressionNone, ".nar", NARMagic},
	{CompressionGzip, ".nar.gz", "\x1f\x8b"},
	{CompressionBzip2, ".nar.bz2", "BZh"},
}

// CompressionNamed returns the compression with a name, with which its Name
// shares no memory.
func CompressionNamed(name string) (Compression, bool) {
	for _, c := range compressions {
		if c.Name == name {
			return c, true
		}
	}
	return Compression{}, false
}

// CompressionOf tells by its first bytes how a NAR is compressed; as many as
// NARMagic has are enough.
func CompressionOf(head []byte) (Compression, bool) {
	for _, c := range compressions {
		if bytes.HasPrefix(head, []byte(c.Magic)) {
			return c, true
		}
	}
	return Compression{}, false
}

// maxWindow is the largest window of zstd that is decoded, in bytes: that of
// `zstd --long`.
const maxWindow = 128 << 20

// Decompress reads what r has in a compression. It uses little memory, but for
// xz, of which the decoder reserves what the stream asks for. done, which is
// never nil, gives it back.
func Decompress(r io.Reader, name string) (_ io.Reader, done func(), err error) {
	nothing := func() {}
	switch name {
	case CompressionZstd:
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nothing, err
		}
		return d, d.Close, nil
	case CompressionXZ:
		d, err := xz.ReaderConfig{SingleStream: true}.NewReader(r)
		return d, nothing, err
	case CompressionBzip2:
		return bzip2.NewReader(r), nothing, nil
	case CompressionGzip:
		d, err := gzip.NewReader(r)
		return d, nothing, err
	case CompressionNone:
		return r, nothing, nil
	}
	return nil, nothing, fmt.Errorf("unknown compression %q", name)
}
