// Package proxy serves a cache by Nix's HTTP binary cache protocol. Narinfos
// come from the cache index in memory. NARs are streamed from the registry.
// Listings, logs and realisations are served as far as the index has them.
//
// A build must never fail because of the cache. Nix gives up a build when a
// substituter answers a narinfo request with anything but a narinfo or a plain
// "not found". It also gives up when a NAR that it was promised breaks off. So
// whatever goes wrong behind the proxy becomes a 404 here, after a bounded
// time. Nix then asks the next substituter, or builds.
//
// The package only reads, unless Options.Push lets clients write as well. Then
// it takes paths one by one, and acknowledges each when it is durable. It does
// not know how the index or the registry work.
package proxy

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/reply"
	"github.com/org/nixoci-action/proxy/blobs"
	"github.com/org/nixoci-action/proxy/push"
)

// Index is where the proxy learns what the cache holds; *index.Cache is one.
type Index interface {
	// Load returns the copy on disk, without a request.
	Load() (*index.Snapshot, error)
	// Refresh reads what the root shows.
	Refresh(ctx context.Context) (*index.Snapshot, error)
	// Sweep is Refresh with a look at the tag list.
	Sweep(ctx context.Context) (*index.Snapshot, error)
}

// Options configures New. Index and Blobs are required; the zero value of
// everything else works.
type Options struct {
	Index Index
	Blobs blobs.Store
	// Cache is the cache's name, for the status.
	Cache string
	// TrustedKeys are public keys that clients are told until the index is read:
	// those with which it was opened.
	TrustedKeys []string
	// Version is the program's, for the status and towards upstream caches.
	Version string
	// Upstreams are URLs of binary caches that are asked for what the cache
	// lacks. CheckUpstream tells which are accepted.
	Upstreams []string
	// Refresh is the time between polls of the root; if less than or equal to
	// 0, five minutes. The tag list is read hourly.
	Refresh time.Duration
	// FirstByte is how long the registry may take until the first bytes of a
	// NAR are there; then the NAR is "not found". If less than or equal to 0,
	// 20 seconds.
	FirstByte time.Duration
	// Stall is how long a NAR that is under way may stand still before it is
	// given up; if less than or equal to 0, 90 seconds. Nix waits for five
	// minutes.
	Stall time.Duration
	// UpstreamNARs says how clients get the NARs of paths that an upstream cache
	// has.
	UpstreamNARs UpstreamNARs
	// UpstreamTimeout bounds a look-up on the upstream caches; if less than or
	// equal to 0, 5 seconds.
	UpstreamTimeout time.Duration
	// PackMemory is how many bytes of packs are held in memory; if 0, 64 MiB;
	// if negative, none.
	PackMemory int64
	// Redirect, if it is not nil, makes the proxy answer with where the
	// registry's storage has a NAR, instead of with the NAR, if such a URL is
	// to be had. Then the proxy neither verifies nor resumes.
	Redirect Redirector
	// Metrics counts what is done; nil means that nobody wants to know.
	Metrics *Metrics
	// Push lets clients write; nil means that they only read.
	Push *push.Receiver
	// Page answers what Page.Owns accepts: pages for people. Nil for none.
	Page Page
	// Logger receives what users of the cache would want to know; nil
	// discards it.
	Logger *slog.Logger
}

// Server serves one cache. It is safe for concurrent use.
type Server struct {
	opts      Options
	log       *slog.Logger
	started   time.Time
	upstreams *Upstreams
	packs     *blobs.Packs
	documents *blobs.Documents
	registry  *blobs.Health // of transfers
	corrupt   blobs.Corrupt // file hashes of NARs, and blobs
	torn      blobs.Corrupt // NARs of which somebody may have a damaged part
	redirects *redirects
	push      *push.Receiver // nil if clients only read
	pushed    *index.Group   // what the index may not show yet; nil like push
	orancTold atomic.Bool
	running   atomic.Bool // Run has begun
	away      bool        // the last reading by Prepare or Run failed; theirs alone

	snapshot atomic.Pointer[index.Snapshot]
	refresh  chan struct{} // holds one token: a refresh is under way
	counts   counts

	mu          sync.Mutex
	refreshed   time.Time // last success
	swept       time.Time // last success that saw the tag list
	refreshErr  error     // of the last try
	refreshTime time.Time // of the last try
}

// New returns a Server that has nothing to serve yet; Prepare reads the index.
// The only error is an upstream that CheckUpstream refuses.
func New(o Options) (*Server, error) {
	o = o.WithDefaults()
	up, err := NewUpstreams(o)
	if err != nil {
		return nil, err
	}
	s := &Server{
		opts: o, log: o.Logger, started: time.Now(),
		upstreams: up,
		packs:     blobs.NewPacks(o.Blobs, o.PackMemory, o.Logger),
		registry:  blobs.NewHealth(o.Logger),
		corrupt:   blobs.NewCorrupt(),
		torn:      blobs.NewCorrupt(),
		redirects: newRedirects(o.Redirect),
		refresh:   make(chan struct{}, 1),
	}
	s.documents = blobs.NewDocuments(blobs.DocumentsOptions{
		Store: o.Blobs, Health: s.registry, Corrupt: s.corrupt, FirstByte: o.FirstByte, Stall: o.Stall,
	})
	if o.Metrics != nil {
		s.counts.countIn(&o.Metrics.counts)
	}
	if s.push = o.Push; s.push != nil {
		if o.Metrics != nil {
			s.push.Counts.CountIn(&o.Metrics.pushed)
		}
		s.push.Attach(pushServer{s, new(ownUpstreams)})
		s.pushed = s.push.Group()
	}
	return s, nil
}

// WithDefaults are the options as New takes them.
func (o Options) WithDefaults() Options {
	orDefault(&o.Refresh, 5*time.Minute)
	orDefault(&o.FirstByte, 20*time.Second)
	orDefault(&o.Stall, 90*time.Second)
	orDefault(&o.UpstreamTimeout, 5*time.Second)
	if o.PackMemory == 0 {
		o.PackMemory = 64 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func orDefault(d *time.Duration, value time.Duration) {
	if *d <= 0 {
		*d = value
	}
}

// Config returns what the cache says about itself, as far as it is known. Which
// of the keys are to be trusted Keys says.
func (s *Server) Config() format.Config {
	if snap := s.snapshot.Load(); snap != nil {
		return snap.Config()
	}
	return format.Config{}
}

// Keys returns the keys of the cache, as far as they are known.
func (s *Server) Keys() format.KeyChain {
	var own []string
	if s.push != nil { // the cache learns them with the first push
		own = s.push.PublicKeys()
	}
	snap := s.snapshot.Load()
	switch {
	case snap == nil:
		return format.KeyChain{Trusted: format.Union(s.opts.TrustedKeys, own)}
	case len(own) > 0:
		return snap.KeysWith(own)
	}
	return snap.Keys()
}

// Len returns the number of store paths that can be served.
func (s *Server) Len() int {
	if snap := s.snapshot.Load(); snap != nil {
		return snap.Len()
	}
	return 0
}

// Cache is the cache's name.
func (s *Server) Cache() string { return s.opts.Cache }

// SharePacks has the packs in memory also count for a Budget. It is called before
// the first request.
func (s *Server) SharePacks(b *blobs.Budget) { s.packs.ShareMemory(b) }

// Close gives back the memory of packs. Requests that are being served go on.
func (s *Server) Close() { s.packs.Close() }

// Servers are s alone.
func (s *Server) Servers() []*Server { return []*Server{s} }

// Blank reports whether the server knows of nothing that it could serve.
func (s *Server) Blank() bool {
	snap := s.snapshot.Load()
	return snap == nil || snap.Len() == 0 && snap.Digest() == ""
}

// Absent reports whether the registry has said that there is no cache.
func (s *Server) Absent() bool {
	snap := s.snapshot.Load()
	return snap != nil && snap.Absent()
}

// serverMemory is what a server takes besides its index and its packs, in
// bytes: measured, rounded up.
const serverMemory = 64 << 10

// Memory is what the server takes besides its packs, in bytes: an estimate.
func (s *Server) Memory() int64 {
	n := int64(serverMemory)
	if snap := s.snapshot.Load(); snap != nil {
		n += snap.Memory()
	}
	return n
}

// ServeHTTP answers one request. Only nix-cache-info, narinfo, NAR, listings,
// logs, realisations, debug info, /public-key, /_status, POST /_refresh and what
// Options.Page owns exist; the rest is "not found".
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// A client that takes nothing for this long is gone. It is set anew for
	// each piece of a NAR, so it does not bound a transfer that moves.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(reply.Stall))
	sw := &reply.Writer{ResponseWriter: w}
	defer func() { reply.Survive(s.log, sw, r, recover()) }()
	s.route(sw, r)
}
