package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// errStalled ends a transfer in which nothing moved for too long.
var errStalled = errors.New("the transfer stalled")

// stallTimeout is how long a registry may keep us waiting. It bounds every
// request, whatever its size, without bounding the time of one that moves.
const stallTimeout = 60 * time.Second

// stallGuard cancels requests in which the registry neither takes nor sends a
// byte for limit. The time that our own side needs, to produce what is sent or
// to use what has come, does not count.
type stallGuard struct {
	next  http.RoundTripper
	limit time.Duration
}

func (g *stallGuard) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, w := watch(req.Context(), g.limit+patience(req.Context()))
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
	resp, err := g.next.RoundTrip(req)
	if err != nil {
		w.end()
		return nil, explain(ctx, err)
	}
	w.rest()
	resp.Body = &incoming{resp.Body, ctx, w}
	return resp, nil
}

type patienceKey struct{}

// withPatience gives the registry more time for the requests under ctx.
func withPatience(ctx context.Context, d time.Duration) context.Context {
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
			cancel(errStalled)
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
	if errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// outgoing is a request's body. Between its reads the registry takes what was
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
		err = retryable{explain(i.ctx, err)}
	}
	return n, err
}

func (i *incoming) Close() error {
	i.w.end()
	return i.body.Close()
}
