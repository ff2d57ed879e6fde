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

// expansion bounds what a NAR becomes that is much larger than what was sent for
// it. One of zeros may be honest, so it is taken, but nobody else waits for it.
type expansion struct {
	// plain is how many bytes any NAR may have among the others, plainRatio how
	// many times its file. A NAR that has more than both is verified again from its
	// start, one at a time.
	plain, plainRatio int64
	// most and mostRatio are the same for whether it is taken at all.
	most, mostRatio int64
}

var defaultExpansion = expansion{plain: 64 << 20, plainRatio: 50, most: 4 << 30, mostRatio: 1000}

// errExpands tells that a NAR is not to be verified among the others.
var errExpands = errors.New("the NAR expands")

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
func (p *Receiver) verify(ctx context.Context, s *spool, client string) (contents, error) {
	x := p.expansion
	c, err := p.decode(ctx, s, p.decoders, max(x.plain, x.plainRatio*s.size), errExpands)
	if !errors.Is(err, errExpands) {
		return c, err
	}
	// A client waits here once, so clients take turns whatever each has sent.
	done, err := p.expanders.take(ctx, client)
	if err != nil {
		return contents{}, err
	}
	defer done()
	most := min(max(x.most, x.mostRatio*s.size), maxNAR)
	return p.decode(ctx, s, p.expanding, most, &refusal{http.StatusRequestEntityTooLarge,
		fmt.Sprintf("refused: the NAR unpacks to more than %d bytes, but has %d; copy it with ?compression=none", most, s.size)})
}

// decode verifies a NAR in one of the places for decoders, which take memory. It
// returns tooLarge if the NAR has more than limit bytes.
func (p *Receiver) decode(ctx context.Context, s *spool, places chan struct{}, limit int64, tooLarge error) (contents, error) {
	select {
	case places <- struct{}{}:
		defer func() { <-places }()
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
		n, err = io.Copy(guard, io.LimitReader(&cancellable{ctx, r}, limit))
	}
	if err == nil && n == limit {
		return contents{}, tooLarge
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
