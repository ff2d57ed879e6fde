package proxy

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/reply"
	"github.com/org/nixoci-action/internal/storepath"
)

// Paths of what a proxy has once.
const (
	PathCacheInfo = "/nix-cache-info"
	PathPublicKey = "/public-key"
	PathStatus    = "/_status"
	PathRefresh   = "/_refresh"

	prefixNAR     = "/nar/"
	suffixNarinfo = ".narinfo"
)

// defaultPriority lets the cache be asked before cache.nixos.org, which has 40.
// Without the line Nix would take 0.
const defaultPriority = 30

// route is not an http.ServeMux, which answers unclean paths with redirects.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if s.push != nil && r.Method == http.MethodPut {
		s.push.ServeHTTP(w, r)
		return
	}
	allowed := []string{http.MethodGet, http.MethodHead}
	if path == PathRefresh {
		allowed = []string{http.MethodPost}
	}
	if !slices.Contains(allowed, r.Method) {
		// `nix copy --to` ends here unless pushing is allowed
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	switch {
	case s.opts.Page != nil && s.opts.Page.Owns(r):
		s.opts.Page.ServeHTTP(w, r)
	case path == PathCacheInfo:
		s.serveCacheInfo(w, r)
	case path == PathPublicKey:
		s.servePublicKey(w, r)
	case path == PathStatus:
		s.serveStatus(w, r)
	case path == PathRefresh:
		s.serveRefresh(w, r)
	case strings.HasPrefix(path, prefixUpstream):
		s.upstreams.serveNAR(w, r, path, s.StoreDir())
	case strings.HasPrefix(path, prefixNAR) && s.push != nil && r.Method == http.MethodHead:
		s.serveHead(w, r, path[1:])
	case strings.HasPrefix(path, prefixNAR):
		s.serveNAR(w, r, path[1:])
	case strings.HasSuffix(path, suffixNarinfo):
		s.serveNarinfo(w, r, strings.TrimSuffix(path[1:], suffixNarinfo))
	case s.serveExtra(w, r):
	default:
		reply.NotFound(w)
	}
}

func (s *Server) serveCacheInfo(w http.ResponseWriter, r *http.Request) {
	reply.Text(w, r, reply.TypeCacheInfo, CacheInfo(s.StoreDir(), s.Config().Priority))
}

// CacheInfo is the text of nix-cache-info; the priority 0 means that none was
// chosen.
func CacheInfo(storeDir string, priority int) string {
	if priority <= 0 {
		priority = defaultPriority
	}
	return fmt.Sprintf("StoreDir: %s\nWantMassQuery: 1\nPriority: %d\n", storeDir, priority)
}

// StoreDir is the directory of the store whose paths the cache has.
func (s *Server) StoreDir() string {
	if dir := s.Config().StoreDir; dir != "" {
		return dir
	}
	return storepath.DefaultDir
}

func (s *Server) servePublicKey(w http.ResponseWriter, r *http.Request) {
	reply.PublicKeys(w, r, s.Config().PublicKeys)
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

// SplitPath divides the path of a request into the cache's name and the rest,
// which is what a proxy of that cache alone would be asked. A repository's
// name may have any number of parts, so it ends where the rest begins that one
// of these requests must have.
func SplitPath(path string) (cache, rest string, ok bool) {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	if slices.Contains(parts, "") {
		return "", "", path == "/"
	}
	n := len(parts)
	last := parts[n-1]
	tail := 1
	switch {
	case isOneOf("/"+last, PathCacheInfo, PathPublicKey, PathStatus, PathRefresh), strings.HasSuffix(last, suffixNarinfo), strings.HasSuffix(last, ".ls"):
	case n >= 2 && isOneOf(parts[n-2], "nar", "log", "realisations", "debuginfo"):
		tail = 2
	case n >= 3 && isOneOf(parts[n-3], "build-trace-v2", "upstream"):
		tail = 3
	default:
		return "", "", false
	}
	return strings.Join(parts[:n-tail], "/"), "/" + strings.Join(parts[n-tail:], "/"), true
}

func isOneOf(s string, all ...string) bool { return slices.Contains(all, s) }
