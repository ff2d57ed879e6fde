package proxy

import (
	"net/http"
	"slices"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/reply"
	"github.com/org/nixoci-action/internal/storepath"
)

// route is not an http.ServeMux, which answers unclean paths with redirects.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	if s.push != nil && r.Method == http.MethodPut {
		s.push.ServeHTTP(w, r)
		return
	}
	f := bincache.ParseURLPath(r.URL.Path)
	allowed := []string{http.MethodGet, http.MethodHead}
	if f.Kind == bincache.Refresh {
		allowed = []string{http.MethodPost}
	}
	if !slices.Contains(allowed, r.Method) {
		reply.NotAllowed(w, r, allowed...)
		return
	}
	if s.opts.Page != nil && s.opts.Page.Owns(r) {
		s.opts.Page.ServeHTTP(w, r)
		return
	}
	switch f.Kind {
	case bincache.CacheInfo:
		s.serveCacheInfo(w, r)
	case bincache.PublicKey:
		s.servePublicKey(w, r)
	case bincache.Status:
		s.serveStatus(w, r)
	case bincache.Refresh:
		s.serveRefresh(w, r)
	case bincache.UpstreamNAR:
		s.upstreams.serveNAR(w, r, f, s.StoreDir())
	case bincache.NAR:
		if s.push != nil && r.Method == http.MethodHead {
			s.serveHead(w, r, f)
			return
		}
		s.serveNAR(w, r, f)
	case bincache.Narinfo:
		s.serveNarinfo(w, r, f.Name)
	default:
		s.serveExtra(w, r, f)
	}
}

func (s *Server) serveCacheInfo(w http.ResponseWriter, r *http.Request) {
	reply.Text(w, r, reply.TypeCacheInfo, bincache.Info{StoreDir: s.StoreDir(), Priority: s.Config().Priority}.String())
}

// StoreDir is the directory of the store whose paths the cache has.
func (s *Server) StoreDir() string {
	if dir := s.Config().StoreDir; dir != "" {
		return dir
	}
	return storepath.DefaultDir
}

func (s *Server) servePublicKey(w http.ResponseWriter, r *http.Request) {
	chain := s.Keys()
	reply.PublicKeys(w, r, chain.Trusted, chain.Keyless())
}

// serveNarinfo answers from memory. It does not ask the registry whether the
// NAR's blob is there: the segment's manifest names the blob, so no collector
// removes it, and a NAR that turns out to be missing is a 404 of its own, upon
// which every Nix goes on to the next substituter or builds. Asking would cost
// a request a path and would make misses, which Nix remembers for an hour, of
// a registry's bad minute.
func (s *Server) serveNarinfo(w http.ResponseWriter, r *http.Request, hashPart string) {
	if !storepath.ValidHashPart(hashPart) {
		reply.NotFound(w)
		return
	}
	if e, ok := s.lookup(hashPart); ok {
		s.counts.hits.Add(1)
		reply.Text(w, r, reply.TypeNarinfo, e.Narinfo())
		return
	}
	if text, ok := s.upstreams.narinfo(r.Context(), hashPart, s.StoreDir()); ok {
		s.counts.upstreamHits.Add(1)
		reply.Text(w, r, reply.TypeNarinfo, text)
		return
	}
	s.counts.misses.Add(1)
	reply.NotFound(w)
}

// lookup returns the entry for a hash part: what has just been pushed, or else
// what the index has.
func (s *Server) lookup(hashPart string) (format.Entry, bool) {
	if s.pushed != nil {
		if e, ok := s.pushed.Lookup(hashPart); ok {
			return e, true
		}
	}
	if snap := s.snapshot.Load(); snap != nil {
		return snap.Lookup(hashPart)
	}
	return format.Entry{}, false
}
