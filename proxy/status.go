package proxy

import (
	"encoding/json"
	"net"
	"net/http"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/proxy/blobs"
)

// counts is what has been served since the start.
type counts struct {
	hits, upstreamHits, misses  tally // narinfos
	nars, narFailures, narBytes tally
	redirects                   tally // of NARs, to the registry's storage
	refreshFailures             tally
	documents, documentFailures tally // listings and logs

	pushedPaths, pushedNARs, pushedExtras, refused tally
}

// countIn has all be counted in a sum as well.
func (c *counts) countIn(sum *counts) {
	c.hits.sum, c.upstreamHits.sum, c.misses.sum = &sum.hits, &sum.upstreamHits, &sum.misses
	c.nars.sum, c.narFailures.sum, c.narBytes.sum = &sum.nars, &sum.narFailures, &sum.narBytes
	c.redirects.sum, c.refreshFailures.sum = &sum.redirects, &sum.refreshFailures
	c.pushedPaths.sum, c.pushedNARs.sum, c.pushedExtras.sum, c.refused.sum = &sum.pushedPaths, &sum.pushedNARs, &sum.pushedExtras, &sum.refused
	c.documents.sum, c.documentFailures.sum = &sum.documents, &sum.documentFailures
}

// status is the answer to /_status and /_refresh.
type status struct {
	Cache    string              `json:"cache"`
	Version  string              `json:"version"`
	Started  time.Time           `json:"started"`
	Entries  int                 `json:"entries"`
	Root     string              `json:"root"`
	Segments []index.SegmentInfo `json:"segments"`
	Refresh  refreshStatus       `json:"refresh"`
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

func (s *Server) status() status {
	st := status{
		Cache: s.opts.Cache, Version: s.opts.Version, Started: s.started.UTC(),
		Segments:       []index.SegmentInfo{},
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
	if s.push != nil {
		st.Pushed = &pushedStatus{
			s.counts.pushedPaths.Load(), s.counts.pushedNARs.Load(), s.counts.pushedExtras.Load(), s.counts.refused.Load(),
			s.push.group.Written(), s.push.group.Unsettled(),
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
	body, err := json.MarshalIndent(s.status(), "", "  ")
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	serveText(w, r, typeJSON, string(body)+"\n")
}

// serveRefresh reads the index again, tag list included, and answers with the
// status when that is done: 200, or 502 if the registry did not answer.
func (s *Server) serveRefresh(w http.ResponseWriter, r *http.Request) {
	if !mayRefresh(w, r) {
		return
	}
	err := s.Refresh(r.Context())
	st := s.status()
	st.Refreshed = err == nil
	answerRefresh(w, st, err)
}

// mayRefresh answers those who may not: a page in a browser on this machine
// must not make us ask the registry, nor should the network.
func mayRefresh(w http.ResponseWriter, r *http.Request) bool {
	if err := http.NewCrossOriginProtection().Check(r); err != nil || !fromLoopback(r) {
		http.Error(w, "refused: only for programs on this machine", http.StatusForbidden)
		return false
	}
	return true
}

func answerRefresh(w http.ResponseWriter, status any, err error) {
	body, jsonErr := json.MarshalIndent(status, "", "  ")
	if jsonErr != nil {
		err = jsonErr
	}
	w.Header().Set("Content-Type", typeJSON)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
	}
	_, _ = w.Write(append(body, '\n'))
}

func fromLoopback(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	return err == nil && net.ParseIP(host).IsLoopback()
}
