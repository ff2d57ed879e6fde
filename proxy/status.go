package proxy

import (
	"encoding/json"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/org/nixoci-action/index"
)

// counts is what has been served since the start.
type counts struct {
	hits, upstreamHits, misses  atomic.Int64 // narinfos
	nars, narFailures, narBytes atomic.Int64
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
	// Refreshed is true in the answer to a /_refresh that has succeeded.
	Refreshed bool `json:"refreshed,omitempty"`
	nixcacheStatus
}

type refreshStatus struct {
	// Succeeded is when the index was last read; zero if never.
	Succeeded time.Time `json:"succeeded,omitzero"`
	Tried     time.Time `json:"tried,omitzero"`
	// Error is the last try's, or empty.
	Error string `json:"error,omitempty"`
}

type servedStatus struct {
	NarinfoHits     int64 `json:"narinfoHits"`
	NarinfoUpstream int64 `json:"narinfoUpstream"`
	NarinfoMisses   int64 `json:"narinfoMisses"`
	NARs            int64 `json:"nars"`
	NARFailures     int64 `json:"narFailures"`
	NARBytes        int64 `json:"narBytes"`
}

func (s *Server) status() status {
	st := status{
		Cache: s.opts.Cache, Version: s.opts.Version, Started: s.started.UTC(),
		Segments:       []index.SegmentInfo{},
		RegistryUnwell: s.registry.open(),
		Served: servedStatus{
			s.counts.hits.Load(), s.counts.upstreamHits.Load(), s.counts.misses.Load(),
			s.counts.nars.Load(), s.counts.narFailures.Load(), s.counts.narBytes.Load(),
		},
	}
	snap := s.snapshot.Load()
	st.nixcacheStatus = s.nixcacheStatus(snap)
	if snap != nil {
		st.Entries, st.Root, st.Segments = snap.Len(), snap.Digest(), snap.Segments()
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
	// A page in a browser on this machine must not make us ask the registry,
	// nor should the network.
	if err := http.NewCrossOriginProtection().Check(r); err != nil || !fromLoopback(r) {
		http.Error(w, "refused: only for programs on this machine", http.StatusForbidden)
		return
	}
	ctx, cancel := within(r.Context(), refreshTimeout)
	defer cancel()
	err := s.reload(ctx, true)
	s.upstreams.forget()
	st := s.status()
	st.Refreshed = err == nil
	body, jsonErr := json.MarshalIndent(st, "", "  ")
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
