// Package push takes what `nix copy` sends to a cache, path by path. Each path
// is durable when it is acknowledged. The package knows a Server that serves
// the same cache. It needs few things of it.
package push

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/lru"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/reply"
	"github.com/org/nixoci-action/internal/secret"
	"github.com/org/nixoci-action/internal/signing"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/internal/tally"
)

// Options configures New. Cache, Repository and Dir are required; the zero value
// of everything else works.
type Options struct {
	// Cache is the index that the Server reads, for writing.
	Cache *index.Cache
	// Repository takes the NARs.
	Repository registry.Repository
	// Dir is for temporary files: NARs, until they are checked.
	Dir string
	// Tokens are what clients must know one of; if there are none, whoever is
	// on this machine may push, and nobody else.
	Tokens []string
	// Secrets must not be in what is pushed; nil means there are none.
	Secrets *secret.Set
	// Keys sign what is pushed.
	Keys signing.Keys
	// TrustedKeys are public keys, "name:base64", whose signatures count beside
	// those of Keys. Without any key, the signatures of the keys that the cache
	// names decide which of two builds it keeps, and nothing else.
	TrustedKeys []string
	// RequireSignatures refuses what neither Keys nor TrustedKeys have signed:
	// without any key, everything. What only the cache names as its keys does not
	// count, because whoever can write to it can add his.
	RequireSignatures bool
	// Series is the name under which newer pushes take the place of older
	// ones; empty means by the names of their packages.
	Series string
	// Idle is how long nothing must have been pushed before it is recorded as
	// published; if less than or equal to 0, one minute.
	Idle time.Duration
	// MaxBlobSize is the largest compressed NAR that the registry takes, in
	// bytes; 0 means 10 GB.
	MaxBlobSize int64
	// Logger receives what users of the cache would want to know; nil
	// discards it.
	Logger *slog.Logger
}

// Server serves the cache that is written to. All of it is safe for concurrent
// use.
type Server interface {
	// Lookup returns the entry for a hash part, LookupNAR the one whose NAR has a
	// file hash, without its algorithm: what has just been pushed, or else what
	// the index has.
	Lookup(hashPart string) (format.Entry, bool)
	LookupNAR(fileHash string) (format.Entry, bool)
	// Realisation returns what the cache has under the name of r, and of which
	// path.
	Realisation(r format.Realisation) (found format.Realisation, of format.Entry, ok bool)
	// HasDebugInfo reports whether the symbols for a build ID are there.
	HasDebugInfo(id string) bool
	// Corrupt reports whether a blob turned out to be damaged.
	Corrupt(hash string) bool
	// UpstreamHas asks upstream caches for a path.
	UpstreamHas(ctx context.Context, hashPart string) bool
	// Config is what the cache says about itself, StoreDir of which store its
	// paths are, Upstreams the caches that it asks for what it lacks.
	Config() format.Config
	StoreDir() string
	// Keys are the keys of the cache that clients may trust.
	Keys() format.KeyChain
	Upstreams() []string
	// Snapshot is the index in use; nil before one was read.
	Snapshot() *index.Snapshot
	// Fresh returns an index that was read not long ago, and once with a look at
	// the tags: a proxy that died before it had written the root may have
	// acknowledged what the root does not show, and what takes the place of that
	// must have it.
	Fresh(ctx context.Context) (*index.Snapshot, error)
	// Reload reads the index anew, and the tag list as well if sweep is true.
	Reload(ctx context.Context, sweep bool) error
}

// Counts is what was taken since the start.
type Counts struct {
	Paths, NARs tally.Counter
	// Extras are listings, logs and realisations, counted for each path.
	Extras, Refused tally.Counter
}

// CountIn has all be counted in a sum as well.
func (c *Counts) CountIn(sum *Counts) {
	c.Paths.Sum, c.NARs.Sum, c.Extras.Sum, c.Refused.Sum = &sum.Paths, &sum.NARs, &sum.Extras, &sum.Refused
}

// Receiver takes what clients send. It is safe for concurrent use.
type Receiver struct {
	Counts Counts

	server   Server
	opts     Options
	log      *slog.Logger
	tokens   [][sha256.Size]byte
	trusted  []string // public keys, our own and those that were given
	vouched  atomic.Pointer[vouched]
	group    *index.Group
	spools   *spools
	decoders chan struct{} // holds a token for each NAR that is decompressed
	// expanding is the same for those that are much larger than their file;
	// expanders are the clients that wait for it.
	expanding chan struct{}
	expanders turns
	expansion expansion
	paths     turns                      // by hash part: whose narinfo is being taken
	kick      chan struct{}              // holds one token: there is something to settle
	lost      *lru.Map[string, struct{}] // NARs that the registry has lost, by file hash

	documents *semaphore.Weighted // bytes of listings and logs that are received
	checking  sync.Mutex          // of a listing
	listings  listings            // whose paths have not come yet

	session session

	mu   sync.Mutex
	nars map[string]*pendingNAR // by file hash: here, and no path has them yet
	seen map[string]time.Time   // by client: when it last pushed
}

// New returns a Receiver that takes nothing before Attach.
func New(o Options) *Receiver {
	if o.Idle <= 0 {
		o.Idle = time.Minute
	}
	if o.MaxBlobSize <= 0 {
		o.MaxBlobSize = maxFile
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Receiver{
		opts: o, log: o.Logger,
		spools: newSpools(o.Dir), decoders: make(chan struct{}, 2*runtime.GOMAXPROCS(0)),
		expanding: make(chan struct{}, 1), expansion: defaultExpansion,
		kick: make(chan struct{}, 1), lost: lru.New[string, struct{}](10_000, nil), listings: newListings(),
		documents: semaphore.NewWeighted(documentSize),
		nars:      map[string]*pendingNAR{},
		seen:      map[string]time.Time{},
	}
	for _, t := range o.Tokens {
		p.tokens = append(p.tokens, sha256.Sum256([]byte(t)))
	}
	p.trusted, _ = o.Keys.Trusted(o.TrustedKeys) // what is no key signs nothing
	p.session.pushed = map[string][]string{}
	return p
}

// Attach tells which Server serves the cache. It is called once, before the first
// request; proxy.New does.
func (p *Receiver) Attach(s Server) {
	p.server = s
	p.group = p.opts.Cache.NewGroup(index.GroupOptions{
		Base:   s.Fresh,
		Config: format.Config{PublicKeys: p.PublicKeys(), Upstreams: s.Upstreams()},
	})
}

// Group has what was taken and the index may not show yet.
func (p *Receiver) Group() *index.Group { return p.group }

// PublicKeys are those of the keys that sign what is taken. The cache learns them
// with the first push.
func (p *Receiver) PublicKeys() []string { return p.opts.Keys.PublicKeys() }

// vouched are the keys for which those that are trusted vouch, in an index.
type vouched struct {
	snapshot *index.Snapshot
	keys     []string
}

// trustedKeys are our own keys and those that were given, and the keys for which
// these vouch in the index; not those that are retired.
func (p *Receiver) trustedKeys() []string {
	snap := p.server.Snapshot()
	if snap == nil {
		return p.trusted
	}
	v := p.vouched.Load()
	if v == nil || v.snapshot != snap {
		v = &vouched{snap, snap.KeysFrom(p.trusted).Trusted}
		p.vouched.Store(v)
	}
	return v.keys
}

// ServeHTTP answers a PUT.
func (p *Receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, err := http.StatusCreated, p.authorize(r)
	if err == nil {
		if !p.session.begin() {
			err = &refusal{http.StatusServiceUnavailable, "the proxy is stopping"}
		} else {
			defer p.session.end()
			p.active(r)
			defer p.active(r) // it may take long
			status, err = p.put(r)
		}
	}
	// the push may have taken longer than the deadline for its answer
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(reply.Stall))
	if err == nil {
		w.WriteHeader(status)
		return
	}
	p.refuse(w, r, err)
}

// put takes what is pushed. 201 means that it is durable, or for a NAR that it
// is here. Nix knows no other successes than 200, 201, 204 and 206.
func (p *Receiver) put(r *http.Request) (int, error) {
	f := bincache.ParseURLPath(r.URL.Path)
	switch f.Kind {
	case bincache.CacheInfo:
		return http.StatusOK, p.putCacheInfo(r)
	case bincache.NAR:
		return p.putNAR(r, f.Name)
	case bincache.Narinfo:
		return p.putNarinfo(r, f.Name)
	case bincache.Listing:
		if storepath.ValidHashPart(f.Name) {
			return p.putListing(r, f.Name)
		}
	case bincache.Log:
		return p.putLog(r, f.Name)
	case bincache.Realisation, bincache.BuildTrace:
		return p.putRealisation(r, f)
	case bincache.DebugInfo:
		return p.putDebugInfo(r, f.Name)
	}
	return 0, &refusal{http.StatusMethodNotAllowed, "the proxy does not take this file"}
}

// refuse answers a push that was not taken, in one line.
func (p *Receiver) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var no *refusal
	if !errors.As(err, &no) {
		// It may help to try again, and Nix does.
		no = &refusal{http.StatusBadGateway, err.Error()}
		if h := hint.Of(err); h != "" {
			no.text += "; " + h
		}
		if r.Context().Err() == nil {
			p.log.Warn("a push failed", "path", r.URL.Path, "error", err)
		}
	} else {
		p.log.Info("a push was refused", "path", r.URL.Path, "status", no.status, "because", no.text)
	}
	p.Counts.Refused.Add(1)
	clear(w.Header())
	switch no.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Basic realm="push"`)
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", "GET, HEAD")
	}
	http.Error(w, strings.Join(strings.Fields(no.text), " "), no.status)
}

// putCacheInfo makes sure that the client means this store directory. Nothing
// is stored: GET has an answer for every cache.
func (p *Receiver) putCacheInfo(r *http.Request) error {
	text, err := p.text(r, 64<<10)
	if err != nil {
		return err
	}
	if dir := bincache.ParseInfo(text).StoreDir; dir != "" && dir != p.server.StoreDir() {
		return &refusal{http.StatusConflict, "the cache is for the store directory " + p.server.StoreDir()}
	}
	return nil
}

// text reads a body of at most limit bytes.
func (p *Receiver) text(r *http.Request, limit int64) (string, error) {
	if err := plain(r); err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	switch {
	case err != nil:
		return "", &refusal{http.StatusBadRequest, "the request's body broke off"}
	case int64(len(b)) > limit:
		return "", &refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("that is longer than %d bytes", limit)}
	}
	return string(b), p.secretless("it", b)
}

// secretless refuses what has a secret of this server in it.
func (p *Receiver) secretless(what string, b []byte) error {
	if kind, found := p.opts.Secrets.Find(b); found {
		return refuseSecret(what, kind)
	}
	return nil
}

func refuseSecret(what, kind string) error {
	return &refusal{http.StatusForbidden, "refused: " + what + " contains " + kind + " that this proxy uses, which would be readable for everybody who can read the cache"}
}
