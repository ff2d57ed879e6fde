package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/lru"
	"github.com/org/nixoci-action/internal/reply"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/internal/tally"
	"github.com/org/nixoci-action/upstream"
)

const (
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
	caches  []*namedUpstream
	timeout time.Duration
	log     *slog.Logger
	misses  *lru.Map[string, struct{}]
	flight  singleflight.Group            // by hash part
	nars    *lru.Map[string, upstreamNAR] // by upstream and hash part
	mode    UpstreamNARs

	// Hits counts narinfos that Serve has found.
	Hits tally.Counter

	firstByte, stall time.Duration // for NARs
}

type namedUpstream struct {
	*upstream.Cache
	id string // in our URLs; the same whatever other upstreams there are
}

// CheckUpstream reports what is wrong with the URL of an upstream cache.
func CheckUpstream(s string) error {
	_, err := openUpstream(s, "")
	return err
}

// openUpstream refuses credentials: they would reach every client, in redirects.
func openUpstream(s, version string) (*namedUpstream, error) {
	c, err := upstream.New(s, upstream.Options{Agent: "nixoci/" + version, Public: true, Service: true})
	if err != nil {
		return nil, err
	}
	return &namedUpstream{c, shortHash(c.String() + "/")}, nil
}

// NewUpstreams takes the options that concern upstream caches, and the Logger.
// The only error is an upstream that CheckUpstream refuses.
func NewUpstreams(o Options) (*Upstreams, error) {
	u := &Upstreams{
		timeout: o.UpstreamTimeout,
		log:     o.Logger,
		misses:  lru.New[string, struct{}](maxMisses, nil),
		nars:    lru.New[string, upstreamNAR](maxFound, nil), mode: o.UpstreamNARs,
		firstByte: o.FirstByte, stall: o.Stall,
	}
	for _, s := range o.Upstreams {
		c, err := openUpstream(s, o.Version)
		if err != nil {
			return nil, err
		}
		u.caches = append(u.caches, c)
	}
	return u, nil
}

// Forget makes the next look-ups ask again.
func (u *Upstreams) Forget() { u.misses.Clear() }

// Serve answers a request with what the upstream caches have.
func (u *Upstreams) Serve(w http.ResponseWriter, r *http.Request, storeDir string) {
	switch f := bincache.ParseURLPath(r.URL.Path); f.Kind {
	case bincache.UpstreamNAR:
		u.serveNAR(w, r, f, storeDir)
		return
	case bincache.Narinfo:
		if !storepath.ValidHashPart(f.Name) {
			break
		}
		if text, ok := u.narinfo(r.Context(), f.Name, storeDir); ok {
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
	if len(u.caches) == 0 || u.misses.Has(hashPart) {
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
	u.misses.PutFor(hashPart, struct{}{}, ttl)
	return ""
}

var errUpstreamUnwell = errors.New("the upstream did not answer lately")

// askOne returns the narinfo as we serve it, and remembers where its NAR is; "" for
// a miss.
func (u *Upstreams) askOne(ctx context.Context, c *namedUpstream, hashPart, storeDir string) (text string, err error) {
	if !c.Allow() {
		return "", errUpstreamUnwell
	}
	fields, err := c.Narinfo(ctx, hashPart, storeDir)
	if fields != nil {
		nar := upstreamNAR{fields.Get("URL"), shortHash(fields.Get("NarHash"))}
		u.nars.PutFor(c.id+hashPart, nar, foundTTL)
		fields.Set("URL", ownFile(c.id, hashPart, nar.tag).Path())
		text = fields.String()
	}
	if errors.Is(err, context.Canceled) {
		return "", err // another upstream had it
	}
	if errors.Is(err, upstream.ErrUnusable) {
		u.log.Info("an upstream cache's narinfo is not passed on, because Nix could not use it", "upstream", c.String(), "hashPart", hashPart, "error", err)
		err = nil // the answer is a miss
	}
	if c.Report(err == nil) {
		u.log.Warn("an upstream cache is unwell; what it may have is not found for a while", "upstream", c.String(), "error", err)
	}
	return text, err
}
