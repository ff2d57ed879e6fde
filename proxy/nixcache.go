package proxy

import (
	"strings"
	"time"

	"github.com/org/nixoci-action/index"
)

// nixcacheStatus is what nixcache-oci's proxy says in /_status, under its names,
// for scripts that read it.
type nixcacheStatus struct {
	IndexEntries int `json:"index_entries"`
	// IndexGenerated is when the index was last changed, or "unknown".
	IndexGenerated string   `json:"index_generated"`
	IndexTTL       int64    `json:"index_ttl"` // seconds
	Repo           string   `json:"repo"`
	Upstream       []string `json:"upstream"`
}

func (s *Server) nixcacheStatus(snap *index.Snapshot) nixcacheStatus {
	st := nixcacheStatus{
		IndexGenerated: "unknown", IndexTTL: int64(s.opts.Refresh / time.Second), Repo: s.opts.Cache, Upstream: []string{},
	}
	// there a repository is GitHub's
	if repo, ok := strings.CutPrefix(s.opts.Cache, "ghcr.io/"); ok {
		st.Repo = strings.TrimSuffix(repo, "/nix-cache")
	}
	for _, u := range s.upstreams.caches {
		st.Upstream = append(st.Upstream, u.String())
	}
	if snap == nil {
		return st
	}
	st.IndexEntries = snap.Len()
	if last := snap.Changed(); !last.IsZero() {
		st.IndexGenerated = last.UTC().Format(time.RFC3339)
	}
	return st
}
