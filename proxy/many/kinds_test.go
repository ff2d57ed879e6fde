package many

import (
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/proxy"
	"github.com/org/nixoci-action/proxy/push"
)

// All that tells files of a binary cache apart is asked about every kind: the
// routes of a cache, those of several served as one, those below caches' names,
// pushes, and the metrics. A kind that one of them forgets would be "not found"
// there, which no client complains of.
func TestEveryKindOfFile(t *testing.T) {
	reg := newCounted(t)
	name := reg.addr + "/a/b"
	repo := proxytest.OpenRepo(t, name)
	e := proxytest.PublishExtras(t, repo, "the log\n")
	proxytest.PutBlob(t, repo, proxytest.RandomBytes(2, 100))
	proxytest.Publish(t, repo, format.Config{PublicKeys: []string{proxytest.PublicKey}}, proxytest.FileEntry("other", proxytest.RandomBytes(2, 100)))
	elsewhere := proxytest.FileEntry("elsewhere", proxytest.RandomBytes(3, 100))
	up := proxytest.NewUpstreamCache(t, proxytest.NarinfoOf(elsewhere))
	withUpstream := func(o *proxy.Options) { o.Upstreams = []string{up.URL} }
	server := newServer(t, repo, withUpstream)
	union, err := NewUnion([]*proxy.Server{newServer(t, repo)}, proxy.Options{Upstreams: []string{up.URL}})
	if err != nil || union.Prepare(t.Context()) != nil {
		t.Fatal(err)
	}
	router := newRouter(t, reg.addr, func(o *RouterOptions) {
		o.Open = func(a Access) (*proxy.Server, error) {
			repo, err := repositoryFor(a)
			if err != nil {
				return nil, err
			}
			return proxy.New(proxy.Options{Index: index.Open(repo, index.Options{}), Blobs: repo, Upstreams: []string{up.URL}})
		}
	})
	shelf := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	pushes := newServer(t, shelf, func(o *proxy.Options) {
		o.Push = push.New(push.Options{Cache: index.Open(shelf, index.Options{}), Repository: shelf, Dir: t.TempDir()})
	})
	narinfo, err := bincache.ParseNarinfo(proxytest.Get(server, http.MethodGet, "/"+elsewhere.Path.HashPart+".narinfo").Body.String())
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[bincache.Kind]struct {
		file   bincache.File
		method string // GET if empty
		status int    // 200 if 0
		metric string
		pushed bool
	}{
		bincache.CacheInfo:   {metric: "cache-info", pushed: true},
		bincache.Narinfo:     {file: bincache.File{Name: e.Path.HashPart}, metric: "narinfo", pushed: true},
		bincache.Listing:     {file: bincache.File{Name: e.Path.HashPart}, metric: "document", pushed: true},
		bincache.NAR:         {file: e.File(), metric: "nar", pushed: true},
		bincache.Log:         {file: bincache.File{Name: proxytest.Drv}, metric: "document", pushed: true},
		bincache.Realisation: {file: bincache.File{Name: proxytest.Realisation}, metric: "other", pushed: true},
		bincache.BuildTrace:  {file: bincache.File{Name: proxytest.Drv, Detail: "out"}, metric: "other", pushed: true},
		bincache.DebugInfo:   {file: bincache.File{Name: proxytest.BuildID}, metric: "other", pushed: true},
		bincache.PublicKey:   {metric: "other"},
		bincache.Status:      {metric: "other"},
		bincache.Refresh:     {method: http.MethodPost, metric: "other"},
		bincache.UpstreamNAR: {file: bincache.Parse(narinfo.Get("URL")), status: http.StatusFound, metric: "nar"},
	}
	for _, k := range bincache.Kinds() {
		c, ok := kinds[k]
		if !ok {
			t.Errorf("nothing is known of the kind %s", k)
			continue
		}
		c.file.Kind = k
		path := "/" + c.file.Path()
		if c.method == "" {
			c.method = http.MethodGet
		}
		if c.status == 0 {
			c.status = http.StatusOK
		}
		for who, at := range map[string]struct {
			service proxy.Service
			path    string
		}{
			"a cache":            {server, path},
			"a union":            {union, path},
			"a cache of several": {router, "/" + name + path},
		} {
			status, metric := measured(t, at.service, c.method, at.path)
			if status != c.status {
				t.Errorf("%s: %s answers %s with %d, want %d", k, who, at.path, status, c.status)
			}
			if metric != c.metric {
				t.Errorf("%s: with %s it is measured as %q, want %q", k, who, metric, c.metric)
			}
		}
		put := proxytest.Request(pushes, http.MethodPut, path, []byte("x"))
		if taken := !strings.Contains(put.Body.String(), "does not take this file"); taken != c.pushed {
			t.Errorf("%s: a push got %d %s", k, put.Code, put.Body)
		}
	}
}

// measured asks a service, and tells which kind of request the metrics take it
// for.
func measured(tb testing.TB, s proxy.Service, method, path string) (status int, kind string) {
	tb.Helper()
	m := proxy.NewMetrics()
	status = proxytest.Get(m.Measure(s), method, path).Code
	reg := prometheus.NewRegistry()
	reg.MustRegister(m)
	families, err := reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "nixoci_proxy_requests_total" {
			continue
		}
		for _, l := range f.GetMetric()[0].GetLabel() {
			if l.GetName() == "kind" {
				kind = l.GetValue()
			}
		}
	}
	return status, kind
}
