// Package upstreamtest has an upstream cache for tests.
package upstreamtest

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nix-community/go-nix/pkg/nixbase32"
)

// HashPart is the hash part of the sample path called name.
func HashPart(name string) string {
	sum := sha256.Sum256([]byte(name))
	return nixbase32.EncodeToString(sum[:20])
}

// Answer may answer the nth request for a path, the first being 1, and tells
// whether it did.
type Answer func(w http.ResponseWriter, r *http.Request, n int) bool

// Server is an upstream cache. It counts what it is asked for.
type Server struct {
	*httptest.Server
	// Answer, if not nil, answers before the server does.
	Answer Answer

	mu    sync.Mutex
	has   map[string]bool
	asked map[string]int // requests by hash part
}

// Serve starts an upstream cache that has the named paths.
func Serve(t testing.TB, names ...string) *Server {
	t.Helper()
	s := New(names...)
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// New returns an upstream cache that has the named paths and is not started.
func New(names ...string) *Server {
	s := &Server{has: map[string]bool{}, asked: map[string]int{}}
	for _, n := range names {
		s.Put(n)
	}
	return s
}

// Put gives it a path.
func (s *Server) Put(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.has[HashPart(name)] = true
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key, ok := strings.CutSuffix(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:], ".narinfo")
	if !ok {
		http.Error(w, "not a narinfo", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.asked[key]++
	n, has := s.asked[key], s.has[key]
	s.mu.Unlock()
	if s.Answer != nil && s.Answer(w, r, n) {
		return
	}
	if !has {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/x-nix-narinfo")
	_, _ = w.Write([]byte("StorePath: /nix/store/" + key + "-x\n")) // the client may be gone
}

// Requests are the names that were asked for, sorted, as often as they were.
func (s *Server) Requests(names ...string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var asked []string
	total := 0
	for _, n := range names {
		for range s.asked[HashPart(n)] {
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

// Count is the number of requests.
func (s *Server) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := 0
	for _, n := range s.asked {
		total += n
	}
	return total
}

// Status answers each path's first n requests with code.
func Status(code, n int) Answer {
	return func(w http.ResponseWriter, _ *http.Request, try int) bool {
		if try <= n {
			w.WriteHeader(code)
		}
		return try <= n
	}
}

// StartTLS serves s over TLS with HTTP/2, makes tr trust it, and returns the
// number of connections so far.
func StartTLS(t testing.TB, s *Server, tr *http.Transport) *atomic.Int64 {
	t.Helper()
	var conns atomic.Int64
	s.Server = httptest.NewUnstartedServer(s)
	s.EnableHTTP2 = true
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	tr.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return &conns
}
