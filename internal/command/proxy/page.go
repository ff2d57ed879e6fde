package proxy

import (
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/page"
	"github.com/org/nixoci-action/proxy"
)

// cachePage is the page at /. It is made before the server that it shows, and
// answers when it is told of it.
type cachePage struct {
	mode string
	page atomic.Pointer[page.Page]
}

var _ proxy.Page = (*cachePage)(nil)

// Values of --page. What a cache holds is more than a client learns that has
// to know what it asks for, so by default the page is for this machine only.
const (
	pageAuto = "auto"
	pageOn   = "on"
	pageOff  = "off"
)

// show tells the page what it shows, and where the cache is served. There is one
// for a single cache only: one is nil otherwise.
func (p *cachePage) show(one *proxy.Server, c config, listeners []net.Listener) {
	url, local := "", true
	for _, l := range listeners {
		addr, ok := l.Addr().(*net.TCPAddr)
		local = local && ok && addr.IP.IsLoopback()
		if ok && url == "" {
			url = clientURL(addr, c.tlsCert != "")
		}
	}
	if one == nil || url == "" || p.mode == pageOff || p.mode == pageAuto && !local {
		return
	}
	p.page.Store(page.New(page.Options{
		Snapshot: func() *index.Snapshot { return one.Snapshot() },
		Cache:    c.caches[0], Version: cli.Version(), URL: url,
		Health: func() page.Health { return health(one.Health()) },
	}))
}

// Owns reports whether the page answers a request.
func (p *cachePage) Owns(r *http.Request) bool {
	return p.page.Load() != nil && page.Owns(r.URL.Path)
}

// private reports whether a request is for more than a cache's own files, which
// nobody finds without knowing a hash.
func (p *cachePage) private(r *http.Request) bool {
	if _, f := bincache.Split(strings.TrimPrefix(r.URL.Path, "/")); f.Kind == bincache.Status || f.Kind == bincache.Refresh {
		return true // of a cache by its name, too
	}
	return p.Owns(r)
}

func (p *cachePage) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.page.Load().ServeHTTP(w, r) }

func health(h proxy.Health) page.Health {
	return page.Health{
		Started: h.Started, Succeeded: h.Succeeded, Tried: h.Tried, Err: h.Err, RegistryUnwell: h.RegistryUnwell,
		Served: []page.Count{
			{Name: "Narinfos from the cache", N: h.NarinfoHits},
			{Name: "Narinfos from upstream caches", N: h.NarinfoUpstream},
			{Name: "Narinfos that nobody had", N: h.NarinfoMisses},
			{Name: "NARs", N: h.NARs},
			{Name: "NARs that failed", N: h.NARFailures},
			{Name: "NARs, compressed", N: h.NARBytes, Bytes: true},
		},
	}
}
