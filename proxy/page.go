package proxy

import (
	"net/http"
	"time"

	"github.com/org/nixoci-action/index"
)

// Page is a handler for people, beside the files for Nix.
type Page interface {
	http.Handler
	// Owns reports whether a request is for it. No path of Nix's may be.
	Owns(r *http.Request) bool
}

// Snapshot returns the index in use, nil before Prepare has found one. It is
// immutable.
func (s *Server) Snapshot() *index.Snapshot { return s.snapshot.Load() }

// Health is how a Server is.
type Health struct {
	Started time.Time
	// Succeeded is when the index was last read from the registry, Tried when
	// that was last tried; zero if never.
	Succeeded, Tried time.Time
	// Err is the last try's error.
	Err error
	// RegistryUnwell tells that NARs are not asked for at the moment.
	RegistryUnwell bool
	// NarinfoHits and the others count answers since the start; NARBytes are
	// compressed bytes.
	NarinfoHits, NarinfoUpstream, NarinfoMisses, NARs, NARFailures, NARBytes int64
}

// Health tells how the server is, without a request to the registry.
func (s *Server) Health() Health {
	h := Health{
		Started: s.started, RegistryUnwell: s.registry.Open(),
		NarinfoHits: s.counts.hits.Load(), NarinfoUpstream: s.counts.upstreamHits.Load(), NarinfoMisses: s.counts.misses.Load(),
		NARs: s.counts.nars.Load(), NARFailures: s.counts.narFailures.Load(), NARBytes: s.counts.narBytes.Load(),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h.Succeeded, h.Tried, h.Err = s.refreshed, s.refreshTime, s.refreshErr
	return h
}
