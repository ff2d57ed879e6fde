package registry

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// errStalled ends a transfer in which nothing moved for too long.
	errStalled = errors.New("the transfer stalled")
	// errTruncated is a body that ended before its announced length.
	errTruncated = errors.New("the registry sent too few bytes")
)

// stallTimeout is how long a transfer may stand still. It bounds every body,
// whatever its size, without bounding the time of one that moves.
const stallTimeout = 60 * time.Second

// watchdog cancels a context when it has not been fed for a while.
type watchdog struct {
	stop context.CancelCauseFunc
	fed  atomic.Int64

	mu    sync.Mutex // the timer may fire before it is assigned
	timer *time.Timer
}

// watch derives the context of one transfer. The caller calls end.
func watch(ctx context.Context, limit time.Duration) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{stop: cancel}
	w.feed()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(limit, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if idle := time.Since(time.Unix(0, w.fed.Load())); idle < limit {
			w.timer.Reset(limit - idle)
			return
		}
		cancel(errStalled)
	})
	return ctx, w
}

func (w *watchdog) feed() { w.fed.Store(time.Now().UnixNano()) }

func (w *watchdog) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
	w.stop(nil)
}

// explain turns the cancellation that a watchdog caused into its reason.
func explain(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// feeding reports each read to the watchdog.
type feeding struct {
	io.Reader
	w *watchdog
}

func (f feeding) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	f.w.feed()
	return n, err
}
