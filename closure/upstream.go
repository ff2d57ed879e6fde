package closure

import (
	"context"
	"errors"
	"fmt"
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
