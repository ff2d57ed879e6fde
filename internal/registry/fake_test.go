package registry

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/org/nixoci-action/internal/stall"
)

const (
	fakeUser     = "user"
	fakePassword = "hunter2-password"
	fakeRepo     = "o/r/nix-cache"
)

// fake is a registry that behaves as documented for ghcr.io (bearer tokens,
// error codes) and as badly as a rule says. It logs the kind of each request.
type fake struct {
	t    testing.TB
	addr string
	opts Options

	mu        sync.Mutex
	auth      bool // ask for tokens
	keepsTags bool // of a manifest that is deleted
	token     int  // the valid one
	log       []string
	rules     []*rule
	blobs     map[string][]byte
	manifests map[string][]byte // by tag and digest
	types     map[string]string
	uploads   map[string][]byte
	started   int      // uploads so far
	secrets   []string // what must never be seen by the user
}

// rule makes the next request of a kind go differently, times times (0: once).
// An answer that returns false leaves the request to the registry.
type rule struct {
	kind   string
	times  int
	answer func(w http.ResponseWriter, r *http.Request) bool
}

func newFake(t testing.TB, rules ...rule) *fake {
	f := newUnstartedFake(t, rules...)
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	f.addr = strings.TrimPrefix(s.URL, "http://")
	return f
}

func newUnstartedFake(t testing.TB, rules ...rule) *fake {
	f := &fake{t: t, blobs: map[string][]byte{}, manifests: map[string][]byte{}, types: map[string]string{}, uploads: map[string][]byte{}}
	for _, r := range rules {
		f.rules = append(f.rules, &r)
	}
	f.secrets = []string{fakePassword, base64.StdEncoding.EncodeToString([]byte(fakeUser + ":" + fakePassword))}
	return f
}

type keychain struct{}

func (keychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	return &authn.Basic{Username: fakeUser, Password: fakePassword}, nil
}

// open returns the fake's repository with short waits.
func (f *fake) open() *remote {
	f.t.Helper()
	f.opts.Push = true
	f.opts.Keychain = cmp.Or[authn.Keychain](f.opts.Keychain, keychain{})
	return quick(f.t, f.addr+"/"+fakeRepo, f.opts)
}

// quick opens a repository whose retries take milliseconds and whose buffers
// are small.
func quick(t testing.TB, cache string, o Options) *remote {
	t.Helper()
	repo, err := Open(cache, o)
	if err != nil {
		t.Fatal(err)
	}
	r := repo.(*remote)
	r.retry = retryPolicy{tries: 4, base: 4 * time.Millisecond, max: 20 * time.Millisecond}
	r.small, r.chunk, r.deletePatience = 64<<10, 32<<10, 0
	return r
}

// setStall shortens the time that a registry may keep us waiting.
func (r *remote) setStall(d time.Duration) { r.limit.next.(*stall.Guard).Limit = d }

func (f *fake) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

func (f *fake) put(data []byte) string {
	d := sha(data)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blobs[d] = data
	return d
}

func sha(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// kind names a request as the tables do.
func kind(r *http.Request) string {
	p, ok := strings.CutPrefix(r.URL.Path, "/v2/"+fakeRepo+"/")
	switch {
	case !ok:
		return r.Method + " " + r.URL.Path
	case strings.HasPrefix(p, "blobs/uploads/"):
		return r.Method + " upload"
	case strings.HasPrefix(p, "blobs/"):
		return r.Method + " blob"
	case strings.HasPrefix(p, "manifests/"):
		return r.Method + " manifest"
	}
	return r.Method + " tags"
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k := kind(r)
	f.mu.Lock()
	f.log = append(f.log, k)
	var hit *rule
	for i, u := range f.rules {
		if u.kind != k {
			continue
		}
		hit = u
		if u.times--; u.times <= 0 {
			f.rules = slices.Delete(f.rules, i, i+1)
		}
		break
	}
	f.mu.Unlock()
	if hit != nil && hit.answer(w, r) {
		return
	}
	f.serve(w, r, k)
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request, k string) {
	if k == "GET /token" {
		f.serveToken(w, r)
		return
	}
	if !f.allowed(w, r) {
		return
	}
	elem := strings.Split(strings.TrimPrefix(r.URL.Path, "/v2/"+fakeRepo+"/"), "/")
	last := elem[len(elem)-1]
	switch k {
	case "GET /v2/":
	case "POST upload":
		f.mu.Lock()
		f.started++
		id := fmt.Sprintf("u%d", f.started)
		f.uploads[id] = nil
		f.mu.Unlock()
		f.accepted(w, r, id)
	case "PATCH upload":
		f.serveUpload(w, r, last, false)
	case "PUT upload":
		f.serveUpload(w, r, last, true)
	case "DELETE upload":
		w.WriteHeader(http.StatusNoContent)
	case "HEAD blob", "GET blob":
		f.mu.Lock()
		b, ok := f.blobs[last]
		f.mu.Unlock()
		if !ok {
			fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	case "GET manifest", "HEAD manifest":
		f.mu.Lock()
		b, ok := f.manifests[last]
		f.mu.Unlock()
		if !ok {
			fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
			return
		}
		w.Header().Set("Content-Type", f.types[sha(b)])
		w.Header().Set("Docker-Content-Digest", sha(b))
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		w.Write(b)
	case "PUT manifest":
		b, _ := io.ReadAll(r.Body)
		f.mu.Lock()
		f.manifests[last], f.manifests[sha(b)], f.types[sha(b)] = b, b, r.Header.Get("Content-Type")
		f.mu.Unlock()
		w.WriteHeader(http.StatusCreated)
	case "DELETE manifest":
		f.serveDelete(w, last)
	case "GET tags":
		f.mu.Lock()
		tags := []string{}
		for t := range f.manifests {
			if !strings.HasPrefix(t, "sha256:") {
				tags = append(tags, t)
			}
		}
		f.mu.Unlock()
		if len(tags) == 0 {
			fail(w, http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"name": fakeRepo, "tags": tags})
	default:
		f.t.Errorf("the registry got an unexpected request: %s %s", r.Method, r.URL)
		w.WriteHeader(http.StatusTeapot)
	}
}

// serveDelete deletes a manifest and its tags, as most registries do.
func (f *fake) serveDelete(w http.ResponseWriter, ref string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.manifests[ref]
	if !ok {
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	delete(f.manifests, ref)
	if ref == sha(b) && !f.keepsTags {
		maps.DeleteFunc(f.manifests, func(_ string, m []byte) bool { return sha(m) == ref })
	}
	w.WriteHeader(http.StatusAccepted)
}

// state is in every upload's location, and must come back as it was.
const state = "_state=a%3Bb;c+d%2F=="

func (f *fake) accepted(w http.ResponseWriter, r *http.Request, id string) {
	w.Header().Set("Location", "/v2/"+fakeRepo+"/blobs/uploads/"+id+"?"+state)
	w.WriteHeader(http.StatusAccepted)
}

func (f *fake) serveUpload(w http.ResponseWriter, r *http.Request, id string, last bool) {
	if !strings.HasPrefix(r.URL.RawQuery, state) {
		f.t.Errorf("the upload's state came back as %q", r.URL.RawQuery)
	}
	f.mu.Lock()
	have, ok := f.uploads[id]
	f.mu.Unlock()
	if !ok {
		fail(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
		return
	}
	if cr := r.Header.Get("Content-Range"); cr != "" && cr != fmt.Sprintf("%d-%d", len(have), int64(len(have))+r.ContentLength-1) {
		fail(w, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "wrong range "+cr)
		return
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client broke off
	}
	have = append(have, b...)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.uploads[id] = have
	if !last {
		f.accepted(w, r, id)
		return
	}
	delete(f.uploads, id)
	if d := r.URL.Query().Get("digest"); d != sha(have) {
		fail(w, http.StatusBadRequest, "DIGEST_INVALID", "provided digest did not match uploaded content")
		return
	}
	f.blobs[sha(have)] = have
	w.Header().Set("Docker-Content-Digest", sha(have))
	w.WriteHeader(http.StatusCreated)
}

func (f *fake) serveToken(w http.ResponseWriter, r *http.Request) {
	if u, p, _ := r.BasicAuth(); u != fakeUser || p != fakePassword {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return
	}
	want := "repository:" + fakeRepo + ":push,pull"
	if scopes := r.URL.Query()["scope"]; !slices.Contains(scopes, want) && !slices.Contains(scopes, want+",delete") {
		f.t.Errorf("got scopes %q, want %q", scopes, want)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	json.NewEncoder(w).Encode(map[string]any{"token": f.bearer(), "expires_in": 300})
}

func (f *fake) bearer() string {
	s := fmt.Sprintf("secret-token-%d", f.token)
	f.secrets = append(f.secrets, s)
	return s
}

func (f *fake) allowed(w http.ResponseWriter, r *http.Request) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.auth || r.Header.Get("Authorization") == "Bearer "+f.bearer() {
		return true
	}
	f.challenge(w, r)
	return false
}

func (f *fake) challenge(w http.ResponseWriter, r *http.Request) {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s://%s/token",service="fake",scope="repository:%s:push,pull"`, scheme, r.Host, fakeRepo))
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
}

// What rules answer with.

func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

func answer(status int, code, message string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		io.Copy(io.Discard, r.Body)
		fail(w, status, code, message)
		return true
	}
}

func withHeader(name, value string, then func(http.ResponseWriter, *http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set(name, value)
		return then(w, r)
	}
}

// drop closes the connection after n bytes of the request's body.
func drop(n int64) func(http.ResponseWriter, *http.Request) bool {
	return func(_ http.ResponseWriter, r *http.Request) bool {
		io.CopyN(io.Discard, r.Body, n)
		panic(http.ErrAbortHandler)
	}
}

// expired answers as if the token had expired, after n bytes of the body.
func (f *fake) expired(n int64) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		io.CopyN(io.Discard, r.Body, n)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.token++
		f.challenge(w, r)
		return true
	}
}

// hang holds the request until the client gives up.
func hang(_ http.ResponseWriter, r *http.Request) bool {
	io.Copy(io.Discard, r.Body) // net/http notices a client that leaves only then
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// Sources of streams.

// writing returns a write function of n reproducible bytes, and counts its
// calls.
func writing(n int, calls *int) func(io.Writer) error {
	return func(w io.Writer) error {
		*calls++
		for _, part := range slices.Collect(slices.Chunk(content(n), 5000)) {
			if _, err := w.Write(part); err != nil {
				return err
			}
		}
		return nil
	}
}

func content(n int) []byte {
	b := make([]byte, n)
	x := uint32(n)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

// logTo collects a log.
func logTo(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
