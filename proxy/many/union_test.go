package many

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/reply"
	"github.com/org/nixoci-action/proxy"
)

const otherKey = "other-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="

// shelf is a repository with entries whose NARs are there.
func shelf(tb testing.TB, conf format.Config, entries map[string]uint64, change ...func(*proxy.Options)) (*proxy.Server, map[string]*format.Entry) {
	tb.Helper()
	repo := proxytest.OpenRepo(tb, "oci:"+tb.TempDir())
	all := map[string]*format.Entry{}
	var list []format.Entry
	for name, seed := range entries {
		data := proxytest.RandomBytes(seed, 300_000)
		proxytest.PutBlob(tb, repo, data)
		e := proxytest.FileEntry(name, data)
		if conf.StoreDir != "" {
			e.Path.Dir = conf.StoreDir
		}
		all[name] = &e
		list = append(list, e)
	}
	proxytest.Publish(tb, repo, conf, list...)
	return newServer(tb, repo, change...), all
}

// newServer is a prepared server over a repository, with short time-outs.
func newServer(tb testing.TB, repo registry.Repository, change ...func(*proxy.Options)) *proxy.Server {
	tb.Helper()
	o := proxy.Options{
		Index: index.Open(repo, index.Options{}), Blobs: repo, Cache: repo.String(), Version: "test", Logger: proxytest.LogTo(tb),
		FirstByte: 2 * time.Second, Stall: 2 * time.Second, UpstreamTimeout: time.Second,
	}
	for _, f := range change {
		f(&o)
	}
	s, err := proxy.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.Prepare(context.Background()); err != nil {
		tb.Fatal(err)
	}
	return s
}

// downIndex is that of a registry that is down, of which the disk has no copy.
type downIndex struct{}

func (downIndex) Load() (*index.Snapshot, error) { return nil, fs.ErrNotExist }

func (downIndex) Refresh(context.Context) (*index.Snapshot, error) {
	return nil, errors.New("connection refused")
}

func (x downIndex) Sweep(ctx context.Context) (*index.Snapshot, error) { return x.Refresh(ctx) }

func newUnion(tb testing.TB, servers ...*proxy.Server) *Union {
	tb.Helper()
	u, err := NewUnion(servers, proxy.Options{Logger: proxytest.LogTo(tb)})
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

func TestUnion(t *testing.T) {
	first, a := shelf(t, format.Config{PublicKeys: []string{proxytest.PublicKey}, Priority: 45}, map[string]uint64{"both": 1, "only-first": 2, "same": 3})
	second, b := shelf(t, format.Config{PublicKeys: []string{otherKey, proxytest.PublicKey}, Priority: 35}, map[string]uint64{"both": 11, "only-second": 12, "same": 3})
	third, _ := shelf(t, format.Config{}, map[string]uint64{})
	u := newUnion(t, first, second, third)
	if err := u.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		method, path string
		status       int
		body         string // "" is not compared
	}{
		{"GET", "/nix-cache-info", 200, "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 35\n"},
		{"GET", "/public-key", 200, proxytest.PublicKey + "\n" + otherKey + "\n"},
		{"GET", "/" + a["both"].Path.HashPart + ".narinfo", 200, a["both"].Narinfo()}, // not b's
		{"GET", "/" + a["only-first"].Path.HashPart + ".narinfo", 200, a["only-first"].Narinfo()},
		{"GET", "/" + b["only-second"].Path.HashPart + ".narinfo", 200, b["only-second"].Narinfo()},
		{"HEAD", "/" + b["only-second"].Path.HashPart + ".narinfo", 200, ""},
		{"GET", "/" + a["both"].URL(), 200, string(proxytest.RandomBytes(1, 300_000))},
		{"GET", "/" + b["both"].URL(), 200, string(proxytest.RandomBytes(11, 300_000))}, // whoever has kept the narinfo gets its NAR
		{"GET", "/" + b["only-second"].URL(), 200, string(proxytest.RandomBytes(12, 300_000))},
		{"HEAD", "/" + b["only-second"].URL(), 200, ""},
		{"GET", "/" + strings.Repeat("0", 32) + ".narinfo", 404, ""},
		{"GET", "/nar/" + strings.Repeat("0", 52) + ".nar.zst", 404, ""},
		{"GET", "/log/x.drv", 404, ""},
		{"GET", "/", 404, ""},
		{"GET", "/_refresh", 405, ""},
		{"PUT", "/nix-cache-info", 405, ""},
		{"POST", "/_refresh", 200, ""},
	} {
		got := proxytest.Get(u, tc.method, tc.path)
		if got.Code != tc.status || tc.body != "" && got.Body.String() != tc.body {
			t.Errorf("%s %s: got %d, %.100q; want %d, %.100q", tc.method, tc.path, got.Code, got.Body, tc.status, tc.body)
		}
	}
	part := proxytest.Get(u, "GET", "/"+b["only-second"].URL(), "Range", "bytes=299990-")
	if part.Code != 206 || part.Header().Get("Content-Range") != "bytes 299990-299999/300000" || !bytes.Equal(part.Body.Bytes(), proxytest.RandomBytes(12, 300_000)[299_990:]) {
		t.Errorf("a range: got %d, %v", part.Code, part.Header())
	}
	if got := proxytest.Get(u, "GET", "/"+b["only-second"].URL(), "Range", "bytes=300000-").Code; got != 416 {
		t.Errorf("a range beyond the end: got %d", got)
	}
	var st unionStatus
	if err := json.Unmarshal(proxytest.Get(u, "GET", "/_status").Body.Bytes(), &st); err != nil || len(st.Caches) != 3 || st.Caches[0].Entries != 3 || st.Caches[1].Entries != 3 || st.Caches[2].Entries != 0 {
		t.Errorf("the status: %+v, %v", st, err)
	}
	if u.Len() != 6 {
		t.Errorf("got %d paths", u.Len())
	}
}

// A cache that is down takes nothing from the others, and where two have a NAR
// the second one gives it.
func TestUnionWithoutOne(t *testing.T) {
	bare, a := shelf(t, format.Config{}, map[string]uint64{"same": 3, "lost": 4}, func(o *proxy.Options) {
		o.Blobs = &proxytest.Blobs{} // has none
	})
	up, _ := shelf(t, format.Config{}, map[string]uint64{"same": 3, "other": 5})
	never, err := proxy.New(proxy.Options{Index: downIndex{}, Blobs: &proxytest.Blobs{}, Cache: "never"})
	if err != nil {
		t.Fatal(err)
	}
	u := newUnion(t, never, bare, up)
	begin := time.Now()
	if err := u.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "never") || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	url := proxytest.Start(t, u)
	resp, body, err := proxytest.Fetch(t, url+"/"+a["same"].URL())
	if err != nil || resp.StatusCode != 200 || !bytes.Equal(body, proxytest.RandomBytes(3, 300_000)) {
		t.Errorf("what both have: got %d, %v", resp.StatusCode, err)
	}
	if resp.ContentLength != 300_000 || resp.Header.Get("Content-Type") != reply.TypeNAR {
		t.Errorf("got %v", resp.Header)
	}
	if resp, _, _ := proxytest.Fetch(t, url+"/"+a["lost"].URL()); resp.StatusCode != 404 {
		t.Errorf("what the other alone has: got %d, want 404", resp.StatusCode)
	}
	if resp, _, _ := proxytest.Fetch(t, url+"/nix-cache-info"); resp.StatusCode != 200 {
		t.Errorf("nix-cache-info: got %d", resp.StatusCode)
	}
}

// Paths of two stores cannot be served as one.
func TestUnionOfTwoStores(t *testing.T) {
	here, a := shelf(t, format.Config{}, map[string]uint64{"a": 1})
	there, b := shelf(t, format.Config{StoreDir: "/gnu/store", PublicKeys: []string{otherKey}}, map[string]uint64{"b": 2})
	u := newUnion(t, here, there)
	var differs *StoreDirError
	if err := u.Prepare(t.Context()); !errors.As(err, &differs) || differs.StoreDir != "/nix/store" || differs.OtherStoreDir != "/gnu/store" {
		t.Fatalf("got %v", err)
	}

	// one that turns out to be of another store later is left out
	late := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	var log bytes.Buffer
	s := newServer(t, late)
	u = newUnion(t, s, here)
	u.log = slog.New(slog.NewTextHandler(&log, nil))
	if err := u.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := proxytest.Get(u, "GET", "/"+a["a"].Path.HashPart+".narinfo").Code; got != 200 {
		t.Fatalf("got %d", got)
	}
	data := proxytest.RandomBytes(2, 300_000)
	proxytest.PutBlob(t, late, data)
	proxytest.Publish(t, late, format.Config{StoreDir: "/gnu/store", PublicKeys: []string{otherKey}}, *b["b"])
	if got := proxytest.Get(u, "POST", "/_refresh").Code; got != 200 {
		t.Fatalf("refresh: got %d", got)
	}
	for range 10 {
		if got := proxytest.Get(u, "GET", "/"+b["b"].Path.HashPart+".narinfo").Code; got != 404 {
			t.Errorf("a path of another store: got %d", got)
		}
		if got := proxytest.Get(u, "GET", "/nix-cache-info").Body.String(); !strings.HasPrefix(got, "StoreDir: /nix/store\n") {
			t.Errorf("got %q", got)
		}
	}
	if got := proxytest.Get(u, "GET", "/public-key").Code; got != 404 {
		t.Errorf("the key of a cache that is left out: got %d", got)
	}
	if got := strings.Count(log.String(), "left out"); got != 1 {
		t.Errorf("it was said %d times: %s", got, &log)
	}
	if !strings.Contains(proxytest.Get(u, "GET", "/_status").Body.String(), `"leftOut": true`) {
		t.Error("the status does not tell")
	}
}

// What no cache has is looked up on the upstreams, once.
func TestUnionWithUpstreams(t *testing.T) {
	first, a := shelf(t, format.Config{}, map[string]uint64{"a": 1})
	second, _ := shelf(t, format.Config{}, map[string]uint64{"b": 2})
	e := proxytest.FileEntry("elsewhere", proxytest.RandomBytes(20, 100))
	up := proxytest.NewUpstreamCache(t, proxytest.NarinfoOf(e, *a["a"]))
	u, err := NewUnion([]*proxy.Server{first, second}, proxy.Options{Upstreams: []string{up.URL}})
	if err != nil {
		t.Fatal(err)
	}
	if got := proxytest.Get(u, "GET", "/"+a["a"].Path.HashPart+".narinfo"); got.Body.String() != a["a"].Narinfo() || up.Requests.Load() != 0 {
		t.Errorf("our own: got %q and %d requests to the upstream", got.Body, up.Requests.Load())
	}
	got := proxytest.Get(u, "GET", "/"+e.Path.HashPart+".narinfo")
	if got.Code != 200 || !strings.Contains(got.Body.String(), "\nURL: upstream/") || up.Requests.Load() != 1 {
		t.Fatalf("got %d, %q, and %d requests", got.Code, got.Body, up.Requests.Load())
	}
	_, rest, _ := strings.Cut(got.Body.String(), "\nURL: ")
	nar, _, _ := strings.Cut(rest, "\n")
	if got := proxytest.Get(u, "GET", "/"+nar); got.Code != http.StatusFound || got.Header().Get("Location") != up.URL+"/"+e.URL() {
		t.Errorf("the NAR: got %d, %v", got.Code, got.Header())
	}
	if got := u.status().NarinfoUpstream; got != 1 {
		t.Errorf("got %d upstream hits", got)
	}
	if _, err := NewUnion([]*proxy.Server{first}, proxy.Options{Upstreams: []string{"ftp://x"}}); err == nil {
		t.Error("it takes any upstream")
	}
}

// Each request of many goes to the cache that has it, while all are refreshed.
func TestUnionInParallel(t *testing.T) {
	var servers []*proxy.Server
	var entries []*format.Entry
	for i := range 4 {
		s, all := shelf(t, format.Config{}, map[string]uint64{fmt.Sprint("p", i): uint64(i + 1)})
		servers = append(servers, s)
		for _, e := range all {
			entries = append(entries, e)
		}
	}
	u := newUnion(t, servers...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20 {
			proxytest.Get(u, "POST", "/_refresh")
		}
	}()
	for i := range 200 {
		e := entries[i%4]
		if got := proxytest.Get(u, "GET", "/"+e.Path.HashPart+".narinfo"); got.Code != 200 {
			t.Fatalf("got %d", got.Code)
		}
		if got := proxytest.Get(u, "GET", "/"+e.URL()); got.Code != 200 || got.Body.Len() != 300_000 {
			t.Fatalf("the NAR: got %d", got.Code)
		}
	}
	<-done
}

// The keys of several caches: each cache has a chain of its own, and where nothing
// is to be trusted nobody may take that for a cache without keys.
func TestKeysOfUnion(t *testing.T) {
	ps := indextest.People(t, 4)
	a, b, c, evil := ps[0], ps[1], ps[2], ps[3]
	repos := []registry.Repository{proxytest.OpenRepo(t, "oci:"+t.TempDir()), proxytest.OpenRepo(t, "oci:"+t.TempDir())}
	publish := func(i int, conf format.Config) {
		t.Helper()
		data := proxytest.RandomBytes(1, 1000)
		proxytest.PutBlob(t, repos[i], data)
		proxytest.Publish(t, repos[i], conf, proxytest.FileEntry("p", data))
	}
	publish(0, indextest.KeysOf([]indextest.Person{a}))
	publish(1, indextest.KeysOf([]indextest.Person{c}))
	u := newUnion(t, newServer(t, repos[0]), newServer(t, repos[1]))
	if err := u.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	tells := func(status int, want ...string) {
		t.Helper()
		if got := proxytest.Get(u, "POST", "/_refresh").Code; got != http.StatusOK {
			t.Fatalf("refresh: got %d", got)
		}
		got := proxytest.Get(u, "GET", "/public-key")
		if got.Code != status || status == http.StatusOK && !slices.Equal(strings.Fields(got.Body.String()), want) {
			t.Errorf("got %d, %s; want %d, %v", got.Code, got.Body, status, want)
		}
	}
	tells(http.StatusOK, a.Public, c.Public)
	// what the keys of one cache say counts there only
	publish(0, indextest.KeysOf([]indextest.Person{b, evil}, a.Adds(b), b.Retires(a, b), c.Adds(evil), evil.Adds(evil)))
	tells(http.StatusOK, b.Public, c.Public)
	if status := proxytest.Get(u, "GET", "/_status").Body.String(); !strings.Contains(status, `"unvouched": [
          "`+evil.Public) {
		t.Errorf("got %s", status)
	}
	publish(0, indextest.KeysOf(nil, a.Retires(b)))
	tells(http.StatusOK, c.Public)
	publish(1, indextest.KeysOf(nil, c.Retires(c)))
	tells(http.StatusConflict)
}
