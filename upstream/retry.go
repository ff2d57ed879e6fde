package upstream

import (
	"time"

	"github.com/org/nixoci-action/internal/retry"
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
	return retry.Spread(d)
}

// retryAfter is what a Retry-After header asks for, at most maxRetryAfter. What
// cannot be read counts as absent.
func retryAfter(header string, now time.Time) time.Duration {
	d, _ := retry.After(header, now)
	return min(d, maxRetryAfter)
}
