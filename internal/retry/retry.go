// Package retry is what every client needs that tries again: waiting that a
// context ends, waits that differ from client to client, what a server asks
// for, and which answers may change. The client decides how often to try, and
// what else counts as transient.
package retry

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// Sleep returns after d, or when ctx is done with the cause of that.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// Up returns a random duration from 0 up to d.
func Up(d time.Duration) time.Duration {
	return rand.N(max(d, 0) + 1) //nolint:gosec // spreads load, guards nothing
}

// Spread returns a random duration between the half of d and d, so that clients
// that failed together do not come back together.
func Spread(d time.Duration) time.Duration { return d/2 + Up(d/2) }

// maxAfter bounds what After returns: callers have bounds of their own.
const maxAfter = 365 * 24 * time.Hour

// After reads a Retry-After header (RFC 9110, section 10.2.3), which holds seconds
// or a date. The result is never negative. It is false if the header says neither.
func After(header string, now time.Time) (time.Duration, bool) {
	if s, err := strconv.ParseInt(header, 10, 64); err == nil {
		return time.Duration(min(max(s, 0), int64(maxAfter/time.Second))) * time.Second, true
	} else if s != 0 {
		return maxAfter, s > 0 // it does not fit into 64 bits
	}
	if t, err := http.ParseTime(header); err == nil {
		return min(max(t.Sub(now), 0), maxAfter), true
	}
	return 0, false
}

// Transient reports whether the same request may be answered differently after a
// moment. Servers, and the proxies before them, have many codes above 500.
func Transient(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusInsufficientStorage:
		return false
	}
	return status >= 500
}
