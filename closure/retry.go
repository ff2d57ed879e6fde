package closure

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

const (
	// maxBackoff bounds the exponential part of a wait.
	maxBackoff = 10 * time.Second
	// maxRetryAfter bounds what a server may ask for: a publish that waits
	// longer than this costs more than uploading the path.
	maxRetryAfter = 30 * time.Second
)

// temporary is an error that another try may get past.
type temporary struct {
	error
	after time.Duration // the server's Retry-After, or 0
}

func (t *temporary) Unwrap() error { return t.error }

// temporaryStatus reports whether another try may be answered differently.
func temporaryStatus(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return code >= 500
}

// backoff returns the wait after the given try (1 is the first): first,
// doubled with every try, of which a random half is taken off, so that
// look-ups that failed together do not come back together.
func backoff(first time.Duration, try int) time.Duration {
	d := first
	for range try - 1 {
		if d *= 2; d >= maxBackoff {
			d = maxBackoff
			break
		}
	}
	return d/2 + jitter(d/2)
}

// jitter returns a random duration from 0 up to d.
func jitter(d time.Duration) time.Duration {
	return rand.N(d + 1) //nolint:gosec // spreads load, guards nothing
}

// retryAfter reads a Retry-After header, which holds seconds or a date. What
// cannot be read counts as absent; more than maxRetryAfter counts as that.
func retryAfter(header string, now time.Time) time.Duration {
	var d time.Duration
	if seconds, err := strconv.ParseUint(header, 10, 32); err == nil || errors.Is(err, strconv.ErrRange) {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(header); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}
