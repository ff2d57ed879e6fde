package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/org/nixoci-action/internal/breaker"
	"github.com/org/nixoci-action/internal/retry"
)

// errPatience means that a look-up's time is too short for the wait ahead.
var errPatience = errors.New("no time left to wait for the upstream cache")

// health is what the requests to one cache know together: whether it fails,
// whether it asked for a pause, whether it was given up.
type health struct {
	breaker breaker.Breaker
	gone    chan struct{} // closed when given up

	mu        sync.Mutex
	notBefore time.Time // no request before then
	err       error     // why it was given up for good, or nil
}

// failed counts a failed try; final is a look-up's last. Single tries give an
// upstream up only after a time, because many of them fail in one short
// outage.
func (h *health) failed(cause error, final bool) {
	var opened bool
	if final {
		opened = h.breaker.Report(false)
	} else {
		opened = h.breaker.Retry()
	}
	if opened && h.breaker.ForGood {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.err = fmt.Errorf("given up after %s without a good answer: %w", h.breaker.Failing().Round(time.Millisecond), cause)
		close(h.gone)
	}
}

// pause keeps every look-up from sending a request for d.
func (h *health) pause(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if until := time.Now().Add(d); until.After(h.notBefore) {
		h.notBefore = until
	}
}

func (h *health) givenUp() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// wait returns after delay and after any pause, spread over a further spread.
// It fails at once when that would be after end, when the upstream is given
// up, or when ctx is done.
func (h *health) wait(ctx context.Context, delay, spread time.Duration, end time.Time) error {
	until := time.Now().Add(delay)
	for {
		h.mu.Lock()
		err, pause := h.err, h.notBefore
		h.mu.Unlock()
		if err != nil {
			return err
		}
		if pause.After(until) {
			until = pause.Add(retry.Up(spread))
		}
		if until.After(end) {
			return errPatience
		}
		left := time.Until(until)
		if left <= 0 {
			return ctx.Err()
		}
		select {
		case <-time.After(left):
		case <-h.gone:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
