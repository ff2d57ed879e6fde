package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/org/nixoci-action/internal/retry"
	"github.com/org/nixoci-action/internal/stall"
)

// retryPolicy says how often and how patiently an operation is tried. It is
// the only place where requests to a registry are repeated.
type retryPolicy struct {
	tries int           // in all
	base  time.Duration // wait before the second try, doubled each time
	max   time.Duration // longest wait
}

// unreachedTries are enough where nobody has ever answered: the name of the
// registry may be wrong, and whoever waits should know soon.
const unreachedTries = 3

var defaultRetry = retryPolicy{tries: 6, base: 500 * time.Millisecond, max: 30 * time.Second}

// permanentError keeps do from trying again.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// retryable marks an error that another try may mend.
type retryable struct{ error }

func (e retryable) Unwrap() error { return e.error }

// mayPass reports whether an error is marked so, or came in an answer's body.
func mayPass(err error) bool {
	return errors.As(err, new(retryable)) || errors.As(err, new(stall.ReadError))
}

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
		if n >= p.tries || !transient(err) || ctx.Value(onceKey{}) != nil || n >= unreachedTries && errors.As(err, new(unreached)) {
			return err
		}
		pause := retry.Spread(wait)
		log.Debug("registry request failed, trying again", "what", what, "try", n, "pause", pause.Round(time.Millisecond), "error", err)
		if err := retry.Sleep(ctx, pause); err != nil {
			return err
		}
		wait = min(2*wait, p.max)
	}
}

// transient tells failures that may pass from answers that will stay.
func transient(err error) bool {
	if mayPass(err) || errors.Is(err, stall.ErrStalled) {
		return true
	}
	var te *transport.Error
	if errors.As(err, &te) {
		return retry.Transient(te.StatusCode)
	}
	// these are net.Errors too, like all that http.Client returns
	var dns *net.DNSError
	if errors.As(err, new(*tls.CertificateVerificationError)) || errors.As(err, &dns) && dns.IsNotFound {
		return false
	}
	return errors.As(err, new(net.Error)) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}
