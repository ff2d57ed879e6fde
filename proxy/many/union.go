package many

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/reply"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/proxy"
	"github.com/org/nixoci-action/proxy/blobs"
)

// Union serves several caches as one. Each request is answered by the first
// cache that can. A NAR is named by the hash of its contents, so it does not
// matter from which of them it comes. It is safe for concurrent use.
type Union struct {
	members   []*member
	upstreams *proxy.Upstreams
	log       *slog.Logger
	storeDir  atomic.Pointer[string] // nil until a cache has said
}

type member struct {
	*proxy.Server
	left atomic.Bool // left out, for its store directory
}

// NewUnion merges caches, the most important one first. Of the Options those
// that concern upstream caches, the Metrics and the Logger are used: what none of the
// caches has is looked up there. The servers themselves should have no
// upstreams; those of an earlier one would be asked before the next cache is.
func NewUnion(servers []*proxy.Server, o proxy.Options) (*Union, error) {
	o = o.WithDefaults()
	up, err := proxy.NewUpstreams(o)
	if err != nil {
		return nil, err
	}
	u := &Union{upstreams: up, log: o.Logger}
	if o.Metrics != nil {
		o.Metrics.CountHits(up)
	}
	packs := blobs.NewBudget(o.PackMemory)
	for _, s := range servers {
		s.SharePacks(packs)
		u.members = append(u.members, &member{Server: s})
	}
	return u, nil
}

// Prepare prepares all caches, as each would be by itself. Its error is a
// warning, unless it is a *StoreDirError.
func (u *Union) Prepare(ctx context.Context) error {
	errs := make([]error, len(u.members))
	var wg sync.WaitGroup
	for i, m := range u.members {
		wg.Go(func() {
			if err := m.Prepare(ctx); err != nil {
				errs[i] = fmt.Errorf("cache %s: %w", m.Cache(), err)
			}
		})
	}
	wg.Wait()
	var first *member
	for _, m := range u.members {
		switch {
		case m.Blank():
		case first == nil:
			first = m
		case m.StoreDir() != first.StoreDir():
			return &StoreDirError{first.Cache(), first.StoreDir(), m.Cache(), m.StoreDir()}
		}
	}
	return errors.Join(errs...)
}

// StoreDirError tells that caches cannot be merged, because their paths are
// those of different stores.
type StoreDirError struct{ Cache, StoreDir, Other, OtherStoreDir string }

func (e *StoreDirError) Error() string {
	return fmt.Sprintf("cache %s has paths of the store %s, and cache %s of %s", e.Cache, e.StoreDir, e.Other, e.OtherStoreDir)
}

// Run keeps all indexes fresh until ctx is cancelled.
func (u *Union) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, m := range u.members {
		wg.Go(func() { m.Run(ctx) })
	}
	wg.Wait()
}

// Len returns the number of store paths, of all caches together: those that
// several caches have are counted for each.
func (u *Union) Len() int {
	n := 0
	for m := range u.serving {
		n += m.Len()
	}
	return n
}

// Keys merges those of the caches: what one of them trusts is trusted.
func (u *Union) Keys() format.KeyChain {
	var all format.KeyChain
	for m := range u.serving {
		chain := m.Keys()
		all.Trusted = format.Union(all.Trusted, chain.Trusted)
		all.Retired = format.Union(all.Retired, chain.Retired)
		all.Unvouched = format.Union(all.Unvouched, chain.Unvouched)
	}
	trusted := func(k string) bool { return slices.Contains(all.Trusted, k) }
	all.Retired, all.Unvouched = slices.DeleteFunc(all.Retired, trusted), slices.DeleteFunc(all.Unvouched, trusted)
	return all
}

// Config merges what the caches say: the best priority.
func (u *Union) Config() format.Config {
	var c format.Config
	for m := range u.serving {
		if m.Blank() {
			continue
		}
		d := m.Config()
		if p := d.Priority; p > 0 && (c.Priority == 0 || p < c.Priority) {
			c.Priority = p
		}
	}
	c.StoreDir = u.dir()
	return c
}

func (u *Union) dir() string {
	if dir := u.storeDir.Load(); dir != nil {
		return *dir
	}
	return storepath.DefaultDir
}

// serving yields the caches that are merged at the moment. The first that has
// anything determines the store directory; one that disagrees is left out
// until it does not any more: Nix would refuse its paths, and fail.
func (u *Union) serving(yield func(*member) bool) {
	for _, m := range u.members {
		if !m.Blank() {
			dir := m.StoreDir()
			if u.storeDir.Load() == nil {
				u.storeDir.CompareAndSwap(nil, &dir)
			}
			differs := dir != u.dir()
			if m.left.Swap(differs) != differs && differs {
				u.log.Warn("a cache is left out, because its paths are of another store", "cache", m.Cache(), "its", dir, "ours", u.dir())
			}
			if differs {
				continue
			}
		}
		if !yield(m) {
			return
		}
	}
}

// ServeHTTP answers one request.
func (u *Union) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	sw := &reply.Writer{ResponseWriter: w}
	defer func() { reply.Survive(u.log, sw, r, recover()) }()
	f := bincache.ParseURLPath(r.URL.Path)
	if f.Kind == bincache.Refresh && r.Method == http.MethodPost {
		u.serveRefresh(sw, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		reply.Refuse(sw, r)
		return
	}
	switch f.Kind {
	case bincache.CacheInfo:
		c := u.Config()
		reply.Text(sw, r, reply.TypeCacheInfo, bincache.Info{StoreDir: c.StoreDir, Priority: c.Priority}.String())
		return
	case bincache.PublicKey:
		chain := u.Keys()
		reply.PublicKeys(sw, r, chain.Trusted, chain.Keyless())
		return
	case bincache.Status:
		u.serveStatus(sw, r)
		return
	}
	for m := range u.serving {
		if try(m.Server, sw, r) {
			return
		}
	}
	u.upstreams.Serve(sw, r, u.dir())
}

// unionStatus is the answer to /_status and /_refresh.
type unionStatus struct {
	// Caches are in the order in which they are asked.
	Caches []memberStatus `json:"caches"`
	// NarinfoUpstream counts what upstream caches had.
	NarinfoUpstream int64 `json:"narinfoUpstream"`
}

type memberStatus struct {
	proxy.Status
	// LeftOut tells that the cache's paths are of another store.
	LeftOut bool `json:"leftOut,omitempty"`
}

func (u *Union) status() unionStatus {
	st := unionStatus{NarinfoUpstream: u.upstreams.Hits.Load()}
	for _, m := range u.members {
		st.Caches = append(st.Caches, memberStatus{m.Status(), m.left.Load()})
	}
	return st
}

func (u *Union) serveStatus(w http.ResponseWriter, r *http.Request) {
	reply.JSON(w, r, u.status())
}

// serveRefresh reads all indexes again: 200, or 502 if a registry did not
// answer.
func (u *Union) serveRefresh(w http.ResponseWriter, r *http.Request) {
	if !reply.MayRefresh(w, r) {
		return
	}
	err := u.Refresh(r.Context())
	reply.Refreshed(w, u.status(), err)
}

// Refresh reads all indexes again, tag lists included.
func (u *Union) Refresh(ctx context.Context) error {
	errs := make([]error, len(u.members))
	var wg sync.WaitGroup
	for i, m := range u.members {
		wg.Go(func() { errs[i] = m.Refresh(ctx) })
	}
	wg.Wait()
	u.upstreams.Forget()
	return errors.Join(errs...)
}

// Servers are all that are merged.
func (u *Union) Servers() []*proxy.Server {
	var all []*proxy.Server
	for _, m := range u.members {
		all = append(all, m.Server)
	}
	return all
}
