package proxy

import (
	"net/http"
	"time"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/reply"
	"github.com/org/nixoci-action/internal/tally"
	"github.com/org/nixoci-action/proxy/blobs"
)

// counts is what has been served since the start.
type counts struct {
	hits, upstreamHits, misses  tally.Counter // narinfos
	nars, narFailures, narBytes tally.Counter
	redirects                   tally.Counter // of NARs, to the registry's storage
	refreshFailures             tally.Counter
	documents, documentFailures tally.Counter // listings and logs
}

// countIn has all be counted in a sum as well.
func (c *counts) countIn(sum *counts) {
	c.hits.Sum, c.upstreamHits.Sum, c.misses.Sum = &sum.hits, &sum.upstreamHits, &sum.misses
	c.nars.Sum, c.narFailures.Sum, c.narBytes.Sum = &sum.nars, &sum.narFailures, &sum.narBytes
	c.redirects.Sum, c.refreshFailures.Sum = &sum.redirects, &sum.refreshFailures
	c.documents.Sum, c.documentFailures.Sum = &sum.documents, &sum.documentFailures
}

// Status is the answer to /_status and /_refresh.
type Status struct {
	Cache    string               `json:"cache"`
	Version  string               `json:"version"`
	Started  time.Time            `json:"started"`
	Entries  int                  `json:"entries"`
	Root     string               `json:"root"`
	Segments []format.SegmentInfo `json:"segments"`
	Refresh  refreshStatus        `json:"refresh"`
	Keys     keysStatus           `json:"keys"`
	// RegistryUnwell tells that NARs are not asked for at the moment.
	RegistryUnwell bool         `json:"registryUnwell"`
	Served         servedStatus `json:"served"`
	// NARCache is missing if there is none.
	NARCache *blobs.DiskStatus `json:"narCache,omitempty"`
	// Pushed is left out where pushing is not allowed.
	Pushed *pushedStatus `json:"pushed,omitempty"`
	// Refreshed is true in the answer to a /_refresh that has succeeded.
	Refreshed bool `json:"refreshed,omitempty"`
	nixcacheStatus
}

// keysStatus has public keys, "name:base64".
type keysStatus struct {
	// Trusted are those that clients are told.
	Trusted []string `json:"trusted"`
	Retired []string `json:"retired"`
	// Unvouched are named by the cache, and for them no trusted key vouches.
	Unvouched []string `json:"unvouched"`
}

type pushedStatus struct {
	Paths int64 `json:"paths"`
	NARs  int64 `json:"nars"`
	// Extras are listings, logs and realisations, counted for each path.
	Extras  int64 `json:"extras"`
	Refused int64 `json:"refused"`
	// Segments is the number of segments written for them.
	Segments int `json:"segments"`
	// Unsettled tells that others may not see all of it yet.
	Unsettled bool `json:"unsettled"`
}

type refreshStatus struct {
	// Succeeded is when the index was last read; zero if never.
	Succeeded time.Time `json:"succeeded,omitzero"`
	Tried     time.Time `json:"tried,omitzero"`
	// Error is the last try's, or empty.
	Error string `json:"error,omitempty"`
}

type servedStatus struct {
	NarinfoHits      int64 `json:"narinfoHits"`
	NarinfoUpstream  int64 `json:"narinfoUpstream"`
	NarinfoMisses    int64 `json:"narinfoMisses"`
	NARs             int64 `json:"nars"`
	NARFailures      int64 `json:"narFailures"`
	NARBytes         int64 `json:"narBytes"`
	NARRedirects     int64 `json:"narRedirects"`
	Documents        int64 `json:"documents"`
	DocumentFailures int64 `json:"documentFailures"`
}

// Status tells how the server is, without a request to the registry.
func (s *Server) Status() Status {
	st := Status{
		Cache: s.opts.Cache, Version: s.opts.Version, Started: s.started.UTC(),
		Segments:       []format.SegmentInfo{},
		RegistryUnwell: s.registry.Open(),
		Served: servedStatus{
			s.counts.hits.Load(), s.counts.upstreamHits.Load(), s.counts.misses.Load(),
			s.counts.nars.Load(), s.counts.narFailures.Load(), s.counts.narBytes.Load(),
			s.counts.redirects.Load(),
			s.counts.documents.Load(), s.counts.documentFailures.Load(),
		},
	}
	if d, ok := s.opts.Blobs.(*blobs.Disk); ok {
		st.NARCache = new(d.Status())
	}
	snap := s.snapshot.Load()
	st.nixcacheStatus = s.nixcacheStatus(snap)
	if snap != nil {
		st.Entries, st.Root, st.Segments = snap.Len(), snap.Digest(), snap.Segments()
	}
	chain := s.Keys()
	st.Keys = keysStatus{append([]string{}, chain.Trusted...), append([]string{}, chain.Retired...), append([]string{}, chain.Unvouched...)}
	if s.push != nil {
		st.Pushed = &pushedStatus{
			s.push.Counts.Paths.Load(), s.push.Counts.NARs.Load(), s.push.Counts.Extras.Load(), s.push.Counts.Refused.Load(),
			s.pushed.Written(), s.pushed.Unsettled(),
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Refresh = refreshStatus{Succeeded: s.refreshed.UTC(), Tried: s.refreshTime.UTC()}
	if s.refreshErr != nil {
		st.Refresh.Error = s.refreshErr.Error()
	}
	return st
}

func (s *Server) serveStatus(w http.ResponseWriter, r *http.Request) {
	reply.JSON(w, r, s.Status())
}

// serveRefresh reads the index again, tag list included, and answers with the
// status when that is done: 200, or 502 if the registry did not answer.
func (s *Server) serveRefresh(w http.ResponseWriter, r *http.Request) {
	if !reply.MayRefresh(w, r) {
		return
	}
	err := s.Refresh(r.Context())
	st := s.Status()
	st.Refreshed = err == nil
	reply.Refreshed(w, st, err)
}
