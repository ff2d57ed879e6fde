package push

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/secret"
)

const (
	// maxFile is the largest compressed NAR that is taken, in bytes; maxNAR
	// the same uncompressed.
	maxFile = 10_000_000_000
	maxNAR  = 64 << 30
)

var errCompression = &refusal{http.StatusUnsupportedMediaType, "the cache takes NARs compressed with zstd, xz, bzip2, gzip or none: append ?compression=zstd to its URL"}

func compressionOf(r io.Reader) (string, error) {
	head := make([]byte, len(bincache.NARMagic))
	n, _ := io.ReadFull(r, head)
	if c, ok := bincache.CompressionOf(head[:n]); ok {
		return c.Name, nil
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
	if compression == bincache.CompressionXZ {
		if err := checkXZ(s.reader()); err != nil {
			return contents{}, bad(err)
		}
	}
	r, done, err := bincache.Decompress(&cancellable{ctx, s.reader()}, compression)
	if err != nil {
		return contents{}, bad(err)
	}
	defer done()
	sum := sha256.New()
	head := make([]byte, len(bincache.NARMagic))
	_, err = io.ReadFull(r, head)
	if err == nil && string(head) != bincache.NARMagic {
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
	return contents{compression, bincache.FormatHash(sum.Sum(nil)), n + int64(len(head))}, nil
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
