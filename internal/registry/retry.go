package registry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// retryPolicy says how often and how patiently an operation is tried. It is
// the only place where requests to a registry are repeated.
type retryPolicy struct {
	tries int           // in all
	base  time.Duration // wait before the second try, doubled each time
	max   time.Duration // longest wait
}

var defaultRetry = retryPolicy{tries: 6, base: 500 * time.Millisecond, max: 30 * time.Second}

// retryableStatus are the answers after which the same request may succeed.
var retryableStatus = []int{
	http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
	http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
}

// permanentError keeps do from trying again.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// do calls try until it succeeds, fails for good, or the tries are used up. A
// pause that the registry asked for with Retry-After is kept by the limiter,
// before the next request goes out.
func (p retryPolicy) do(ctx context.Context, log *slog.Logger, what string, try func() error) error {
	wait := p.base
	for n := 1; ; n++ {
		err := try()
		if err == nil {
			return nil
		}
		var perm permanentError
		if errors.As(err, &perm) {
			return perm.error
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if n >= p.tries || !transient(err) {
			return err
		}
		// full jitter on the upper half
		pause := wait/2 + rand.N(wait/2+1) //nolint:gosec // spreads retries, guards nothing
		log.Warn("registry request failed, trying again", "what", what, "try", n, "pause", pause.Round(time.Millisecond), "error", err)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		wait = min(2*wait, p.max)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// transient tells failures that may pass from answers that will stay.
func transient(err error) bool {
	if errors.As(err, new(retryable)) {
		return true
	}
	var te *transport.Error
	if errors.As(err, &te) {
		return slices.Contains(retryableStatus, te.StatusCode)
	}
	var ne net.Error
	return errors.As(err, &ne) || errors.Is(err, errStalled) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, errTruncated)
}
