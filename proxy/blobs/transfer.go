package blobs

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

// Transfer reads one part of a blob. Where the registry cuts a transfer off it
// goes on with another, from the byte it got to.
type Transfer struct {
	store Store
	blob  v1.Hash
	off   int64
	left  int64 // bytes

	ctx  context.Context //nolint:containedctx // the transfer's own, ended by Close
	end  context.CancelCauseFunc
	body io.ReadCloser // nil between transfers
}

// Read begins to read length bytes of a blob. It makes no request before the
// first Fill. The caller calls Close.
func Read(ctx context.Context, store Store, blob v1.Hash, offset, length int64) *Transfer {
	ctx, end := context.WithCancelCause(ctx)
	return &Transfer{store: store, blob: blob, off: offset, left: length, ctx: ctx, end: end}
}

// Fill reads the next len(p) bytes, within limit. After an error the Transfer
// is of no more use.
func (t *Transfer) Fill(p []byte, limit time.Duration) error {
	slow := time.AfterFunc(limit, func() { t.end(errSlow) })
	defer slow.Stop()
	for cuts := 0; len(p) > 0; {
		if t.body == nil {
			// The repository has repeated this as often as makes sense.
			body, err := t.store.Blob(t.ctx, t.blob, t.off, t.left)
			if err != nil {
				return t.explain(err)
			}
			t.body = body
		}
		n, err := t.body.Read(p)
		p, t.off, t.left = p[n:], t.off+int64(n), t.left-int64(n)
		if err == nil || len(p) == 0 {
			continue
		}
		t.drop()
		if cuts++; cuts > maxCuts || t.ctx.Err() != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return t.explain(fmt.Errorf("reading blob %s at byte %d: %w", t.blob, t.off, err))
		}
	}
	return nil
}

// explain says why a transfer that was cancelled was, besides what it ended
// with.
func (t *Transfer) explain(err error) error {
	cause := context.Cause(t.ctx)
	switch {
	case cause == nil || errors.Is(err, cause):
		return err
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("reading blob %s: %w", t.blob, cause)
	}
	return fmt.Errorf("%w: %w", cause, err)
}

func (t *Transfer) drop() {
	if t.body != nil {
		_ = t.body.Close()
		t.body = nil
	}
}

// Close ends the transfer.
func (t *Transfer) Close() {
	t.end(context.Canceled)
	t.drop()
}
