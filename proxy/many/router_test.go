package many

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
	"github.com/org/nixoci-action/proxy"
)

// counted is a registry that counts what it is asked, and can be made to fail.
type counted struct {
	addr  string
	roots atomic.Int64 // readings of roots
	all   atomic.Int64
	fault atomic.Pointer[registrytest.Fault]
}

func newCounted(tb testing.TB) *counted {
	tb.Helper()
	c := &counted{}
	next := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.all.Add(1)
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/manifests/"+format.RootTag) {
			c.roots.Add(1)
		}
		if f := c.fault.Load(); f != nil {
			(*f)(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}))
	tb.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	c.addr = strings.TrimPrefix(s.URL, "http://")
	return c
}

func (c *counted) fail(f registrytest.Fault) {
	if f == nil {
		c.fault.Store(nil)
		return
	}
	c.fault.Store(&f)
}

func hangingRegistry(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() }

// sharedConns are shared by all caches, as cmd/proxy has it.
var sharedConns = map[bool]http.RoundTripper{true: registry.NewTransport(false), false: registry.NewTransport(true)}

// repositoryFor opens a repository as cmd/proxy does.
func repositoryFor(a Access) (registry.Repository, error) {
	o := registry.Options{Transport: sharedConns[a.Named]}
	if a.Credentials != nil {
		o.Keychain = passwordFor(*a.Credentials)
	}
	return registry.Open(a.Cache, o)
}

// newRouter is a Router that allows what is on this machine.
func newRouter(tb testing.TB, addr string, change ...func(*RouterOptions)) *Router {
	tb.Helper()
	o := RouterOptions{
		Allow: []string{addr + "/**"},
		Open: func(a Access) (*proxy.Server, error) {
			repo, err := repositoryFor(a)
			if err != nil {
				return nil, err
			}
			return proxy.New(proxy.Options{
				Index: index.Open(repo, index.Options{Reserve: a.Reserve}), Blobs: repo, Cache: a.Cache,
				FirstByte: time.Second, Stall: time.Second,
			})
		},
		Verify: func(ctx context.Context, a Access) error {
			repo, err := repositoryFor(a)
			if err != nil {
				return err
			}
			_, err = repo.Resolve(ctx, format.RootTag)
			return err
		},
		Wait:   5 * time.Second,
		Logger: slog.New(slog.NewTextHandler(untilTheEnd(tb), nil)),
	}
	for _, f := range change {
		f(&o)
	}
	r, err := NewRouter(o)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// untilTheEnd is the test's log as long as the test runs: what a Router does in
// the background may take longer.
func untilTheEnd(tb testing.TB) io.Writer {
	l := &boundedLog{tb: tb}
	tb.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.tb = nil
	})
	return l
}

type boundedLog struct {
	mu sync.Mutex
	tb testing.TB
}

func (l *boundedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tb != nil {
		l.tb.Logf("%s", bytes.TrimRight(p, "\n"))
	}
	return len(p), nil
}

// hello publishes one path and returns its entry.
func hello(tb testing.TB, cache string, seed uint64) format.Entry {
	tb.Helper()
	data := proxytest.RandomBytes(seed, 1000)
	e := proxytest.FileEntry(fmt.Sprint("hello-", seed), data)
	repo := proxytest.OpenRepo(tb, cache)
	proxytest.PutBlob(tb, repo, data)
	proxytest.Publish(tb, repo, format.Config{PublicKeys: []string{proxytest.PublicKey}}, e)
	return e
}

func TestRouterServesByName(t *testing.T) {
	reg := newCounted(t)
	a, b := hello(t, reg.addr+"/org/a", 1), hello(t, reg.addr+"/org/deep/er/b", 2)
	r := newRouter(t, reg.addr, func(o *RouterOptions) { o.Allow = []string{reg.addr + "/org/**"} })
	hello(t, reg.addr+"/other/c", 3)
	at := "/" + reg.addr
	for _, tc := range []struct {
		method, path string
		status       int
		body         string // "" is not compared
	}{
		{"GET", at + "/org/a/nix-cache-info", 200, "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n"},
		{"GET", at + "/org/a/" + a.Path.HashPart + ".narinfo", 200, a.Narinfo()},
		{"GET", at + "/org/deep/er/b/" + b.Path.HashPart + ".narinfo", 200, b.Narinfo()},
		{"GET", at + "/org/deep%2Fer/b/" + b.Path.HashPart + ".narinfo", 200, b.Narinfo()},
		{"GET", strings.ReplaceAll(at, ":", "%3A") + "/org/a/nix-cache-info", 200, ""},
		{"GET", at + "/org/a/" + a.URL(), 200, string(proxytest.RandomBytes(1, 1000))},
		{"GET", at + "/org/a/public-key", 200, proxytest.PublicKey + "\n"},
		{"GET", at + "/org/a/_status", 200, ""},
		{"POST", at + "/org/a/_refresh", 200, ""},
		{"HEAD", at + "/org/a/" + a.Path.HashPart + ".narinfo", 200, ""},
		{"HEAD", at + "/org/a/" + a.URL(), 200, ""},

		// no cache's paths are another's
		{"GET", at + "/org/a/" + b.Path.HashPart + ".narinfo", 404, ""},
		{"GET", at + "/org/a/" + b.URL(), 404, ""},
		{"GET", "/" + a.Path.HashPart + ".narinfo", 404, ""},
		{"GET", "/nix-cache-info", 404, ""},
		{"GET", "/", 404, ""},

		// what is not there, not allowed, or not a name, does not exist
		{"GET", at + "/org/none/nix-cache-info", 404, ""},
		{"GET", at + "/other/c/nix-cache-info", 404, ""},
		{"GET", at + "/org/../other/c/nix-cache-info", 404, ""},
		{"GET", at + "/org/%2e%2e/other/c/nix-cache-info", 404, ""},
		{"GET", at + "/org//a/nix-cache-info", 404, ""},
		{"GET", "/oci:/etc/nix-cache-info", 404, ""},
		{"GET", at + "/org/a", 404, ""},

		// 404 for nix-cache-info makes Nix try PUT
		{"PUT", at + "/org/none/nix-cache-info", 405, ""},
		{"PUT", at + "/other/c/nix-cache-info", 405, ""},
		{"PUT", at + "/org/a/nix-cache-info", 405, ""},
		{"PUT", "/nix-cache-info", 405, ""},
		{"DELETE", at + "/org/a/" + a.URL(), 405, ""},
	} {
		got := proxytest.Get(r, tc.method, tc.path)
		if got.Code != tc.status || tc.body != "" && got.Body.String() != tc.body {
			t.Errorf("%s %s: got %d, %q; want %d, %q", tc.method, tc.path, got.Code, got.Body, tc.status, tc.body)
		}
	}
}

// Who does not name a registry in full keeps clients from reaching his own
// network, and no request for what is not allowed goes out at all.
func TestRouterAsksOnlyWhatIsAllowed(t *testing.T) {
	reg := newCounted(t)
	hello(t, reg.addr+"/org/a", 1)
	asked := reg.all.Load()
	port := reg.addr[strings.LastIndex(reg.addr, ":"):]
	for _, allow := range []string{"**", "*/**", "127.*" + port + "/**", "ghcr.io/**", "http://localhost" + port + "/other/*"} {
		r := newRouter(t, "", func(o *RouterOptions) { o.Allow = []string{allow} })
		for _, host := range []string{reg.addr, "localhost" + port, "[::ffff:127.0.0.1]" + port, "127.1" + port, "2130706433" + port, "0" + port, "localtest.localhost" + port} {
			if got := proxytest.Get(r, "GET", "/"+host+"/org/a/nix-cache-info").Code; got != 404 {
				t.Errorf("%s with %s: got %d", host, allow, got)
			}
		}
	}
	if got := reg.all.Load() - asked; got != 0 {
		t.Errorf("%d requests went out", got)
	}
}

func TestFirstRequestsShareOneOpening(t *testing.T) {
	reg := newCounted(t)
	e := hello(t, reg.addr+"/org/a", 1)
	before := reg.roots.Load()
	r := newRouter(t, reg.addr)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if got := proxytest.Get(r, "GET", "/"+reg.addr+"/org/a/"+e.Path.HashPart+".narinfo").Code; got != 200 {
				t.Errorf("got %d", got)
			}
		})
	}
	wg.Wait()
	if got := reg.roots.Load() - before; got != 1 {
		t.Errorf("the root was read %d times, want 1", got)
	}
}

// While a registry hangs, requests are answered in time, all of them together.
func TestOpeningIsBounded(t *testing.T) {
	reg := newCounted(t)
	e := hello(t, reg.addr+"/org/a", 1)
	reg.fail(hangingRegistry)
	r := newRouter(t, reg.addr, func(o *RouterOptions) { o.Wait = 300 * time.Millisecond })
	begin := time.Now()
	for i := range 200 {
		if got := proxytest.Get(r, "GET", "/"+reg.addr+"/org/a/"+e.Path.HashPart+".narinfo").Code; got != 404 {
			t.Fatalf("request %d: got %d", i, got)
		}
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("two hundred requests took %s", took)
	}
	for _, c := range r.caches {
		if c.active != 0 {
			t.Errorf("%d requests are thought to be under way", c.active)
		}
	}
}

// A client that goes away does not end the opening for the others.
func TestOpeningOutlivesItsClient(t *testing.T) {
	reg := newCounted(t)
	e := hello(t, reg.addr+"/org/a", 1)
	release := make(chan struct{})
	reg.fail(func(w http.ResponseWriter, r *http.Request, next http.Handler) { <-release; next.ServeHTTP(w, r) })
	r := newRouter(t, reg.addr)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	path := "/" + reg.addr + "/org/a/" + e.Path.HashPart + ".narinfo"
	first := httptest.NewRecorder()
	r.ServeHTTP(first, httptest.NewRequestWithContext(ctx, "GET", path, nil))
	close(release)
	if got := proxytest.Get(r, "GET", path).Code; first.Code != 404 || got != 200 {
		t.Errorf("got %d and %d, want 404 and 200", first.Code, got)
	}
}

func TestAbsenceIsRemembered(t *testing.T) {
	reg := newCounted(t)
	r := newRouter(t, reg.addr)
	for range 50 {
		if got := proxytest.Get(r, "GET", "/"+reg.addr+"/org/none/nix-cache-info").Code; got != 404 {
			t.Fatalf("got %d", got)
		}
	}
	if got := reg.roots.Load(); got != 1 {
		t.Errorf("the registry was asked %d times, want once", got)
	}
	if len(r.caches) != 0 {
		t.Errorf("%d caches are held", len(r.caches))
	}
}

// Not many of them are opened at a time, and not any number waits.
func TestOpeningsAreBounded(t *testing.T) {
	reg := newCounted(t)
	reg.fail(hangingRegistry)
	r := newRouter(t, reg.addr, func(o *RouterOptions) { o.Wait = time.Millisecond })
	for i := range maxWaiting + 500 {
		proxytest.Get(r, "GET", fmt.Sprintf("/%s/org/c%d/nix-cache-info", reg.addr, i))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.caches) > maxWaiting || r.opening > maxWaiting {
		t.Errorf("%d caches, %d opening", len(r.caches), r.opening)
	}
}

// Indexes take no more memory than they may, whatever the number of caches,
// and each cache is served all the same.
func TestIndexMemoryIsBounded(t *testing.T) {
	const caches, paths = 300, 250
	reg := newCounted(t)
	var entries []format.Entry
	for i := range paths {
		entries = append(entries, proxytest.FileEntry(fmt.Sprint("p", i), fmt.Append(nil, "data", i)))
	}
	repo := proxytest.OpenRepo(t, reg.addr+"/org/c0")
	for i := range paths {
		proxytest.PutBlob(t, repo, fmt.Append(nil, "data", i))
	}
	for i := range caches {
		proxytest.Publish(t, proxytest.OpenRepo(t, fmt.Sprintf("%s/org/c%d", reg.addr, i)), format.Config{}, entries...)
	}
	one := newServer(t, repo).Memory()
	limit := 40 * one
	r := newRouter(t, reg.addr, func(o *RouterOptions) { o.IndexMemory = limit })
	heap := func() int64 {
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	ask := func(i int) {
		if got := proxytest.Get(r, "GET", fmt.Sprintf("/%s/org/c%d/%s.narinfo", reg.addr, i, entries[i%paths].Path.HashPart)); got.Code != 200 {
			t.Errorf("cache %d: got %d", i, got.Code)
		}
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < caches; i += 8 {
				ask(i)
				ask(0) // in use all the time
				r.mu.Lock()
				if n := r.memory(); n > limit {
					t.Errorf("%d bytes are in use, more than %d", n, limit)
				}
				r.mu.Unlock()
			}
		})
	}
	wg.Wait()
	st := r.status()
	took := heap() - before
	t.Logf("%d caches of %d bytes each; %d are open and take %d bytes, estimated as %d; %d were dropped", caches, one, len(st.Caches), took, st.IndexMemory, st.Dropped)
	if st.IndexMemory > limit || len(st.Caches) < 20 || len(st.Caches) > 40 || int(st.Dropped)+len(st.Caches) < caches {
		t.Errorf("got %d open caches, %d dropped, %d bytes of %d", len(st.Caches), st.Dropped, st.IndexMemory, limit)
	}
	if took > st.IndexMemory*3/2 {
		t.Errorf("%d bytes are held, and estimated as %d", took, st.IndexMemory)
	}
	roots := reg.roots.Load()
	ask(0)
	if reg.roots.Load() != roots {
		t.Error("the cache that was in use was dropped")
	}
	runtime.KeepAlive(r)
}

// An index that does not fit is not read, and others are none the worse.
func TestIndexTooLarge(t *testing.T) {
	reg := newCounted(t)
	small := hello(t, reg.addr+"/org/small", 1)
	var entries []format.Entry
	repo := proxytest.OpenRepo(t, reg.addr+"/org/large")
	for i := range 3000 {
		e := proxytest.FileEntry(fmt.Sprint("p", i), []byte("data"))
		entries = append(entries, e)
	}
	proxytest.PutBlob(t, repo, []byte("data"))
	proxytest.Publish(t, repo, format.Config{}, entries...)
	var buf bytes.Buffer
	r := newRouter(t, reg.addr, func(o *RouterOptions) {
		o.IndexMemory = 1 << 20
		o.Logger = slog.New(slog.NewTextHandler(&buf, nil))
	})
	ok := func() {
		if got := proxytest.Get(r, "GET", "/"+reg.addr+"/org/small/"+small.Path.HashPart+".narinfo").Code; got != 200 {
			t.Errorf("the small one: got %d", got)
		}
	}
	ok()
	if got := proxytest.Get(r, "GET", "/"+reg.addr+"/org/large/nix-cache-info").Code; got != 404 {
		t.Errorf("got %d, want 404", got)
	}
	ok()
	if !strings.Contains(buf.String(), "org/large") || !strings.Contains(buf.String(), "memory for indexes is used up") {
		t.Errorf("the log says: %s", &buf)
	}
	reserved := func() int64 { // the small one may be read again meanwhile
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.reserved
	}
	for deadline := time.Now().Add(10 * time.Second); reserved() != 0 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
	}
	if st := r.status(); st.IndexMemory > 1<<20 || reserved() != 0 {
		t.Errorf("%d bytes are in use, %d reserved", st.IndexMemory, reserved())
	}
}

// A cache that nobody asks is not polled, and is dropped.
func TestIdleCaches(t *testing.T) {
	reg := newCounted(t)
	e := hello(t, reg.addr+"/org/a", 1)
	r := newRouter(t, reg.addr, func(o *RouterOptions) { o.Idle, o.Refresh = time.Second, 20*time.Millisecond })
	proxytest.Start(t, r)
	if got := proxytest.Get(r, "GET", "/"+reg.addr+"/org/a/"+e.Path.HashPart+".narinfo").Code; got != 200 {
		t.Fatalf("got %d", got)
	}
	time.Sleep(300 * time.Millisecond) // the request may have had the index read again beside it
	asked := reg.all.Load()
	for deadline := time.Now().Add(10 * time.Second); r.status().Dropped == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the cache is not dropped")
		}
	}
	if got := reg.all.Load() - asked; got != 0 {
		t.Errorf("the registry was asked %d times for a cache that nobody wanted", got)
	}
	if st := r.status(); len(st.Caches) != 0 || st.IndexMemory != 0 {
		t.Errorf("got %+v", st)
	}
}

// What is published later is seen, and what was published is served while the
// registry is away.
func TestRouterRefreshes(t *testing.T) {
	reg := newCounted(t)
	e := hello(t, reg.addr+"/org/a", 1)
	r := newRouter(t, reg.addr, func(o *RouterOptions) { o.Refresh = 200 * time.Millisecond })
	ask := func(e format.Entry) int {
		return proxytest.Get(r, "GET", "/"+reg.addr+"/org/a/"+e.Path.HashPart+".narinfo").Code
	}
	if got := ask(e); got != 200 {
		t.Fatalf("got %d", got)
	}
	later := hello(t, reg.addr+"/org/a", 2)
	time.Sleep(250 * time.Millisecond)
	if got := ask(later); got != 200 {
		t.Errorf("what was published later: got %d", got)
	}
	before := r.status().IndexMemory
	hello(t, reg.addr+"/org/a", 3)
	if got := proxytest.Get(r, "POST", "/"+reg.addr+"/org/a/_refresh").Code; got != 200 || r.reserved != 0 || r.status().IndexMemory <= before {
		t.Errorf("_refresh: got %d, %d bytes reserved, %d in use after %d", got, r.reserved, r.status().IndexMemory, before)
	}
	reg.fail(func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) })
	time.Sleep(250 * time.Millisecond)
	begin := time.Now()
	for range 50 {
		if got := ask(e); got != 200 {
			t.Fatalf("registry away: got %d", got)
		}
	}
	if took := time.Since(begin); took > freshWait+2*time.Second {
		t.Errorf("fifty requests took %s while the registry was away", took)
	}
}

func TestRouterStatus(t *testing.T) {
	counted := newCounted(t)
	hello(t, counted.addr+"/org/a", 1)
	r := newRouter(t, counted.addr)
	proxytest.Get(r, "GET", "/"+counted.addr+"/org/a/nix-cache-info")
	proxytest.Get(r, "GET", "/"+counted.addr+"/org/a/nix-cache-info", "Authorization", "Basic dTpodW50ZXIy") // u:hunter2
	w := proxytest.Get(r, "GET", "/_status")
	var st routerStatus
	if err := json.Unmarshal(w.Body.Bytes(), &st); err != nil || w.Code != 200 {
		t.Fatalf("got %d, %v", w.Code, err)
	}
	if len(st.Caches) != 1 || st.Caches[0].Cache != counted.addr+"/org/a" || st.Caches[0].Entries != 1 || st.Private != 1 || st.IndexMemory < 64<<10 {
		t.Errorf("got %+v", st)
	}
	if strings.Contains(w.Body.String(), "hunter2") {
		t.Errorf("the status shows a password: %s", w.Body)
	}
	req := httptest.NewRequest("GET", "/_status", nil)
	req.RemoteAddr = "192.0.2.1:1"
	far := httptest.NewRecorder()
	r.ServeHTTP(far, req)
	if far.Code != 403 {
		t.Errorf("from elsewhere: got %d, want 403", far.Code)
	}
}

// What is at the root goes on beside the others.
func TestRouterHome(t *testing.T) {
	reg := newCounted(t)
	a := hello(t, reg.addr+"/org/a", 1)
	homeRepo := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	data := proxytest.RandomBytes(7, 100)
	proxytest.PutBlob(t, homeRepo, data)
	e := proxytest.FileEntry("home", data)
	proxytest.Publish(t, homeRepo, format.Config{}, e)
	home := newServer(t, homeRepo)
	r := newRouter(t, reg.addr, func(o *RouterOptions) { o.Home = home })
	for path, want := range map[string]int{
		"/nix-cache-info": 200, "/" + e.Path.HashPart + ".narinfo": 200, "/" + e.URL(): 200, "/_status": 200,
		"/" + a.Path.HashPart + ".narinfo": 404, "/" + reg.addr + "/org/a/" + a.Path.HashPart + ".narinfo": 200,
		"/" + reg.addr + "/org/a/" + e.Path.HashPart + ".narinfo": 404,
	} {
		if got := proxytest.Get(r, "GET", path).Code; got != want {
			t.Errorf("%s: got %d, want %d", path, got, want)
		}
	}
	if r.Len() != 1 {
		t.Errorf("got %d paths", r.Len())
	}
	if body := proxytest.Get(r, "GET", "/_status").Body.String(); !strings.Contains(body, `"home": {`) || !strings.Contains(body, `"indexMemoryLimit"`) {
		t.Errorf("the status is %s", body)
	}
}

// A bug that the index of one cache meets does not end the others.
func TestPanicWhileOpening(t *testing.T) {
	reg := newCounted(t)
	r := newRouter(t, reg.addr, func(o *RouterOptions) {
		o.Open = func(Access) (*proxy.Server, error) { panic("bug") }
	})
	if got := proxytest.Get(r, "GET", "/"+reg.addr+"/org/a/nix-cache-info").Code; got != 404 {
		t.Errorf("got %d, want 404", got)
	}
	r.opts.Open = func(Access) (*proxy.Server, error) { return nil, errors.New("no") }
	if got := proxytest.Get(r, "GET", "/"+reg.addr+"/org/b/nix-cache-info").Code; got != 404 {
		t.Errorf("got %d, want 404", got)
	}
	if r.opening != 0 || len(r.caches) != 0 || len(r.slots) != 0 {
		t.Errorf("%d are opening, %d held, %d slots", r.opening, len(r.caches), len(r.slots))
	}
}
