package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// errSlow ends a transfer that did not deliver in time.
var errSlow = errors.New("the registry did not deliver in time")

// maxCuts is how often the transfer of one piece may break off.
const maxCuts = 5

// source reads one part of a blob. Where the registry cuts a transfer off it
// goes on with another, from the byte it got to.
type source struct {
	blobs Blobs
	blob  v1.Hash
	off   int64
	left  int64 // bytes
	local bool  // it was on disk when this began

	ctx  context.Context //nolint:containedctx // the transfer's own, ended by close
	end  context.CancelCauseFunc
	body io.ReadCloser // nil between transfers
}

func newSource(ctx context.Context, blobs Blobs, blob v1.Hash, offset, length int64) *source {
	ctx, end := context.WithCancelCause(ctx)
	return &source{blobs: blobs, blob: blob, off: offset, left: length, ctx: ctx, end: end}
}

// fill reads the next len(p) bytes, within limit. After an error the source
// is of no more use.
func (s *source) fill(p []byte, limit time.Duration) error {
	slow := time.AfterFunc(limit, func() { s.end(errSlow) })
	defer slow.Stop()
	for cuts := 0; len(p) > 0; {
		if s.body == nil {
			// The repository has repeated this as often as makes sense.
			body, err := s.blobs.Blob(s.ctx, s.blob, s.off, s.left)
			if err != nil {
				return s.explain(err)
			}
			s.body = body
		}
		n, err := s.body.Read(p)
		p, s.off, s.left = p[n:], s.off+int64(n), s.left-int64(n)
		if err == nil || len(p) == 0 {
			continue
		}
		s.drop()
		if cuts++; cuts > maxCuts || s.ctx.Err() != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return s.explain(fmt.Errorf("reading blob %s at byte %d: %w", s.blob, s.off, err))
		}
	}
	return nil
}

// explain says why a transfer that was cancelled was, besides what it ended
// with.
func (s *source) explain(err error) error {
	cause := context.Cause(s.ctx)
	switch {
	case cause == nil || errors.Is(err, cause):
		return err
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("reading blob %s: %w", s.blob, cause)
	}
	return fmt.Errorf("%w: %w", cause, err)
}

func (s *source) drop() {
	if s.body != nil {
		_ = s.body.Close()
		s.body = nil
	}
}

func (s *source) close() {
	s.end(context.Canceled)
	s.drop()
}
