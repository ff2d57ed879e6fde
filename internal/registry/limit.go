package registry

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/org/nixoci-action/internal/retry"
)

// limiter sends the requests of all goroutines through one gate: it keeps to a
// registry's rate limit, and when one request is told to come back later, all
// of them wait.
type limiter struct {
	next http.RoundTripper
	rate *rate.Limiter // nil means unlimited
	log  *slog.Logger  // is told of pauses that people notice

	requests atomic.Int64
	answered atomic.Bool // any of them

	mu    sync.Mutex
	until time.Time // no request before this
}

// ghcrRate stays below GitHub's limit of about 2,000 requests a minute.
func ghcrRate() *rate.Limiter { return rate.NewLimiter(30, 60) }

// maxRetryAfter bounds the pause that a registry can impose.
const maxRetryAfter = 5 * time.Minute

// noticeable is the pause after which people ask what happens.
const noticeable = 5 * time.Second

func (l *limiter) RoundTrip(req *http.Request) (*http.Response, error) {
	req, err := fresh(req)
	if err == nil {
		err = l.wait(req.Context())
	}
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	l.requests.Add(1)
	resp, err := l.next.RoundTrip(req)
	if err == nil {
		l.answered.Store(true)
	}
	if err == nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable) {
		l.pause(retryAfter(resp))
	}
	return resp, err
}

func (l *limiter) wait(ctx context.Context) error {
	for {
		l.mu.Lock()
		d := time.Until(l.until)
		l.mu.Unlock()
		if d <= 0 {
			break
		}
		if err := retry.Sleep(ctx, d); err != nil {
			return err
		}
	}
	if l.rate == nil {
		return nil
	}
	return l.rate.Wait(ctx)
}

func (l *limiter) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	until := time.Now().Add(min(d, maxRetryAfter))
	l.mu.Lock()
	defer l.mu.Unlock()
	if until.Sub(l.until) > noticeable && time.Until(until) > noticeable {
		l.log.Warn("the registry limits requests, waiting", "pause", time.Until(until).Round(time.Second))
	}
	if until.After(l.until) {
		l.until = until
	}
}

// bodyRetryAfter is how ghcr.io says it, in the error's message.
var bodyRetryAfter = regexp.MustCompile(`(?i)retry-after: *([0-9]+(?:\.[0-9]+)?)((?:ns|us|µs|ms|s|m|h)?)\.?(?:[^0-9a-zµ.]|$)`)

// retryAfter reads the pause from the header (seconds or a date), else from
// the body, which stays readable. 0 means none was named.
func retryAfter(resp *http.Response) time.Duration {
	if d, ok := retry.After(resp.Header.Get("Retry-After"), time.Now()); ok {
		return min(d, maxRetryAfter)
	}
	head, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), resp.Body), resp.Body}
	return retryAfterIn(head)
}

// retryAfterIn finds the pause in the text of an answer. Without a unit it is
// in seconds, as in the header.
func retryAfterIn(text []byte) time.Duration {
	m := bodyRetryAfter.FindSubmatch(text)
	if m == nil {
		return 0
	}
	unit := string(m[2])
	if unit == "" {
		unit = "s"
	}
	d, err := time.ParseDuration(string(m[1]) + unit)
	if err != nil { // so long that it does not fit
		return maxRetryAfter
	}
	return d
}
