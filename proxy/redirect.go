package proxy

import (
	"context"
	"net/http"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/lru"
	"github.com/org/nixoci-action/internal/registry"
)

// Redirector knows where the registry's storage has a blob, at a URL that is
// for everybody and holds for GET, ranges included, until it expires; an
// expiry of zero means that nobody knows. The URL is "" if there is none. An
// error that wraps registry.ErrNotFound means that the blob is certainly
// absent.
type Redirector interface {
	BlobURL(ctx context.Context, digest v1.Hash) (at string, expires time.Time, err error)
}

const (
	// redirectMargin is how long a URL must hold when it is given away: it is
	// used at once, but clocks differ.
	redirectMargin = 2 * time.Minute
	// redirectTTL is how long a URL is used at most, whatever it says.
	redirectTTL = 10 * time.Minute
	// maxRedirects bounds how many URLs are remembered.
	maxRedirects = 10_000
	// streamTTL is how long a registry that sends a blob itself is not asked
	// for the URL of another.
	streamTTL = 10 * time.Minute
)

// redirects remembers where the storage has blobs. Nil knows nothing.
type redirects struct {
	from Redirector

	known *lru.Map[v1.Hash, string]

	mu       sync.Mutex
	nonUntil time.Time // the registry sends blobs itself
}

func newRedirects(from Redirector) *redirects {
	if from == nil {
		return nil
	}
	return &redirects{from: from, known: lru.New[v1.Hash, string](maxRedirects, nil)}
}

// recall returns the URL of a blob if it is known, and whether to ask if not.
func (x *redirects) recall(blob v1.Hash) (url string, ask bool) {
	if url, ok := x.known.Get(blob); ok {
		return url, false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return "", !time.Now().Before(x.nonUntil)
}

// learn notes what the registry has said.
func (x *redirects) learn(blob v1.Hash, url string, expires time.Time) {
	if url == "" {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.nonUntil = time.Now().Add(streamTTL)
		return
	}
	if expires.IsZero() {
		return
	}
	if ttl := min(time.Until(expires)-redirectMargin, redirectTTL); ttl > 0 {
		x.known.PutFor(blob, url, ttl)
	}
}

// redirect sends the client to the registry's storage for a NAR, and reports
// whether it has. It does not for packed NARs, of which the storage knows
// nothing, nor for HEAD, for which a signed URL does not hold. All failures
// are left to the transfer through the proxy, which has its own.
func (s *Server) redirect(w http.ResponseWriter, r *http.Request, e format.Entry) bool {
	if s.redirects == nil || e.NAR.Packed() || r.Method != http.MethodGet {
		return false
	}
	url, ask := s.redirects.recall(e.NAR.Blob)
	if ask && s.registry.Allow() {
		ctx, cancel := registry.Within(r.Context(), s.opts.FirstByte)
		defer cancel()
		at, expires, err := s.redirects.from.BlobURL(ctx, e.NAR.Blob)
		if r.Context().Err() != nil {
			return false
		}
		s.registry.Note(r.Context(), err)
		if err != nil {
			return false
		}
		s.redirects.learn(e.NAR.Blob, at, expires)
		url = at
	}
	if url == "" {
		return false
	}
	h := w.Header()
	h.Set("Location", url) // byte for byte: it is signed
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusTemporaryRedirect)
	s.counts.redirects.Add(1)
	return true
}
