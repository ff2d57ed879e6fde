package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/retry"
)

const (
	maxRedirects = 5
	// maxAlone is how long other requests wait for the first.
	maxAlone = time.Second
)

func (u *Cache) narinfoURL(hashPart string) string {
	return u.String() + "/" + bincache.File{Kind: bincache.Narinfo, Name: hashPart}.Path()
}

// request is one to the cache, or to where it keeps its NARs, which gets no
// credentials.
func (u *Cache) request(ctx context.Context, method, at string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, at, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", u.opts.Agent)
	if u.user != nil && strings.HasPrefix(at, u.base.String()) {
		password, _ := u.user.Password()
		req.SetBasicAuth(u.user.Username(), password)
	}
	return req, nil
}

// ask sends one request, which ends after the timeout or at end.
func (u *Cache) ask(ctx context.Context, hashPart string, end time.Time) (bool, error) {
	timeout := min(u.opts.Timeout, time.Until(end))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if !u.useGET.Load() {
		r, err := u.send(ctx, http.MethodHead, hashPart)
		if err != nil {
			return false, unanswered(err, timeout)
		}
		if r.status != http.StatusMethodNotAllowed && r.status != http.StatusNotImplemented {
			return r.answer()
		}
		u.useGET.Store(true)
	}
	r, err := u.send(ctx, http.MethodGet, hashPart)
	if err != nil {
		return false, unanswered(err, timeout)
	}
	has, err := r.answer()
	// a compressed body cannot be looked into
	if has && r.header.Get("Content-Encoding") == "" && !bytes.Contains(r.body, []byte("/"+hashPart+"-")) {
		return false, fmt.Errorf("%w: answered 200 with something else", ErrUnusable)
	}
	return has, err
}

// reply is an answer that was read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// send sends a request and reads the answer, so that the connection can be
// used again. A body longer than bincache.MaxNarinfo is cut off.
func (u *Cache) send(ctx context.Context, method, hashPart string) (reply, error) {
	req, err := u.request(ctx, method, u.narinfoURL(hashPart))
	if err != nil {
		return reply{}, err
	}
	done := u.turn(ctx)
	resp, err := u.client.Do(req)
	done()
	if err != nil {
		u.opts.Logger.Debug("upstream cache did not answer", "method", method, "upstream", u.String(), "hashPart", hashPart)
		return reply{}, err
	}
	defer func() { _ = resp.Body.Close() }() // nothing is left to lose
	u.opts.Logger.Debug("asked upstream cache", "method", method, "upstream", u.String(), "hashPart", hashPart, "status", resp.StatusCode)
	body, err := io.ReadAll(io.LimitReader(resp.Body, bincache.MaxNarinfo))
	return reply{resp.StatusCode, resp.Header, body}, err
}

// turn lets the first request go ahead alone, for a while: sent together, each
// would open a connection before the transport learns that HTTP/2 needs only
// one. The caller calls done after the request.
func (u *Cache) turn(ctx context.Context) (done func()) {
	if u.started.CompareAndSwap(false, true) {
		return func() { close(u.connected) }
	}
	select {
	case <-u.connected:
	case <-time.After(maxAlone):
	case <-ctx.Done():
	}
	return func() {}
}

// answer turns a status into an answer.
func (r *reply) answer() (bool, error) {
	switch code := r.status; code {
	case http.StatusOK:
		// A login page or a web application that knows every address.
		if strings.HasPrefix(r.header.Get("Content-Type"), "text/html") {
			return false, fmt.Errorf("%w: answered 200 with a web page", ErrUnusable)
		}
		return true, nil
	case http.StatusNotFound, http.StatusGone,
		// S3's answer for a missing key where listing is not allowed, which is
		// the usual set-up; Nix takes it the same way. 401 is different: with
		// other credentials the path might be there.
		http.StatusForbidden:
		return false, nil
	default:
		err := fmt.Errorf("answered %d %s", code, http.StatusText(code))
		if retry.Transient(code) {
			return false, &temporary{err, retryAfter(r.header.Get("Retry-After"), time.Now())}
		}
		return false, err
	}
}

// unanswered describes a failure below HTTP. The URL is taken out of it, as
// that may be a redirect's, signed.
func unanswered(err error, timeout time.Duration) error {
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		err = ue.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %s", timeout.Round(time.Millisecond))
	}
	return &temporary{error: err}
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("redirected more than %d times", maxRedirects)
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		req.Header.Del("Authorization")
	}
	return nil
}

// NewTransport returns what a Cache sends its requests with, unless Options have
// a Transport: the settings of http.DefaultTransport, and enough idle connections
// to keep every one alive.
func NewTransport() *http.Transport {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok { // replaced by the program
		t = &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}
	}
	t = t.Clone()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, 256 // more than anyone's Jobs
	t.MaxResponseHeaderBytes = 64 << 10
	// Without pings a dead HTTP/2 connection swallows every further try.
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 3 * time.Second, PingTimeout: 3 * time.Second}
	return t
}
