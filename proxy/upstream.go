package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/org/nixoci-action/internal/breaker"
	"github.com/org/nixoci-action/internal/reply"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/internal/tally"
)

const (
	// maxNarinfo is the largest narinfo that is read, in bytes.
	maxNarinfo = 1 << 20
	// missTTL is how long a miss on all upstream caches is remembered; Nix
	// itself remembers it for an hour.
	missTTL = 5 * time.Minute
	// failTTL is the same where an upstream gave no answer.
	failTTL = 30 * time.Second
	// maxMisses bounds what is remembered.
	maxMisses = 100_000
)

// Upstreams looks up narinfos on other binary caches, all at once, and leads
// clients to their NARs.
type Upstreams struct {
	caches  []*upstream
	client  *http.Client
	agent   string
	timeout time.Duration
	log     *slog.Logger
	misses  *expiring
	flight  singleflight.Group // by hash part
	nars    *foundNARs
	mode    UpstreamNARs

	// Hits counts narinfos that Serve has found.
	Hits tally.Counter

	firstByte, stall time.Duration // for NARs
}

type upstream struct {
	base    *url.URL // with a slash at its end
	id      string   // in our URLs; the same whatever other upstreams there are
	breaker breaker.Breaker
}

// CheckUpstream reports what is wrong with the URL of an upstream cache.
func CheckUpstream(s string) error {
	_, err := parseUpstream(s)
	return err
}

func parseUpstream(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("the upstream is no URL") // the error would print it, with a password
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("upstream %q is no http or https URL", u.Redacted())
	case u.User != nil:
		// it would reach every client, in the narinfos
		return nil, fmt.Errorf("upstream %q has credentials in it, which are not supported", u.Redacted())
	}
	u.Path = strings.TrimRight(u.Path, "/") + "/"
	u.RawPath, u.RawQuery, u.Fragment = "", "", ""
	return u, nil
}

// NewUpstreams takes the options that concern upstream caches, and the Logger.
// The only error is an upstream that CheckUpstream refuses.
func NewUpstreams(o Options) (*Upstreams, error) {
	u := &Upstreams{
		agent:   "nixoci/" + o.Version,
		timeout: o.UpstreamTimeout,
		log:     o.Logger,
		misses:  newExpiring(maxMisses),
		nars:    &foundNARs{}, mode: o.UpstreamNARs,
		firstByte: o.FirstByte, stall: o.Stall,
	}
	for _, s := range o.Upstreams {
		base, err := parseUpstream(s)
		if err != nil {
			return nil, err
		}
		u.caches = append(u.caches, &upstream{base: base, id: upstreamID(base)})
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 32 // Nix asks with 25 connections
	u.client = &http.Client{Transport: t}
	return u, nil
}

// Forget makes the next look-ups ask again.
func (u *Upstreams) Forget() { u.misses.reset() }

// Serve answers a request with what the upstream caches have.
func (u *Upstreams) Serve(w http.ResponseWriter, r *http.Request, storeDir string) {
	path := r.URL.Path
	if strings.HasPrefix(path, prefixUpstream) {
		u.serveNAR(w, r, path, storeDir)
		return
	}
	hashPart, ok := strings.CutSuffix(strings.TrimPrefix(path, "/"), suffixNarinfo)
	if ok && storepath.ValidHashPart(hashPart) {
		if text, ok := u.narinfo(r.Context(), hashPart, storeDir); ok {
			u.Hits.Add(1)
			reply.Text(w, r, reply.TypeNarinfo, text)
			return
		}
	}
	reply.NotFound(w)
}

// narinfo returns the narinfo of a store path from one of the upstream caches,
// with a URL of ours for the NAR. Signatures do not cover the URL, so they
// stay what they are. Every failure is a miss.
func (u *Upstreams) narinfo(ctx context.Context, hashPart, storeDir string) (string, bool) {
	if len(u.caches) == 0 || u.misses.has(hashPart) {
		return "", false
	}
	// Shared by all who ask meanwhile, so it does not end with the first of
	// them. It also stops a proxy that has itself as an upstream.
	ch := u.flight.DoChan(hashPart, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), u.timeout)
		defer cancel()
		text := u.ask(ctx, hashPart, storeDir)
		return text, nil
	})
	select {
	case res := <-ch:
		text, _ := res.Val.(string)
		return text, text != ""
	case <-ctx.Done():
		return "", false
	}
}

type answer struct {
	text string // empty for a miss
	err  error
}

// ask asks all caches, and remembers if none has it. The first hit wins.
func (u *Upstreams) ask(ctx context.Context, hashPart, storeDir string) string {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, len(u.caches))
	for _, c := range u.caches {
		go func() {
			text, err := u.askOne(ctx, c, hashPart, storeDir)
			answers <- answer{text, err}
		}()
	}
	ttl := missTTL
	for range u.caches {
		a := <-answers
		if a.text != "" {
			return a.text
		}
		if a.err != nil {
			ttl = failTTL
		}
	}
	u.misses.add(hashPart, ttl)
	return ""
}

var errUpstreamUnwell = errors.New("the upstream did not answer lately")

func (u *Upstreams) askOne(ctx context.Context, c *upstream, hashPart, storeDir string) (string, error) {
	if !c.breaker.Allow() {
		return "", errUpstreamUnwell
	}
	text, nar, err := u.get(ctx, c, hashPart, storeDir)
	if text != "" {
		u.nars.add(c.id+hashPart, nar)
	}
	if errors.Is(err, context.Canceled) {
		return "", err // another upstream had it
	}
	if c.breaker.Report(err == nil) {
		u.log.Warn("an upstream cache is unwell; what it may have is not found for a while", "upstream", c.base.String(), "error", err)
	}
	return text, err
}

// get returns the narinfo as we serve it, and where its NAR is; "" for a miss.
func (u *Upstreams) get(ctx context.Context, c *upstream, hashPart, storeDir string) (string, upstreamNAR, error) {
	text, err := u.fetch(ctx, c, hashPart, storeDir)
	if text == "" || err != nil {
		return "", upstreamNAR{}, err
	}
	text, nar := ownURL(text, c.id, hashPart)
	return text, nar, nil
}

// fetch returns the narinfo with the NAR's URL made absolute; "" for a miss.
func (u *Upstreams) fetch(ctx context.Context, c *upstream, hashPart, storeDir string) (string, error) {
	at := c.base.JoinPath(hashPart + suffixNarinfo)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("User-Agent", u.agent)
	resp, err := u.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusGone, http.StatusForbidden, http.StatusUnauthorized: // as Nix sees it
		_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // keeps the connection
		return "", nil
	default:
		return "", fmt.Errorf("the upstream answered %s", resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxNarinfo+1))
	if err != nil {
		return "", err
	}
	if len(body) > maxNarinfo {
		return "", fmt.Errorf("the upstream's narinfo is longer than %d bytes", maxNarinfo)
	}
	return rewriteNarinfo(string(body), c.base, hashPart, storeDir)
}
