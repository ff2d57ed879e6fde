package proxy

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/reply"
)

// pushServer is a Server as push.Server.
type pushServer struct {
	*Server
	own *ownUpstreams
}

func (s pushServer) Lookup(hashPart string) (format.Entry, bool)    { return s.lookup(hashPart) }
func (s pushServer) LookupNAR(fileHash string) (format.Entry, bool) { return s.lookupNAR(fileHash) }
func (s pushServer) HasDebugInfo(id string) bool                    { return s.debugInfo(id) != "" }
func (s pushServer) Corrupt(hash string) bool                       { return s.corrupt.Has(hash) }
func (s pushServer) Upstreams() []string                            { return s.opts.Upstreams }

func (s pushServer) Realisation(r format.Realisation) (format.Realisation, format.Entry, bool) {
	return s.realisation(r)
}

// freshFor is how old the index may be that a push relies on.
const freshFor = 30 * time.Minute

// Fresh is that of push.Server.
func (s pushServer) Fresh(ctx context.Context) (*index.Snapshot, error) {
	s.mu.Lock()
	swept := !s.swept.IsZero()
	fresh := time.Since(s.refreshed) < freshFor && swept
	s.mu.Unlock()
	if snap := s.snapshot.Load(); snap != nil && fresh {
		return snap, nil
	}
	ctx, cancel := registry.Within(ctx, refreshTimeout)
	defer cancel()
	if err := s.Reload(ctx, !swept); err != nil {
		return nil, err
	}
	return s.snapshot.Load(), nil
}

// UpstreamHas asks the upstream caches of the proxy, and of the cache.
func (s pushServer) UpstreamHas(ctx context.Context, hashPart string) bool {
	if _, ok := s.upstreams.narinfo(ctx, hashPart, s.StoreDir()); ok {
		return true
	}
	up := s.own.of(s.Server)
	if up == nil {
		return false
	}
	_, ok := up.narinfo(ctx, hashPart, s.StoreDir())
	return ok
}

// ownUpstreams are the upstream caches which the cache's publishers have named,
// as far as they can be asked. The zero value is empty.
type ownUpstreams struct {
	mu     sync.Mutex
	urls   []string
	caches *Upstreams // nil if there are none
}

func (x *ownUpstreams) of(s *Server) *Upstreams {
	urls := s.Config().Upstreams
	x.mu.Lock()
	defer x.mu.Unlock()
	if !slices.Equal(urls, x.urls) {
		x.urls, x.caches = urls, nil
		o := s.opts
		o.Upstreams = slices.DeleteFunc(slices.Clone(urls), func(u string) bool {
			return CheckUpstream(u) != nil || slices.Contains(o.Upstreams, u)
		})
		if len(o.Upstreams) > 0 {
			x.caches, _ = NewUpstreams(o) // all of them were checked
		}
	}
	return x.caches
}

// serveHead answers what Nix asks before it sends a NAR: whether one with this
// hash is here, whatever its name's extension.
func (s *Server) serveHead(w http.ResponseWriter, r *http.Request, f bincache.File) {
	if !s.push.Asked(r, f.Name) {
		reply.NotFound(w)
		return
	}
	if e, ok := s.lookupNAR(f.Name); ok && e.File() == f {
		s.serveNAR(w, r, f)
		return
	}
	w.Header().Set("Content-Type", reply.TypeNAR)
	w.WriteHeader(http.StatusOK)
}
