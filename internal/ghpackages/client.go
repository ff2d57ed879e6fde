// Package ghpackages lists and deletes the versions of one container package
// with GitHub's REST API. ghcr.io itself deletes nothing.
//
// A version of a container package is a manifest: its name is the digest.
package ghpackages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/org/nixoci-action/internal/retry"
)

// PublicAPI is the API that belongs to ghcr.io.
const PublicAPI = "https://api.github.com"

// Options configures New.
type Options struct {
	// API is the API's base URL; "" means PublicAPI.
	API string
	// Token gives the token to authenticate with; it is asked before each
	// request. nil, or an empty token, means none.
	Token func(context.Context) (string, error)
	// Transport sends the requests; nil means http.DefaultTransport.
	Transport http.RoundTripper
	// UserAgent names the program.
	UserAgent string
	// Logger receives requests at debug level, repetitions and pauses at warn
	// level; nil discards them.
	Logger *slog.Logger
}

// Client speaks about one package. It is safe for concurrent use. Requests are
// repeated inside, where that may help.
type Client struct {
	base        string
	owner, name string
	opts        Options
	http        *http.Client
	// deletions are what GitHub asks for: no more than one a second if there
	// are many.
	deletions *rate.Limiter

	timeout, backoff time.Duration
	sleep            func(context.Context, time.Duration) error

	mu     sync.Mutex
	scope  string        // where the owner's packages are; "" until it is known
	waited time.Duration // for rate limits so far
}

// What the API can make us hold and do.
const (
	maxBody  = 16 << 20 // bytes
	maxPages = 2000
	perPage  = 100 // the most there is
	// requestTimeout bounds one request, from its start to the end of its body.
	requestTimeout = time.Minute
	tries          = 5
	firstBackoff   = time.Second
)

// New returns a client for the package that repository, "OWNER/NAME" on
// ghcr.io, is. Nothing is sent yet.
func New(repository string, o Options) (*Client, error) {
	owner, name, ok := strings.Cut(repository, "/")
	if !ok || owner == "" || name == "" {
		return nil, fmt.Errorf("repository %q has no owner and name", repository)
	}
	if o.API == "" {
		o.API = PublicAPI
	}
	u, err := url.Parse(o.API)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" {
		return nil, errors.New("GitHub's API must be a URL without a user and a query")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Client{
		base: strings.TrimSuffix(o.API, "/"), owner: owner, name: name, opts: o,
		http:      &http.Client{Transport: o.Transport, CheckRedirect: checkRedirect},
		deletions: rate.NewLimiter(1, 20),
		timeout:   requestTimeout, backoff: firstBackoff, sleep: retry.Sleep,
	}, nil
}

// checkRedirect keeps the token with the API, and a deletion a deletion.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if req.Method != via[0].Method || req.URL.Host != via[0].URL.Host || req.URL.Scheme != via[0].URL.Scheme || len(via) >= 5 {
		return http.ErrUseLastResponse
	}
	return nil
}

// request is one request to the API.
type request struct {
	method string
	// path is below the API's base, escaped, with a query.
	path string
}

// do sends a request, again as needed, and decodes the answer into out, unless
// it is nil. more says that another page follows.
func (c *Client) do(ctx context.Context, q request, out any) (more bool, err error) {
	backoff := c.backoff
	for n := 1; ; {
		more, err = c.send(ctx, q, out)
		if err == nil {
			return more, nil
		}
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		var limited *limitedError
		switch {
		case errors.As(err, &limited):
			if err := c.pause(ctx, limited); err != nil {
				return false, err
			}
			continue // its own budget is what bounds it
		case n >= tries || !transient(err):
			return false, err
		}
		c.opts.Logger.Debug("GitHub request failed, trying again", "what", q.method+" "+q.path, "try", n, "pause", backoff, "error", err)
		if err := c.sleep(ctx, backoff); err != nil {
			return false, err
		}
		n, backoff = n+1, 2*backoff
	}
}

func (c *Client) send(ctx context.Context, q request, out any) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, q.method, c.base+q.path, nil)
	if err != nil {
		return false, err
	}
	if err := c.sign(ctx, req); err != nil {
		return false, err
	}
	start := time.Now()
	resp, err := c.http.Do(req)
	if err != nil {
		return false, &brokenError{err}
	}
	defer resp.Body.Close()
	c.opts.Logger.Debug("GitHub request", "method", q.method, "path", q.path, "status", resp.StatusCode, "took", time.Since(start).Round(time.Microsecond))
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return false, &brokenError{err}
	case len(body) > maxBody:
		return false, fmt.Errorf("the answer is longer than %d bytes", maxBody)
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return false, answerError(resp, body)
	case out == nil:
		return false, nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return false, fmt.Errorf("decoding the answer: %w", err)
	}
	return strings.Contains(strings.Join(resp.Header.Values("Link"), ","), `rel="next"`), nil
}

// sign sets the headers that GitHub's documentation asks for.
func (c *Client) sign(ctx context.Context, req *http.Request) error {
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	if c.opts.UserAgent != "" {
		req.Header.Set("User-Agent", c.opts.UserAgent)
	}
	if c.opts.Token == nil {
		return nil
	}
	token, err := c.opts.Token(ctx)
	if err != nil {
		return fmt.Errorf("reading the token: %w", err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return nil
}
