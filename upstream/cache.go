// Package upstream asks other binary caches whether they have a path, for its
// narinfo, and for its NAR. It bounds what that may take in time and bytes. It
// notices that a cache is unwell. It remembers between runs what a cache has.
package upstream

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

// Default is the cache of the Nix project.
const Default = "https://cache.nixos.org"

// Options tune a Cache. The zero value is meant for use in one run.
type Options struct {
	// Agent is the client's name for the cache. If empty, "nixoci-action".
	Agent string
	// Public refuses URLs with credentials, for a program that tells its clients
	// where things are.
	Public bool
	// Service is for a program that goes on when the cache is unwell: it asks
	// it again after a while. Otherwise it is given up for good, because a run
	// that waits costs more than it saves.
	Service bool
	// Transport sends the requests. If nil, what NewTransport returns.
	Transport http.RoundTripper
	// Timeout bounds one try of Has. If less than or equal to 0, a default
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
	// Patience bounds one Has with all its tries and waits, and how long the
	// cache may answer with nothing but failures before it is given up. If less
	// than or equal to 0, a default (currently 1 min) is used.
	Patience time.Duration
	// GiveUpAfter is the number of look-ups that fail one after the other
	// after which the cache is given up. If less than or equal to 0, a default
	// is used: currently 10, as each has had all its tries, and 2 with Service,
	// as a client waits meanwhile.
	GiveUpAfter int
	// Logger hears of every request at debug level. If nil, nobody does.
	Logger *slog.Logger
}

// ErrGivenUp means that a cache failed so often that it is not asked any more.
var ErrGivenUp = errors.New("the cache was given up")

// Cache is a binary cache on another machine. Safe for concurrent use. Unless
// Options.Service is set, a given up one fails every look-up at once, so its
// life is one run.
type Cache struct {
	base   *url.URL // without credentials and query, and with a trailing slash
	name   string   // base without the slash
	user   *url.Userinfo
	client *http.Client
	opts   Options
	health health
	useGET atomic.Bool // the cache refuses HEAD
	// started and connected are set when the first request is sent and done
	started   atomic.Bool
	connected chan struct{}
}

// New returns the cache at an http or https URL, in which a trailing slash is
// ignored. User name and password in it are sent as basic authentication and
// never printed. A query, which in Nix holds settings of the client, is dropped.
// It asks nobody; its error is about the URL.
func New(rawURL string, opts Options) (*Cache, error) {
	u, err := url.Parse(strings.TrimSpace(rawURL))
	switch {
	case err != nil:
		// the parser's message may quote a password
		return nil, errors.New("parsing the URL of an upstream cache: not a valid URL")
	case (u.Scheme != "https" && u.Scheme != "http") || u.Host == "":
		err := fmt.Errorf("upstream cache %q: not an http or https URL", u.Redacted())
		return nil, hint.Wrap(err, "did you mean an address like "+Default+"?")
	case opts.Public && u.User != nil:
		return nil, fmt.Errorf("upstream cache %q: it has credentials in it, which are not supported", u.Redacted())
	}
	user := u.User
	u.User, u.RawQuery, u.ForceQuery, u.Fragment, u.RawFragment = nil, "", false, "", ""
	name := strings.TrimRight(u.String(), "/")
	if u, err = url.Parse(name + "/"); err != nil {
		return nil, errors.New("parsing the URL of an upstream cache: not a valid URL")
	}
	if opts.Agent == "" {
		opts.Agent = "nixoci-action"
	}
	if opts.Transport == nil {
		opts.Transport = NewTransport()
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
	if opts.GiveUpAfter <= 0 && !opts.Service {
		opts.GiveUpAfter = 10
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Cache{
		base: u, name: name, user: user,
		client:    &http.Client{Transport: opts.Transport, CheckRedirect: checkRedirect},
		opts:      opts,
		health:    health{gone: make(chan struct{})},
		connected: make(chan struct{}),
	}
	c.health.breaker.After, c.health.breaker.ForGood = opts.GiveUpAfter, !opts.Service
	if !opts.Service {
		c.health.breaker.Patience = opts.Patience
	}
	return c, nil
}

// String is the URL without credentials, query and trailing slash.
func (u *Cache) String() string { return u.name }

// Has reports whether the cache has the path with this hash part. It is certain
// of both answers; a failure to find out is an error, never false, and wraps
// ErrGivenUp once the cache is given up for good. Temporary failures are tried
// again inside, within Options.Patience.
func (u *Cache) Has(ctx context.Context, hashPart string) (bool, error) {
	if !storepath.ValidHashPart(hashPart) {
		return false, fmt.Errorf("%q is not a hash part", hashPart)
	}
	has, err := u.lookUp(ctx, hashPart)
	if err != nil {
		err = fmt.Errorf("asking upstream cache %s for %s: %w", u.name, hashPart, err)
		if u.health.givenUp() != nil {
			err = givenUpError{err}
		}
		return false, err
	}
	return has, nil
}

// givenUpError is any error after which nothing is asked any more.
type givenUpError struct{ error }

func (e givenUpError) Unwrap() error        { return e.error }
func (e givenUpError) Is(target error) bool { return target == ErrGivenUp }

func (u *Cache) lookUp(ctx context.Context, hashPart string) (bool, error) {
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
			u.health.breaker.Report(true)
			return has, nil
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if errors.Is(err, ErrUnusable) {
			u.health.breaker.Report(true)
			return false, err
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
