package closure

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/org/nixoci-action/internal/retry"
)

// errPatience means that a look-up's time is too short for the wait ahead.
var errPatience = errors.New("no time left to wait for the upstream cache")

// health is what the look-ups on one upstream cache know together: how long it
// has been failing, whether it asked for a pause, whether it was given up.
type health struct {
	giveUpAfter int           // failed look-ups in a row
	patience    time.Duration // of nothing but failures
	gone        chan struct{} // closed when given up

	mu           sync.Mutex
	failures     int
	failingSince time.Time // zero: the last try succeeded
	notBefore    time.Time // no request before then
	err          error     // why it was given up, or nil
}

// succeeded ends a row of failures.
func (h *health) succeeded() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures, h.failingSince = 0, time.Time{}
}

// failed counts a failed try; final is a look-up's last. Single tries give an
// upstream up only after a time, because many of them fail in one short
// outage.
func (h *health) failed(cause error, final bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if h.failingSince.IsZero() {
		h.failingSince = now
	}
	if final {
		h.failures++
	}
	failing := now.Sub(h.failingSince)
	if h.err == nil && (h.failures >= h.giveUpAfter || failing >= h.patience) {
		h.err = fmt.Errorf("given up after %s without a good answer: %w", failing.Round(time.Millisecond), cause)
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
