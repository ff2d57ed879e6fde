package push

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/secret"
)

const (
	// maxFile is the largest compressed NAR that is taken, in bytes; maxNAR
	// the same uncompressed.
	maxFile = 10_000_000_000
	maxNAR  = 64 << 30
	// maxWindow is the largest window of zstd that is decoded: that of
	// `zstd --long`.
	maxWindow = 128 << 20
)

// narMagic begins every NAR.
const narMagic = "\x0d\x00\x00\x00\x00\x00\x00\x00nix-archive-1\x00\x00\x00"

// magics of compressions, by their names in a narinfo. The name of a NAR does
// not tell: Nix gives gzip no extension.
var magics = map[string]string{
	format.CompressionZstd:  "\x28\xb5\x2f\xfd",
	format.CompressionXZ:    "\xfd7zXZ\x00",
	format.CompressionBzip2: "BZh",
	format.CompressionGzip:  "\x1f\x8b",
	format.CompressionNone:  narMagic,
}

var errCompression = &refusal{http.StatusUnsupportedMediaType, "the cache takes NARs compressed with zstd, xz, bzip2, gzip or none: append ?compression=zstd to its URL"}

func compressionOf(r io.Reader) (string, error) {
	head := make([]byte, len(narMagic))
	n, _ := io.ReadFull(r, head)
	for name, magic := range magics {
		if bytes.HasPrefix(head[:n], []byte(magic)) {
			return name, nil
		}
	}
	return "", errCompression
}

// contents is what a compressed NAR turns out to be.
type contents struct {
	compression string
	narHash     string // as in a narinfo
	narSize     int64  // bytes
}

// verify decompresses a NAR, which is kept nowhere. The error is a *refusal if
// the NAR is to blame.
func (p *Receiver) verify(ctx context.Context, s *spool) (contents, error) {
	select { // decoders take memory
	case p.decoders <- struct{}{}:
		defer func() { <-p.decoders }()
	case <-ctx.Done():
		return contents{}, context.Cause(ctx)
	}
	bad := func(err error) error {
		return &refusal{http.StatusBadRequest, fmt.Sprintf("the NAR cannot be read: %v", err)}
	}
	compression, err := compressionOf(s.reader())
	if err != nil {
		return contents{}, err
	}
	if compression == format.CompressionXZ {
		if err := checkXZ(s.reader()); err != nil {
			return contents{}, bad(err)
		}
	}
	r, done, err := decompress(&cancellable{ctx, s.reader()}, compression)
	if err != nil {
		return contents{}, bad(err)
	}
	defer done()
	sum := sha256.New()
	head := make([]byte, len(narMagic))
	_, err = io.ReadFull(r, head)
	if err == nil && string(head) != narMagic {
		err = errors.New("it is no NAR")
	}
	sum.Write(head)
	guard := p.opts.Secrets.Guard(sum)
	n := int64(0)
	if err == nil {
		n, err = io.Copy(guard, io.LimitReader(&cancellable{ctx, r}, maxNAR))
	}
	if err == nil && n == maxNAR {
		err = fmt.Errorf("it is larger than %d bytes", int64(maxNAR))
	}
	if err == nil {
		err = guard.Flush()
	}
	var found *secret.FoundError
	switch {
	case ctx.Err() != nil:
		return contents{}, context.Cause(ctx)
	case errors.As(err, &found):
		return contents{}, refuseSecret("the NAR", found.Kind)
	case err != nil:
		return contents{}, bad(err)
	}
	return contents{compression, format.FileHash(sum.Sum(nil)), n + int64(len(head))}, nil
}

func decompress(r io.Reader, compression string) (io.Reader, func(), error) {
	nothing := func() {}
	switch compression {
	case format.CompressionZstd:
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nothing, err
		}
		return d, d.Close, nil
	case format.CompressionXZ:
		d, err := xz.ReaderConfig{SingleStream: true}.NewReader(r)
		return d, nothing, err
	case format.CompressionBzip2:
		return bzip2.NewReader(r), nothing, nil
	case format.CompressionGzip:
		d, err := gzip.NewReader(r)
		return d, nothing, err
	}
	return r, nothing, nil
}

// cancellable ends a decoder that makes much of little.
type cancellable struct {
	ctx context.Context //nolint:containedctx // decoders take none
	r   io.Reader
}

func (c *cancellable) Read(b []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(b)
}
