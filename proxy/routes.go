package proxy

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/storepath"
)

const (
	pathCacheInfo = "/nix-cache-info"
	pathPublicKey = "/public-key"
	pathStatus    = "/_status"
	pathRefresh   = "/_refresh"
	prefixNAR     = "/nar/"
	suffixNarinfo = ".narinfo"

	typeCacheInfo = "text/x-nix-cache-info"
	typeNarinfo   = "text/x-nix-narinfo"
	typeNAR       = "application/x-nix-nar"
	typeText      = "text/plain; charset=utf-8"
	typeJSON      = "application/json"
)

// defaultPriority lets the cache be asked before cache.nixos.org, which has 40.
// Without the line Nix would take 0.
const defaultPriority = 30

// route is not an http.ServeMux, which answers unclean paths with redirects.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if s.push != nil && r.Method == http.MethodPut {
		s.push.serve(w, r)
		return
	}
	allowed := []string{http.MethodGet, http.MethodHead}
	if path == pathRefresh {
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
	case path == pathCacheInfo:
		s.serveCacheInfo(w, r)
	case path == pathPublicKey:
		s.servePublicKey(w, r)
	case path == pathStatus:
		s.serveStatus(w, r)
	case path == pathRefresh:
		s.serveRefresh(w, r)
	case strings.HasPrefix(path, prefixUpstream):
		s.upstreams.serveNAR(w, r, path, s.storeDir())
	case strings.HasPrefix(path, prefixNAR) && s.push != nil && r.Method == http.MethodHead:
		s.push.serveHead(w, r, path[1:])
	case strings.HasPrefix(path, prefixNAR):
		s.serveNAR(w, r, path[1:])
	case strings.HasSuffix(path, suffixNarinfo):
		s.serveNarinfo(w, r, strings.TrimSuffix(path[1:], suffixNarinfo))
	case s.serveExtra(w, r):
	default:
		notFound(w)
	}
}

func notFound(w http.ResponseWriter) { http.Error(w, "not found", http.StatusNotFound) }

// serveText answers with a text that is in memory.
func serveText(w http.ResponseWriter, r *http.Request, contentType, text string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = io.WriteString(w, text) // a client that went away needs no answer
	}
}

func (s *Server) serveCacheInfo(w http.ResponseWriter, r *http.Request) {
	serveText(w, r, typeCacheInfo, cacheInfo(s.storeDir(), s.Config().Priority))
}

// cacheInfo is the text of nix-cache-info; the priority 0 means that none was
// chosen.
func cacheInfo(storeDir string, priority int) string {
	if priority <= 0 {
		priority = defaultPriority
	}
	return fmt.Sprintf("StoreDir: %s\nWantMassQuery: 1\nPriority: %d\n", storeDir, priority)
}

func (s *Server) storeDir() string {
	if dir := s.Config().StoreDir; dir != "" {
		return dir
	}
	return storepath.DefaultDir
}

func (s *Server) servePublicKey(w http.ResponseWriter, r *http.Request) {
	servePublicKeys(w, r, s.Config().PublicKeys)
}

func servePublicKeys(w http.ResponseWriter, r *http.Request, keys []string) {
	if len(keys) == 0 {
		notFound(w)
		return
	}
	serveText(w, r, typeText, strings.Join(keys, "\n")+"\n")
}

// serveNarinfo answers from memory. It does not ask the registry whether the
// NAR's blob is there: the segment's manifest names the blob, so no collector
// removes it, and a NAR that turns out to be missing is a 404 of its own, upon
// which every Nix goes on to the next substituter or builds. Asking would cost
// a request a path and would make misses, which Nix remembers for an hour, of
// a registry's bad minute.
func (s *Server) serveNarinfo(w http.ResponseWriter, r *http.Request, hashPart string) {
	if !storepath.ValidHashPart(hashPart) {
		notFound(w)
		return
	}
	if e, ok := s.lookup(hashPart); ok {
		s.counts.hits.Add(1)
		serveText(w, r, typeNarinfo, e.Narinfo())
		return
	}
	if text, ok := s.upstreams.narinfo(r.Context(), hashPart, s.storeDir()); ok {
		s.counts.upstreamHits.Add(1)
		serveText(w, r, typeNarinfo, text)
		return
	}
	s.counts.misses.Add(1)
	notFound(w)
}

// lookup returns the entry for a hash part: what has just been pushed, or else
// what the index has.
func (s *Server) lookup(hashPart string) (format.Entry, bool) {
	if s.push != nil {
		if e, ok := s.push.group.Lookup(hashPart); ok {
			return e, true
		}
	}
	if snap := s.snapshot.Load(); snap != nil {
		return snap.Lookup(hashPart)
	}
	return format.Entry{}, false
}
