package closure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/storepath"
)

// DefaultUpstream is the cache of the Nix project.
const DefaultUpstream = "https://cache.nixos.org"

const (
	maxRedirects = 5
	// maxNarinfoSize bounds the body of an answer, in bytes. Only caches that
	// refuse HEAD send one.
	maxNarinfoSize = 256 << 10
	// maxAlone is how long other requests wait for the first.
	maxAlone  = time.Second
	userAgent = "nixoci-action"
)

// UpstreamOptions tune an Upstream. The zero value is meant for use.
type UpstreamOptions struct {
	// Transport sends the requests. If nil, an own one with the settings of
	// http.DefaultTransport (proxies among them), HTTP/2 where the server has
	// it, and enough idle connections to keep every one alive.
	Transport http.RoundTripper
	// Timeout bounds one try. If less than or equal to 0, a default
	// (currently 10 s) is used.
	Timeout time.Duration
	// Tries is how often one path is asked for while the answers are
	// temporary failures. If less than or equal to 0, a default (currently 5)
	// is used.
	Tries int
	// Backoff is the wait before the second try; it doubles with every
	// further one. If less than or equal to 0, a default (currently 250 ms)
	// is used.
	Backoff time.Duration
	// Patience bounds one look-up with all its tries and waits, and how long
	// the upstream may answer with nothing but failures before it is given
	// up. If less than or equal to 0, a default (currently 1 min) is used.
	Patience time.Duration
	// GiveUpAfter is the number of look-ups that fail one after the other
	// after which the upstream is given up. If less than or equal to 0, a
	// default (currently 10) is used.
	GiveUpAfter int
	// Logger hears of every request at debug level. If nil, nobody does.
	Logger *slog.Logger
}

// Upstream is an upstream cache: a binary cache whose paths are not published
// again. Safe for concurrent use. Once given up, it fails every look-up at
// once; so its life is one run.
type Upstream struct {
	url    string // without credentials, query and trailing slash
	user   *url.Userinfo
	client *http.Client
	opts   UpstreamOptions
	health health
	useGET atomic.Bool // the cache refuses HEAD
	// started and connected are set when the first request is sent and done
	started   atomic.Bool
	connected chan struct{}
}

// NewUpstream returns the upstream cache at an http or https URL, in which a
// trailing slash is ignored. User name and password in it are sent as basic
// authentication and never printed. A query, which in Nix holds settings of
// the client, is dropped.
func NewUpstream(rawURL string, opts UpstreamOptions) (*Upstream, error) {
	u, err := url.Parse(strings.TrimSpace(rawURL))
	if err != nil {
		// the parser's message may quote a password
		return nil, errors.New("parsing the URL of an upstream cache: not a valid URL")
	}
	if (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		err := fmt.Errorf("upstream cache %q: not an http or https URL", u.Redacted())
		return nil, hint.Wrap(err, "did you mean an address like "+DefaultUpstream+"?")
	}
	user := u.User
	u.User, u.RawQuery, u.ForceQuery, u.Fragment, u.RawFragment = nil, "", false, "", ""
	if opts.Transport == nil {
		opts.Transport = newTransport()
	}
	if opts.Timeout <= 0 {
		opts.Timeout = 10 * time.Second
	}
	if opts.Tries <= 0 {
		opts.Tries = 5
	}
	if opts.Backoff <= 0 {
		opts.Backoff = 250 * time.Millisecond
	}
	if opts.Patience <= 0 {
		opts.Patience = time.Minute
	}
	if opts.GiveUpAfter <= 0 {
		opts.GiveUpAfter = 10
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Upstream{
		url:       strings.TrimRight(u.String(), "/"),
		user:      user,
		client:    &http.Client{Transport: opts.Transport, CheckRedirect: checkRedirect},
		opts:      opts,
		health:    health{giveUpAfter: opts.GiveUpAfter, patience: opts.Patience, gone: make(chan struct{})},
		connected: make(chan struct{}),
	}, nil
}

// String is the URL without credentials, query and trailing slash.
func (u *Upstream) String() string { return u.url }

// Has reports whether the upstream cache has the path with this hash part. It
// is certain of both answers; a failure to find out is an error, never false.
// Temporary failures are tried again inside, within UpstreamOptions.Patience.
func (u *Upstream) Has(ctx context.Context, hashPart string) (bool, error) {
	if !storepath.ValidHashPart(hashPart) {
		return false, fmt.Errorf("%q is not a hash part", hashPart)
	}
	has, err := u.lookUp(ctx, hashPart)
	if err != nil {
		return false, fmt.Errorf("asking upstream cache %s for %s: %w", u.url, hashPart, err)
	}
	return has, nil
}

func (u *Upstream) lookUp(ctx context.Context, hashPart string) (bool, error) {
	var (
		end   = time.Now().Add(u.opts.Patience)
		delay time.Duration
		last  error
	)
	for try := 1; ; try++ {
		err := u.health.wait(ctx, delay, u.opts.Backoff, end)
		if errors.Is(err, errPatience) {
			if last == nil {
				last = err
			}
			u.health.failed(last, true)
			return false, last
		} else if err != nil {
			return false, err
		}
		has, err := u.ask(ctx, hashPart, end)
		if err == nil {
			u.health.succeeded()
			return has, nil
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		var t *temporary
		final := !errors.As(err, &t) || try == u.opts.Tries
		u.health.failed(err, final)
		if final {
			return false, err
		}
		last, delay = err, backoff(u.opts.Backoff, try)
		if t.after > 0 {
			u.health.pause(t.after)
		}
	}
}

// ask sends one request, which ends after the timeout or at end.
func (u *Upstream) ask(ctx context.Context, hashPart string, end time.Time) (bool, error) {
	timeout := min(u.opts.Timeout, time.Until(end))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if !u.useGET.Load() {
		resp, _, err := u.send(ctx, http.MethodHead, hashPart)
		if err != nil {
			return false, unanswered(err, timeout)
		}
		if c := resp.StatusCode; c != http.StatusMethodNotAllowed && c != http.StatusNotImplemented {
			return answer(resp)
		}
		u.useGET.Store(true)
	}
	resp, body, err := u.send(ctx, http.MethodGet, hashPart)
	if err != nil {
		return false, unanswered(err, timeout)
	}
	has, err := answer(resp)
	// a compressed body cannot be looked into
	if has && resp.Header.Get("Content-Encoding") == "" && !bytes.Contains(body, []byte("/"+hashPart+"-")) {
		return false, errors.New("answered 200 with something else than the narinfo")
	}
	return has, err
}

// send sends a request and reads the answer, so that the connection can be
// used again. A body longer than maxNarinfoSize is cut off.
func (u *Upstream) send(ctx context.Context, method, hashPart string) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.url+"/"+hashPart+".narinfo", nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("User-Agent", userAgent)
	if u.user != nil {
		password, _ := u.user.Password()
		req.SetBasicAuth(u.user.Username(), password)
	}
	done := u.turn(ctx)
	resp, err := u.client.Do(req)
	done()
	if err != nil {
		u.opts.Logger.Debug("upstream cache did not answer", "method", method, "upstream", u.url, "hashPart", hashPart)
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }() // nothing is left to lose
	u.opts.Logger.Debug("asked upstream cache", "method", method, "upstream", u.url, "hashPart", hashPart, "status", resp.StatusCode)
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxNarinfoSize))
	return resp, body, err
}

// turn lets the first request go ahead alone, for a while: sent together, each
// would open a connection before the transport learns that HTTP/2 needs only
// one. The caller calls done after the request.
func (u *Upstream) turn(ctx context.Context) (done func()) {
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
func answer(resp *http.Response) (bool, error) {
	switch code := resp.StatusCode; code {
	case http.StatusOK:
		// A login page or a web application that knows every address.
		if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
			return false, errors.New("answered 200 with a web page instead of a narinfo")
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
		if temporaryStatus(code) {
			return false, &temporary{err, retryAfter(resp.Header.Get("Retry-After"), time.Now())}
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

func newTransport() *http.Transport {
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
