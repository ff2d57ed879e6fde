package many

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/reply"
	"github.com/org/nixoci-action/proxy"
)

// routerStatus is the answer to a Router's /_status.
type routerStatus struct {
	Version string       `json:"version"`
	Started time.Time    `json:"started"`
	Caches  []openStatus `json:"caches"`
	// Private is how many caches are open that were opened with a client's
	// credentials. Their names are not told.
	Private int `json:"private"`
	Opening int `json:"opening"`
	// Dropped counts those that were open and are not any more.
	Dropped int64 `json:"dropped"`
	// IndexMemory is what the indexes of all open caches take, and may, in
	// bytes.
	IndexMemory      int64 `json:"indexMemory"`
	IndexMemoryLimit int64 `json:"indexMemoryLimit"`
	// Home is the status of what is served without a name; missing if there is
	// nothing.
	Home any `json:"home,omitempty"`
}

// openStatus is one open cache.
type openStatus struct {
	Cache    string    `json:"cache"`
	Entries  int       `json:"entries"`
	Memory   int64     `json:"memory"`
	Used     time.Time `json:"used"`
	Verified time.Time `json:"verified"`
}

func (r *Router) status() routerStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := routerStatus{
		Version: r.opts.Version, Started: r.started.UTC(), Caches: []openStatus{}, Opening: r.opening, Dropped: r.dropped,
		IndexMemory: r.memory(), IndexMemoryLimit: r.opts.IndexMemory,
	}
	switch home := r.opts.Home.(type) {
	case *proxy.Server:
		st.Home = home.Status()
	case *Union:
		st.Home = home.status()
	}
	for k, c := range r.caches {
		switch {
		case !c.opened():
		case k.who != identity{}:
			st.Private++
		default:
			st.Caches = append(st.Caches, openStatus{k.cache, c.server.Len(), c.memory, c.used.UTC(), c.verified.UTC()})
		}
	}
	slices.SortFunc(st.Caches, func(a, b openStatus) int { return strings.Compare(a.Cache, b.Cache) })
	return st
}

// serveStatus is for programs on this machine only: which caches are in use is
// nobody else's business.
func (r *Router) serveStatus(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		reply.Refuse(w, req)
		return
	}
	reply.JSON(w, req, r.status())
}
