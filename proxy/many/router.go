// Package many serves many caches, each by a proxy.Server. A Union serves
// several as one. A Router serves those that clients name, each below its own
// name.
package many

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/lru"
	"github.com/org/nixoci-action/internal/reply"
	"github.com/org/nixoci-action/proxy"
	"github.com/org/nixoci-action/proxy/blobs"
)

// Access is how a Router wants a cache to be opened.
type Access struct {
	// Cache is its name, as registry.Open takes it: "HOST/NAME", or with
	// "http://" before it if it is allowed without TLS.
	Cache string
	// Credentials are the client's; nil if it sent none. They are for this
	// cache's registry and for nothing else.
	Credentials *Credentials
	// Named tells that the registry's host stands in the allow-list in full.
	// Else only addresses of the public Internet may be connected to.
	Named bool
	// Reserve is for index.Options.Reserve.
	Reserve func(bytes int64) error
}

// RouterOptions configures NewRouter. Allow, Open and Verify are required; the
// zero value of everything else works.
type RouterOptions struct {
	// Allow are globs of the caches that are served, "HOST/NAME". "*" and "?"
	// match within one part between slashes, "**" matches one part or more.
	// CheckAllow tells which are accepted. What matches none does not exist.
	Allow []string
	// Open makes the server for a cache. It reads nothing: the Router does,
	// with the server's Index, whose Load is not used.
	Open func(Access) (*proxy.Server, error)
	// Verify asks the cache's registry whether the credentials still give
	// access to it. It must not rely on what an earlier answer allowed.
	Verify func(context.Context, Access) error
	// Home answers requests that name no cache; nil means "not found".
	Home proxy.Service
	// Version is the program's, for the status.
	Version string
	// Refresh is how old what is known of a cache may become before a request
	// waits until it has been read again; for a cache that was opened with a
	// client's credentials it is also how long these are taken to be valid. If
	// less than or equal to 0, five minutes.
	Refresh time.Duration
	// Wait is how long a request waits for a cache that is being opened; if
	// less than or equal to 0, 10 seconds. The opening itself goes on.
	Wait time.Duration
	// Idle is after what time a cache is dropped that nobody asked; if less
	// than or equal to 0, 10 minutes.
	Idle time.Duration
	// IndexMemory bounds the memory for indexes, in bytes; if less than or
	// equal to 0, 512 MiB. The caches that were asked least recently are
	// dropped to keep to it, and no index is read that does not fit.
	IndexMemory int64
	// PackMemory is how many bytes of packs are held in memory, of all caches
	// together; if 0, 64 MiB; if negative, none.
	PackMemory int64
	// Logger receives what users would want to know; nil discards it.
	Logger *slog.Logger
}

const (
	// absentTTL is how long a cache that is not there, or refuses the client,
	// is not asked for again.
	absentTTL = time.Minute
	// openFailTTL is the same for one whose registry gave no answer.
	openFailTTL = 15 * time.Second
	// openTimeout bounds the opening of a cache.
	openTimeout = 2 * time.Minute
	// maxOpenings is how many caches are opened at a time, and maxWaiting how
	// many there are with those that wait for it.
	maxOpenings = 64
	maxWaiting  = 1024
	// freshWait is how long a request waits for the registry to confirm what
	// is known.
	freshWait = 5 * time.Second
	// checkTimeout bounds a confirmation, and retryAfter is the time to the next
	// after one that failed.
	checkTimeout = 2 * time.Minute
	retryAfter   = 10 * time.Second
)

// Router serves many caches, each below its own name:
// /HOST/NAME/nix-cache-info and so on. A cache is opened when it is first
// asked for, with the credentials that the request carries, and what was
// opened with some credentials is served to nobody who does not send the same.
// It is safe for concurrent use.
type Router struct {
	opts    RouterOptions
	log     *slog.Logger
	started time.Time
	allow   []allowed
	ids     *identities
	packs   *blobs.Budget
	slots   chan struct{}
	absent  *lru.Map[string, struct{}] // keys of caches that are not there, or whose registry is away
	denied  *lru.Map[string, struct{}] // keys of those that refuse the client

	mu       sync.Mutex
	caches   map[key]*hosted
	opening  int   // caches
	reserved int64 // bytes, for indexes that are being read
	dropped  int64 // caches
}

// key tells one hosted cache from another.
type key struct {
	cache string
	who   identity
}

func (k key) String() string { return string(k.who[:]) + k.cache }

// NewRouter returns a Router that has opened nothing yet. The only error is a
// glob that CheckAllow refuses.
func NewRouter(o RouterOptions) (*Router, error) {
	for _, d := range []struct {
		of    *time.Duration
		value time.Duration
	}{{&o.Refresh, 5 * time.Minute}, {&o.Wait, 10 * time.Second}, {&o.Idle, 10 * time.Minute}} {
		if *d.of <= 0 {
			*d.of = d.value
		}
	}
	if o.IndexMemory <= 0 {
		o.IndexMemory = 512 << 20
	}
	if o.PackMemory == 0 {
		o.PackMemory = 64 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Router{
		opts: o, log: o.Logger, started: time.Now(), ids: newIdentities(), packs: blobs.NewBudget(o.PackMemory),
		slots:  make(chan struct{}, maxOpenings),
		absent: lru.New[string, struct{}](10_000, nil), denied: lru.New[string, struct{}](10_000, nil),
		caches: map[key]*hosted{},
	}
	for _, glob := range o.Allow {
		a, err := parseAllow(glob)
		if err != nil {
			return nil, err
		}
		r.allow = append(r.allow, a)
	}
	return r, nil
}

// Prepare prepares Home. Caches are opened when they are asked for.
func (r *Router) Prepare(ctx context.Context) error {
	if r.opts.Home == nil {
		return nil
	}
	return r.opts.Home.Prepare(ctx)
}

// Config is that of Home: each cache has its own.
func (r *Router) Config() format.Config {
	if r.opts.Home == nil {
		return format.Config{}
	}
	return r.opts.Home.Config()
}

// Keys are those of Home.
func (r *Router) Keys() format.KeyChain {
	if r.opts.Home == nil {
		return format.KeyChain{}
	}
	return r.opts.Home.Keys()
}

// Len is the number of store paths of Home.
func (r *Router) Len() int {
	if r.opts.Home == nil {
		return 0
	}
	return r.opts.Home.Len()
}

// Refresh refreshes Home, and drops the caches that nobody is being served from:
// they are opened anew, with whatever logins there are then.
func (r *Router) Refresh(ctx context.Context) error {
	r.mu.Lock()
	for _, c := range r.caches {
		if c.active == 0 && c.opened() && c.checking == nil {
			r.remove(c)
		}
	}
	r.mu.Unlock()
	r.absent.Clear()
	r.denied.Clear()
	if r.opts.Home == nil {
		return nil
	}
	return r.opts.Home.Refresh(ctx)
}

// Servers are those of Home, and of the caches that are open.
func (r *Router) Servers() []*proxy.Server {
	var all []*proxy.Server
	if r.opts.Home != nil {
		all = r.opts.Home.Servers()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.caches {
		if c.opened() {
			all = append(all, c.server)
		}
	}
	return all
}

// Run drops caches that nobody asks, and runs Home, until ctx is cancelled.
func (r *Router) Run(ctx context.Context) {
	if r.opts.Home != nil {
		home := make(chan struct{})
		go func() { defer close(home); r.opts.Home.Run(ctx) }()
		defer func() { <-home }()
	}
	ticker := time.NewTicker(max(r.opts.Idle/8, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			r.dropIdle()
		}
	}
}

// ServeHTTP answers one request. Whatever stands in the way of an answer is
// "not found", or "forbidden" if the cache's registry said so.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(reply.Stall))
	sw := &reply.Writer{ResponseWriter: w}
	defer func() { reply.Survive(r.log, sw, req, recover()) }()

	cache, f := bincache.Split(strings.TrimPrefix(req.URL.Path, "/"))
	switch {
	case cache != "":
		r.serveCache(sw, req, cache, f)
	case f.Kind == bincache.Status && reply.FromLoopback(req):
		r.serveStatus(sw, req)
	case r.opts.Home != nil:
		r.opts.Home.ServeHTTP(sw, req)
	case f.Kind == bincache.Status:
		http.Error(sw, "refused: only for programs on this machine", http.StatusForbidden)
	default:
		reply.Refuse(sw, req)
	}
}

func (r *Router) serveCache(w http.ResponseWriter, req *http.Request, cache string, f bincache.File) {
	access, err := grant(r.allow, cache)
	if err != nil {
		reply.Refuse(w, req)
		return
	}
	access.Credentials = credentialsOf(req)
	c, err := r.enter(req.Context(), access)
	if err != nil {
		if errors.Is(err, errDenied) && (req.Method == http.MethodGet || req.Method == http.MethodHead) {
			// For every Nix the same as "not found", but people see why. To be
			// asked for a login is an error for Nix since 2.35, and it needs
			// no asking: it sends the one that it has.
			http.Error(w, "the registry refuses access to this cache", http.StatusForbidden)
			return
		}
		reply.Refuse(w, req)
		return
	}
	defer r.leave(c)
	c.server.ServeHTTP(w, stripped(req, "/"+f.Path()))
	if f.Kind == bincache.Refresh {
		r.settle(c) // it may have grown
	}
}

// stripped is the request as a proxy of this cache alone would get it. The
// credentials end here.
func stripped(req *http.Request, path string) *http.Request {
	q := req.WithContext(req.Context())
	q.Header = req.Header.Clone()
	q.Header.Del("Authorization")
	u := *req.URL
	u.Path, u.RawPath, u.User = path, "", nil
	q.URL = &u
	return q
}

// errNoMemory means that an index does not fit.
var errNoMemory = errors.New("the memory for indexes is used up")

// reserve makes room for n bytes of the index of c, at the cost of caches that
// nobody is being served from.
func (r *Router) reserve(c *hosted, n int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.fit(c, n) {
		return fmt.Errorf("%w: %d bytes more, with %d of %d in use", errNoMemory, n, r.memory(), r.opts.IndexMemory)
	}
	r.reserved += n
	c.reserved += n
	return nil
}

// settle replaces what was reserved for c by what it takes.
func (r *Router) settle(c *hosted) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reserved -= c.reserved
	c.reserved = 0
	c.memory = 0
	if c.server != nil {
		c.memory = c.server.Memory()
	}
	r.fit(c, 0)
}

// fit drops caches until n more bytes fit. It spares c and those in use.
func (r *Router) fit(c *hosted, n int64) bool {
	for r.memory()+n > r.opts.IndexMemory {
		var oldest *hosted
		for _, x := range r.caches {
			if x != c && x.active == 0 && x.opened() && x.checking == nil && (oldest == nil || x.used.Before(oldest.used)) {
				oldest = x
			}
		}
		if oldest == nil {
			return false
		}
		r.remove(oldest)
	}
	return true
}

// memory is what all indexes take, and those that are being read may take.
func (r *Router) memory() int64 {
	n := r.reserved
	for _, c := range r.caches {
		n += c.memory
	}
	return n
}

func (r *Router) dropIdle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.caches {
		if c.active == 0 && c.opened() && time.Since(c.used) > r.opts.Idle {
			r.remove(c)
		}
	}
}

// remove drops a cache that is open. Requests that it is serving go on.
func (r *Router) remove(c *hosted) {
	if r.caches[c.key] != c {
		return
	}
	delete(r.caches, c.key)
	r.dropped++
	c.server.Close()
}
