// Package stall ends requests in which nothing moves, whatever their size, without
// bounding the time of one that moves.
package stall

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// ErrStalled ends a transfer in which nothing moved for too long.
var ErrStalled = errors.New("the transfer stalled")

// ReadError is a failure to read an answer's body. It may pass.
type ReadError struct{ error }

// Unwrap returns what failed.
func (e ReadError) Unwrap() error { return e.error }

// Guard cancels requests in which the server neither takes nor sends a byte for
// Limit. The time that our own side needs, to produce what is sent or to use what
// has come, does not count. It is safe for concurrent use.
type Guard struct {
	Next  http.RoundTripper
	Limit time.Duration
}

// RoundTrip implements http.RoundTripper.
func (g *Guard) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, w := watch(req.Context(), g.Limit+patience(req.Context()))
	req = req.WithContext(ctx)
	if body := req.Body; body != nil && body != http.NoBody {
		req.Body = outgoing{body, w}
		if again := req.GetBody; again != nil {
			req.GetBody = func() (io.ReadCloser, error) {
				body, err := again()
				return outgoing{body, w}, err
			}
		}
	}
	resp, err := g.Next.RoundTrip(req)
	if err != nil {
		w.end()
		return nil, explain(ctx, err)
	}
	w.rest()
	resp.Body = &incoming{resp.Body, ctx, w}
	return resp, nil
}

type patienceKey struct{}

// WithPatience gives the server more time for the requests under ctx.
func WithPatience(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, patienceKey{}, d)
}

func patience(ctx context.Context) time.Duration {
	d, _ := ctx.Value(patienceKey{}).(time.Duration)
	return d
}

// watchdog cancels a context when it has waited for too long.
type watchdog struct {
	stop  context.CancelCauseFunc
	since atomic.Int64 // when the wait began; 0 while it rests

	mu    sync.Mutex // the timer may fire before it is assigned
	timer *time.Timer
}

// watch derives the context of one request. The caller calls end.
func watch(ctx context.Context, limit time.Duration) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{stop: cancel}
	w.feed()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(limit, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		left := limit / 4
		if since := w.since.Load(); since != 0 {
			left = limit - time.Since(time.Unix(0, since))
		}
		if left <= 0 {
			cancel(ErrStalled)
			return
		}
		w.timer.Reset(left)
	})
	return ctx, w
}

func (w *watchdog) feed() { w.since.Store(time.Now().UnixNano()) }
func (w *watchdog) rest() { w.since.Store(0) }

func (w *watchdog) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stop(nil)
	w.timer.Stop()
}

// explain turns the cancellation that a watchdog caused into its reason.
func explain(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), ErrStalled) {
		return ErrStalled
	}
	return err
}

// outgoing is a request's body. Between its reads the server takes what was
// read.
type outgoing struct {
	io.ReadCloser
	w *watchdog
}

func (o outgoing) Read(p []byte) (int, error) {
	o.w.rest()
	n, err := o.ReadCloser.Read(p)
	o.w.feed()
	return n, err
}

// incoming is an answer's body. Failures to read it may pass.
type incoming struct {
	body io.ReadCloser
	ctx  context.Context //nolint:containedctx // the request's own, ended by Close
	w    *watchdog
}

func (i *incoming) Read(p []byte) (int, error) {
	i.w.feed()
	n, err := i.body.Read(p)
	i.w.rest()
	if err != nil && !errors.Is(err, io.EOF) {
		err = ReadError{explain(i.ctx, err)}
	}
	return n, err
}

func (i *incoming) Close() error {
	i.w.end()
	return i.body.Close()
}
