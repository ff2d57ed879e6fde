// Package proxytest has what tests of the proxy and its parts have in common:
// entries, blobs that fail when they should, requests. It does not know the proxy.
package proxytest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/org/nixoci-action/bincache"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/nix-community/go-nix/pkg/nixbase32"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/httpd"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/storepath"
)

// PublicKey is that of a cache.
const PublicKey = "test-1:Yeaqy3FM9MFKA/J0HCnQqZm7LfZ9lCcS3Mqf7JYLb9s="

// What belongs to a path, besides its NAR.
const (
	Drv         = "00000000000000000000000000000000-hello-1.0.drv"
	BuildID     = "0123456789abcdef0123456789abcdef01234567"
	Listing     = `{"root":{"narOffset":96,"size":1,"type":"regular"},"version":1}`
	Realisation = "sha256:abababababababababababababababababababababababababababababababab!out"
)

// OpenRepo opens a repository for writing.
func OpenRepo(tb testing.TB, cache string) registry.Repository {
	tb.Helper()
	repo, err := registry.Open(cache, registry.Options{Push: true})
	if err != nil {
		tb.Fatal(err)
	}
	return repo
}

// RandomBytes are the same in every run, and do not compress.
func RandomBytes(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// FileEntry is an entry whose compressed NAR is data, in a blob of its own.
func FileEntry(name string, data []byte, refs ...string) format.Entry {
	sum := sha256.Sum256([]byte("path " + name))
	file := sha256.Sum256(data)
	return format.Entry{
		Path:        storepath.Path{Dir: storepath.DefaultDir, HashPart: nixbase32.EncodeToString(sum[:20]), Name: name},
		NarHash:     bincache.FormatHash(sum[:]),
		NarSize:     int64(len(data)),
		References:  refs,
		Compression: bincache.CompressionZstd,
		FileHash:    bincache.FormatHash(file[:]),
		NAR:         format.Location{Blob: DigestOf(data), BlobSize: int64(len(data)), Size: int64(len(data))},
	}
}

// DigestOf is the digest of a blob.
func DigestOf(data []byte) v1.Hash {
	sum := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// PutBlob stores a blob.
func PutBlob(tb testing.TB, repo registry.Repository, data []byte) {
	tb.Helper()
	if _, err := repo.PutBlob(context.Background(), data); err != nil {
		tb.Fatal(err)
	}
}

// Publish makes entries visible. Their blobs are there; what they refer to may
// be elsewhere.
func Publish(tb testing.TB, repo registry.Repository, conf format.Config, entries ...format.Entry) {
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

// PublishExtras publishes an entry that has everything, and returns it as it is
// in the index.
func PublishExtras(tb testing.TB, repo registry.Repository, log string) format.Entry {
	tb.Helper()
	ctx := context.Background()
	data := RandomBytes(1, 1000)
	PutBlob(tb, repo, data)
	e := FileEntry("hello-1.0", data)
	sig := "test-1:" + strings.Repeat("A", 86) + "=="
	e.Deriver, e.BuildIDs = Drv, []string{BuildID}
	e.Realisations = []format.Realisation{{ID: Realisation, Signatures: []string{sig}}, {Drv: Drv, Output: "out", Signatures: []string{sig}}}
	c := index.Open(repo, index.Options{Settle: time.Millisecond})
	base, err := c.Sweep(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	w, err := c.NewWriter(base, index.WriterOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	if err := w.AddWith(ctx, e, index.Documents{Listing: []byte(Listing), Log: []byte(log)}); err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Close(ctx, nil); err != nil {
		tb.Fatal(err)
	}
	s, err := c.Sweep(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	e, ok := s.Lookup(e.Path.HashPart)
	if !ok || e.Listing.Size == 0 || e.Log.Size == 0 {
		tb.Fatalf("got %+v", e)
	}
	return e
}

// LogTo sends what the server logs to the test's log.
func LogTo(tb testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testLog{tb}, nil))
}

type testLog struct{ testing.TB }

func (t testLog) Write(p []byte) (int, error) {
	t.Logf("%s", bytes.TrimRight(p, "\n"))
	return len(p), nil
}

// Service is what Start serves.
type Service interface {
	http.Handler
	Run(ctx context.Context)
}

// Start serves s as the command does and returns its URL.
func Start(tb testing.TB, s Service) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Serve(ctx, s, l) }()
	tb.Cleanup(func() {
		cancel()
		http.DefaultClient.CloseIdleConnections()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

// Serve serves s on l, and keeps its index fresh, until ctx ends.
func Serve(ctx context.Context, s Service, l net.Listener) error {
	srv := httpd.New(httpd.Options{Handler: s})
	srv.Ready("")
	fresh := make(chan struct{})
	go func() { defer close(fresh); s.Run(ctx) }()
	err := srv.Serve(ctx, []net.Listener{l})
	<-fresh
	return err
}

// Blobs holds blobs in memory. Its Hook, if there is one, may fail or
// replace what is read.
type Blobs struct {
	mu       sync.Mutex
	Data     map[v1.Hash][]byte
	Hook     func(r BlobRead, body io.ReadCloser) (io.ReadCloser, error)
	Requests atomic.Int64
	Bytes    atomic.Int64
}

// BlobRead is a read of a part of a blob.
type BlobRead struct {
	Ctx            context.Context
	N              int64 // 1 for the first read of any blob
	Offset, Length int64
}

// Put adds a blob.
func (f *Blobs) Put(data []byte) v1.Hash {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Data == nil {
		f.Data = map[v1.Hash][]byte{}
	}
	f.Data[DigestOf(data)] = data
	return DigestOf(data)
}

// Blob opens a part of a blob.
func (f *Blobs) Blob(ctx context.Context, digest v1.Hash, offset, length int64) (io.ReadCloser, error) {
	n := f.Requests.Add(1)
	f.mu.Lock()
	data, ok := f.Data[digest]
	f.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", digest, registry.ErrNotFound)
	}
	if length < 0 {
		length = int64(len(data)) - offset
	}
	f.Bytes.Add(length)
	body := io.NopCloser(bytes.NewReader(data[offset : offset+length]))
	if f.Hook != nil {
		return f.Hook(BlobRead{ctx, n, offset, length}, body)
	}
	return body, nil
}

// Get makes a request without a network and returns the recorded answer.
func Get(h http.Handler, method, path string, header ...string) *httptest.ResponseRecorder {
	return Request(h, method, path, nil, header...)
}

// Request makes a request from this machine, without a network.
func Request(h http.Handler, method, path string, body []byte, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	r.RemoteAddr = "127.0.0.1:1"
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// Fetch makes a request over a connection. The error is that of the body.
func Fetch(tb testing.TB, url string, header ...string) (*http.Response, []byte, error) {
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

// Sum is the SHA-256 of data.
func Sum(data []byte) []byte {
	s := sha256.Sum256(data)
	return s[:]
}

// Cut ends a body with an error after n bytes.
func Cut(body io.Reader, n int64) io.ReadCloser {
	return io.NopCloser(io.MultiReader(io.LimitReader(body, n), broken{}))
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// Hanging is a body in which nothing comes.
type Hanging struct{ BlobRead }

func (h Hanging) Read([]byte) (int, error) {
	<-h.Ctx.Done()
	return 0, h.Ctx.Err()
}

// Close does nothing.
func (Hanging) Close() error { return nil }

// Waiting delivers nothing until it is closed.
type Waiting chan struct{}

func (w Waiting) Read([]byte) (int, error) {
	<-w
	return 0, io.EOF
}

// PackMember is the NAR of that number in a pack.
func PackMember(i, size int) []byte { return RandomBytes(uint64(1000+i), size) }

// PackData is a pack of n NARs of that size.
func PackData(n, size int) []byte {
	var pack []byte
	for i := range n {
		pack = append(pack, PackMember(i, size)...)
	}
	return pack
}

// PackEntries are n entries whose NARs share one blob.
func PackEntries(tb testing.TB, name string, n, size int) []format.Entry {
	tb.Helper()
	pack := PackData(n, size)
	entries := make([]format.Entry, n)
	for i := range n {
		e := FileEntry(fmt.Sprintf("%s-%d", name, i), PackMember(i, size))
		e.NAR = format.Location{Blob: DigestOf(pack), BlobSize: int64(len(pack)), Offset: int64(i * size), Size: int64(size)}
		entries[i] = e
	}
	return entries
}
