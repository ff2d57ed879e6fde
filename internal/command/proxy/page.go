package proxy

import (
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/page"
	"github.com/org/nixoci-action/proxy"
)

// cachePage is the page at /. It is made before the server that it shows, and
// answers when it is told of it.
type cachePage struct {
	mode    string
	page    atomic.Pointer[page.Page]
	anybody bool // who reaches the proxy may see it, by whatever name
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
	p.anybody = p.mode == pageOn
	p.page.Store(page.New(page.Options{
		Snapshot: func() *index.Snapshot { return one.Snapshot() },
		Cache:    c.caches[0], Version: cli.Version(), URL: url,
		Health: func() page.Health { return health(one.Health()) },
	}))
}

// Owns leaves out what a browser asks for under a name that is not this
// machine's: another site may have pointed its name here to read along.
func (p *cachePage) Owns(r *http.Request) bool {
	return p.page.Load() != nil && page.Owns(r.URL.Path) && (p.anybody || ownName(r.Host))
}

func (p *cachePage) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.page.Load().ServeHTTP(w, r) }

// ownName reports whether a Host is an address or localhost, which no other
// site can be called.
func ownName(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.EqualFold(host, "localhost") || net.ParseIP(strings.Trim(host, "[]")) != nil
}

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
