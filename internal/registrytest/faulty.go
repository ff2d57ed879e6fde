package registrytest

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

// Fault answers a request in a registry's place. It may call next.
type Fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// Faulty stands before a registry. A fault may be injected at any time.
type Faulty struct {
	// Addr is "127.0.0.1:PORT".
	Addr string

	fault atomic.Pointer[Fault]
}

// NewFaulty starts one before the registry at backend. It passes everything on.
func NewFaulty(tb testing.TB, backend string) *Faulty {
	tb.Helper()
	f := &Faulty{}
	next := behind(backend)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fault := f.fault.Load(); fault != nil {
			(*fault)(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}))
	tb.Cleanup(s.Close)
	f.Addr = strings.TrimPrefix(s.URL, "http://")
	return f
}

// Inject has a fault answer from now on; nil ends that.
func (f *Faulty) Inject(fault Fault) {
	if fault == nil {
		f.fault.Store(nil)
		return
	}
	f.fault.Store(&fault)
}

// behind passes requests on to the registry at an address. The registry makes
// URLs of the host that the client has asked.
func behind(addr string) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(&url.URL{Scheme: "http", Host: addr})
		p.Out.Host = p.In.Host
	}}
}
