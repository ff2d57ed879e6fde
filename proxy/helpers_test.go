package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/nix-community/go-nix/pkg/nixbase32"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/httpd"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/storepath"
)

// openRepo opens a repository for writing.
func openRepo(tb testing.TB, cache string) registry.Repository {
	tb.Helper()
	repo, err := registry.Open(cache, registry.Options{Push: true})
	if err != nil {
		tb.Fatal(err)
	}
	return repo
}

// randomBytes are the same in every run, and do not compress.
func randomBytes(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// fileEntry is an entry whose compressed NAR is data, in a blob of its own.
func fileEntry(name string, data []byte, refs ...string) format.Entry {
	sum := sha256.Sum256([]byte("path " + name))
	file := sha256.Sum256(data)
	return format.Entry{
		Path:        storepath.Path{Dir: storepath.DefaultDir, HashPart: nixbase32.EncodeToString(sum[:20]), Name: name},
		NarHash:     format.FileHash(sum[:]),
		NarSize:     int64(len(data)),
		References:  refs,
		Compression: format.CompressionZstd,
		FileHash:    format.FileHash(file[:]),
		NAR:         format.Location{Blob: digestOf(data), BlobSize: int64(len(data)), Size: int64(len(data))},
	}
}

func digestOf(data []byte) v1.Hash {
	sum := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

func putBlob(tb testing.TB, repo registry.Repository, data []byte) {
	tb.Helper()
	if _, err := repo.PutBlob(context.Background(), data); err != nil {
		tb.Fatal(err)
	}
}

// publish makes entries visible. Their blobs are there; what they refer to may
// be elsewhere.
func publish(tb testing.TB, repo registry.Repository, conf format.Config, entries ...format.Entry) {
	tb.Helper()
	ctx := context.Background()
	c := index.Open(repo, index.Options{Settle: time.Millisecond})
	base, err := c.Sweep(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	w, err := c.NewWriter(base, index.WriterOptions{Config: conf, OnUpstream: func(string) bool { return true }})
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		if err := w.Add(ctx, e); err != nil {
			tb.Fatal(err)
		}
	}
	r, err := w.Close(ctx, nil)
	if err != nil || r.Committed != len(entries) {
		tb.Fatalf("publishing %d entries: got %d, %v", len(entries), r.Committed, err)
	}
}

// logTo sends what the server logs to the test's log.
func logTo(tb testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testLog{tb}, nil))
}

type testLog struct{ testing.TB }

func (t testLog) Write(p []byte) (int, error) {
	t.Logf("%s", bytes.TrimRight(p, "\n"))
	return len(p), nil
}

// newServer is a prepared server over a repository, with short time-outs.
func newServer(tb testing.TB, repo registry.Repository, change ...func(*Options)) *Server {
	tb.Helper()
	o := Options{
		Index: index.Open(repo, index.Options{}), Blobs: repo, Cache: repo.String(), Version: "test",
		FirstByte: 2 * time.Second, Stall: 2 * time.Second, UpstreamTimeout: time.Second,
	}
	for _, f := range change {
		f(&o)
	}
	s, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.Prepare(context.Background()); err != nil {
		tb.Fatal(err)
	}
	return s
}

// start serves s as the command does and returns its URL.
func start(tb testing.TB, s Service) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- serve(ctx, s, l) }()
	tb.Cleanup(func() {
		cancel()
		http.DefaultClient.CloseIdleConnections()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

// serve serves s on l, and keeps its index fresh, until ctx ends.
func serve(ctx context.Context, s Service, l net.Listener) error {
	srv := httpd.New(httpd.Options{Handler: s})
	srv.Ready("")
	fresh := make(chan struct{})
	go func() { defer close(fresh); s.Run(ctx) }()
	err := srv.Serve(ctx, []net.Listener{l})
	<-fresh
	return err
}

// fakeBlobs holds blobs in memory. Its hook, if there is one, may fail or
// replace what is read.
type fakeBlobs struct {
	mu       sync.Mutex
	data     map[v1.Hash][]byte
	hook     func(r blobRead, body io.ReadCloser) (io.ReadCloser, error)
	requests atomic.Int64
	bytes    atomic.Int64
}

type blobRead struct {
	ctx            context.Context
	n              int64 // 1 for the first read of any blob
	offset, length int64
}

func (f *fakeBlobs) put(data []byte) v1.Hash {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.data == nil {
		f.data = map[v1.Hash][]byte{}
	}
	f.data[digestOf(data)] = data
	return digestOf(data)
}

func (f *fakeBlobs) Blob(ctx context.Context, digest v1.Hash, offset, length int64) (io.ReadCloser, error) {
	n := f.requests.Add(1)
	f.mu.Lock()
	data, ok := f.data[digest]
	f.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", digest, registry.ErrNotFound)
	}
	if length < 0 {
		length = int64(len(data)) - offset
	}
	f.bytes.Add(length)
	body := io.NopCloser(bytes.NewReader(data[offset : offset+length]))
	if f.hook != nil {
		return f.hook(blobRead{ctx, n, offset, length}, body)
	}
	return body, nil
}

// withBlobs is a server whose index lists entries, and whose blobs are fake.
func withBlobs(tb testing.TB, blobs *fakeBlobs, entries []format.Entry, change ...func(*Options)) *Server {
	tb.Helper()
	repo := openRepo(tb, "oci:"+tb.TempDir())
	for _, e := range entries { // the layout insists on what a segment names
		if data := blobs.data[e.NAR.Blob]; data != nil {
			putBlob(tb, repo, data)
		}
	}
	publish(tb, repo, format.Config{}, entries...)
	return newServer(tb, repo, append([]func(*Options){func(o *Options) { o.Blobs = blobs }}, change...)...)
}

// get makes a request without a network and returns the recorded answer.
func get(h http.Handler, method, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.RemoteAddr = "127.0.0.1:1"
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// fetch makes a request over a connection. The error is that of the body.
func fetch(tb testing.TB, url string, header ...string) (*http.Response, []byte, error) {
	tb.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		tb.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

func sum(data []byte) []byte {
	s := sha256.Sum256(data)
	return s[:]
}
