package closure_test

import (
	"crypto/sha256"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nix-community/go-nix/pkg/nixbase32"

	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/internal/nix"
)

// hashPart is the hash part of the sample path called name.
func hashPart(name string) string {
	sum := sha256.Sum256([]byte(name))
	return nixbase32.EncodeToString(sum[:20])
}

func storePath(name string) string { return "/nix/store/" + hashPart(name) + "-" + name }

// info is a sample path of 100 bytes that refers to refs, names as well.
func info(name string, refs ...string) nix.PathInfo {
	i := nix.PathInfo{Path: storePath(name), NarSize: 100}
	for _, r := range refs {
		i.References = append(i.References, storePath(r))
	}
	slices.Sort(i.References)
	return i
}

func newSet(t testing.TB, roots string, infos ...nix.PathInfo) *closure.Set {
	t.Helper()
	var paths []string
	for r := range strings.FieldsSeq(roots) {
		paths = append(paths, storePath(r))
	}
	s, err := closure.New(infos, paths)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// server is an upstream cache. It counts what it is asked for.
type server struct {
	*httptest.Server
	// answer, if not nil, may answer the nth request for a path, the first
	// being 1, and tells whether it did.
	answer func(w http.ResponseWriter, r *http.Request, n int) bool

	mu    sync.Mutex
	has   map[string]bool
	asked map[string]int // requests by hash part
}

// serve starts an upstream cache that has the named paths.
func serve(t testing.TB, names ...string) *server {
	t.Helper()
	s := newServer(names...)
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func newServer(names ...string) *server {
	s := &server{has: map[string]bool{}, asked: map[string]int{}}
	for _, n := range names {
		s.has[hashPart(n)] = true
	}
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key, ok := strings.CutSuffix(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:], ".narinfo")
	if !ok {
		http.Error(w, "not a narinfo", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.asked[key]++
	n, has := s.asked[key], s.has[key]
	s.mu.Unlock()
	if s.answer != nil && s.answer(w, r, n) {
		return
	}
	if !has {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/x-nix-narinfo")
	_, _ = w.Write([]byte("StorePath: /nix/store/" + key + "-x\n")) // the client may be gone
}

// requests are the names that were asked for, sorted, as often as they were.
func (s *server) requests(names ...string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var asked []string
	total := 0
	for _, n := range names {
		for range s.asked[hashPart(n)] {
			asked = append(asked, n)
		}
	}
	for _, n := range s.asked {
		total += n
	}
	if total > len(asked) {
		asked = append(asked, "and others")
	}
	slices.Sort(asked)
	return strings.Join(asked, " ")
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := 0
	for _, n := range s.asked {
		total += n
	}
	return total
}

// status answers each path's first n requests with code.
func status(code, n int) func(http.ResponseWriter, *http.Request, int) bool {
	return func(w http.ResponseWriter, _ *http.Request, try int) bool {
		if try <= n {
			w.WriteHeader(code)
		}
		return try <= n
	}
}

// quick are options that keep tests short.
var quick = closure.UpstreamOptions{Timeout: 5 * time.Second, Backoff: time.Millisecond, Patience: 20 * time.Second}

func upstream(t testing.TB, url string, opts closure.UpstreamOptions) *closure.Upstream {
	t.Helper()
	u, err := closure.NewUpstream(url, opts)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
