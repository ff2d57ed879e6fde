package registry

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// limiter sends the requests of all goroutines through one gate: it keeps to a
// registry's rate limit, and when one request is told to come back later, all
// of them wait.
type limiter struct {
	next http.RoundTripper
	rate *rate.Limiter // nil means unlimited

	requests atomic.Int64

	mu    sync.Mutex
	until time.Time // no request before this
}

// ghcrRate stays below GitHub's limit of about 2,000 requests a minute.
func ghcrRate() *rate.Limiter { return rate.NewLimiter(30, 60) }

// maxRetryAfter bounds the pause that a registry can impose.
const maxRetryAfter = 5 * time.Minute

func (l *limiter) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := l.wait(req.Context()); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	l.requests.Add(1)
	resp, err := l.next.RoundTrip(req)
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
		if err := sleep(ctx, d); err != nil {
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
	if until.After(l.until) {
		l.until = until
	}
}

// bodyRetryAfter is how ghcr.io says it, in the error's message.
var bodyRetryAfter = regexp.MustCompile(`(?i)retry-after: *([0-9][0-9.a-zµ]*)`)

// retryAfter reads the pause from the header (seconds or a date), else from
// the body, which stays readable. 0 means none was named.
func retryAfter(resp *http.Response) time.Duration {
	if h := resp.Header.Get("Retry-After"); h != "" {
		if s, err := strconv.Atoi(h); err == nil {
			return time.Duration(min(s, 3600)) * time.Second
		}
		if t, err := http.ParseTime(h); err == nil {
			return time.Until(t)
		}
	}
	head, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), resp.Body), resp.Body}
	if m := bodyRetryAfter.FindSubmatch(head); m != nil {
		if d, err := time.ParseDuration(string(m[1])); err == nil {
			return d
		}
	}
	return 0
}
