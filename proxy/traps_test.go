package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/pieces"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/storepath"
)

// The tests in this file let a real Nix build while what is behind the proxy
// fails in every way that is known to fail a build. Each derivation writes
// "built"; what is published in its place says "substituted".

// buildLimit is how long a build may take at most, whatever the registry does.
const buildLimit = time.Minute

// site is a machine with Nix, and a registry that can be made to fail.
type site struct {
	*testing.T
	env      *nixtest.Env
	registry *httptest.Server
	fault    atomic.Pointer[fault]
	repo     registry.Repository
	server   *Server // of the last proxy
}

// fault answers a request in the registry's place. It may call next.
type fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

func newSite(t *testing.T) *site { return newSiteIn(t, nixtest.New(t)) }

// eachSite runs a test with each version of Nix.
func eachSite(t *testing.T, test func(s *site)) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) { test(newSiteIn(t, v.New(t))) })
}

func newSiteIn(t *testing.T, env *nixtest.Env) *site {
	s := &site{T: t, env: env}
	next := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	s.registry = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := s.fault.Load(); f != nil {
			(*f)(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(s.stopRegistry)
	s.repo = proxytest.OpenRepo(t, strings.TrimPrefix(s.registry.URL, "http://")+"/a/b")
	return s
}

func (s *site) stopRegistry() {
	s.registry.CloseClientConnections()
	s.registry.Close()
}

// options are a proxy's with time-outs that fit a test.
func (s *site) options() Options {
	return Options{
		Index: index.Open(s.repo, index.Options{}), Blobs: s.repo, Logger: proxytest.LogTo(s.T),
		Refresh: 500 * time.Millisecond, FirstByte: time.Second, Stall: 2 * time.Second, UpstreamTimeout: time.Second,
	}
}

// proxy starts one and returns its URL.
func (s *site) proxy(o Options) string {
	s.Helper()
	p, err := New(o)
	if err != nil {
		s.Fatal(err)
	}
	if err := p.Prepare(s.Context()); err != nil {
		s.Log(err)
	}
	s.server = p
	return proxytest.Start(s.T, p)
}

// drv is a derivation app, which refers to another one, lib.
type drv struct {
	path     string
	app, lib string // output paths
}

// drv makes derivations whose paths depend on the name.
func (s *site) drv(name string) drv {
	s.Helper()
	mk := `let mk = n: more: derivation ({ name = n; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo built $lib > $out" ]; } // more);
		lib = mk "%[1]s-lib" { }; app = mk "%[1]s-app" { inherit lib; }; in `
	expr := fmt.Sprintf(mk, name)
	lib := s.env.Run(s, s.env.Dir, "nix-instantiate", "--expr", expr+"lib")
	app := s.env.Run(s, s.env.Dir, "nix-instantiate", "--expr", expr+"app")
	return drv{
		path: app,
		app:  s.env.Run(s, s.env.Dir, "nix-store", "--query", "--outputs", app),
		lib:  s.env.Run(s, s.env.Dir, "nix-store", "--query", "--outputs", lib),
	}
}

// publish publishes NARs of d's outputs without building them. The one of app
// is larger than what the proxy holds in hand.
func (s *site) publish(d drv) {
	s.Helper()
	lib := s.entry(d.lib, []byte("substituted\n"))
	app := s.entry(d.app, append([]byte("substituted "+d.lib+"\n"), proxytest.RandomBytes(40, 1<<20)...), filepath.Base(d.lib))
	proxytest.Publish(s, s.repo, index.Config{StoreDir: s.env.Store}, lib, app)
}

// entry uploads the NAR of a file.
func (s *site) entry(path string, content []byte, refs ...string) index.Entry {
	s.Helper()
	file := filepath.Join(s.TempDir(), "file")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		s.Fatal(err)
	}
	nar := []byte(s.env.Run(s, s.env.Dir, "nix-store", "--dump", file) + "\n")
	nar = nar[:len(nar)-1]
	proxytest.PutBlob(s, s.repo, nar)
	p, err := storepath.Parse(path)
	if err != nil {
		s.Fatal(err)
	}
	sum := sha256.Sum256(nar)
	return index.Entry{
		Path: p, NarHash: index.FileHash(sum[:]), NarSize: int64(len(nar)), References: refs, Compression: index.CompressionNone,
		FileHash: index.FileHash(sum[:]),
		NAR:      index.Location{Blob: proxytest.DigestOf(nar), BlobSize: int64(len(nar)), Size: int64(len(nar))},
	}
}

// nix runs a Nix command that uses substituters, with the settings that an
// ordinary user has.
func (s *site) nix(substituters, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(s.Context(), buildLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.env.Program(s, name), args...)
	cmd.Dir = s.env.Dir
	for _, v := range s.env.Vars {
		if strings.HasPrefix(v, "NIX_CONFIG=") {
			v += "experimental-features = nix-command\ndownload-attempts = 5\nrequire-sigs = false\nsubstituters = " + substituters + "\n"
		}
		cmd.Env = append(cmd.Env, v)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		err = fmt.Errorf("it took longer than %s", buildLimit)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", name, err, stderr.String())
	}
	return string(out), err
}

// build realises d and tells whether app was built or substituted.
func (s *site) build(d drv, substituters ...string) string {
	s.Helper()
	begin := time.Now()
	if _, err := s.nix(strings.Join(substituters, " "), "nix-store", "--realise", d.path); err != nil {
		s.Fatalf("the build broke: %v", err)
	}
	s.Logf("the build took %s", time.Since(begin).Round(time.Millisecond))
	content, err := os.ReadFile(d.app)
	if err != nil {
		s.Fatal(err)
	}
	word, _, _ := strings.Cut(string(content), " ")
	return word
}

// blobsOnly confines a fault to the reading of blobs.
func blobsOnly(f fault) fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			f(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}
}

func answering(status int) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { fail(status)(w, nil) }
}

// sending lets the registry answer, and hands the body to send.
func sending(send func(w io.Writer, r *http.Request, body []byte)) fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
		w.WriteHeader(rec.Code)
		send(w, r, rec.Body.Bytes())
	}
}

func cutAfter(n int) fault {
	return sending(func(w io.Writer, _ *http.Request, body []byte) {
		_, _ = w.Write(body[:min(n, len(body))])
		if len(body) > n {
			panic(http.ErrAbortHandler)
		}
	})
}

// registryFaults is what a registry may do, and what comes of it.
var registryFaults = []struct {
	name  string
	fault fault
	want  string
}{
	{"fine", nil, "substituted"},
	{"500", answering(500), "built"},
	{"503", answering(503), "built"},
	{"429", answering(429), "built"},
	{"400", answering(400), "built"},
	{"401", answering(401), "built"},
	{"blobs lost", blobsOnly(answering(404)), "built"},
	{"access lost", blobsOnly(answering(403)), "built"},
	{"hangs", func(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() }, "built"},
	{"hangs after the headers", blobsOnly(sending(func(w io.Writer, r *http.Request, _ []byte) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})), "built"},
	{"hangs half way", blobsOnly(sending(func(w io.Writer, r *http.Request, body []byte) {
		if len(body) < pieces.Size {
			_, _ = w.Write(body) // lib; app is on its way when it stops
			return
		}
		_, _ = w.Write(body[:len(body)/2])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})), "built"},
	{"drops connections", func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }, "built"},
	{"cuts off again and again", blobsOnly(cutAfter(200_000)), "substituted"},
	{"cuts off and is gone", blobsOnly(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasPrefix(r.Header.Get("Range"), "bytes=0-") {
			cutAfter(500_000)(w, r, next)
			return
		}
		answering(500)(w, r, next)
	}), "built"},
	{"other bytes", blobsOnly(sending(func(w io.Writer, _ *http.Request, body []byte) {
		body[len(body)-1] ^= 1
		_, _ = w.Write(body)
	})), "built"},
	{"other bytes at the end of a large NAR", blobsOnly(sending(func(w io.Writer, _ *http.Request, body []byte) {
		if len(body) > pieces.Size {
			body[len(body)-100] ^= 1
		}
		_, _ = w.Write(body)
	})), "built"},
	{"slow", blobsOnly(sending(func(w io.Writer, _ *http.Request, body []byte) {
		for len(body) > 0 {
			n := min(len(body), 50_000)
			_, _ = w.Write(body[:n])
			w.(http.Flusher).Flush()
			body = body[n:]
			time.Sleep(50 * time.Millisecond)
		}
	})), "substituted"},
}

// Traps 1 and 2: whatever the registry does, the build succeeds, with the path
// from the cache if there is any way to get it.
func TestNixBuildsWhateverTheRegistryDoes(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		for _, tc := range registryFaults {
			t.Run(tc.name, func(t *testing.T) {
				t.Parallel()
				s := newSiteIn(t, v.New(t))
				d := s.drv("trap")
				s.publish(d)
				url := s.proxy(s.options())
				if tc.fault != nil {
					s.fault.Store(&tc.fault)
				}
				if got := s.build(d, url); got != tc.want {
					t.Errorf("got %q, want %q", got, tc.want)
				}
				if s.server.counts.hits.Load() == 0 {
					t.Error("Nix was never told of the paths")
				}
			})
		}
	})
}

// Trap 1 again, by way of an upstream cache: Nix must not see its troubles.
func TestNixBuildsWhateverTheUpstreamDoes(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"500": fail(500), "429": fail(429), "501": fail(501), "hangs": hang,
		"drops connections": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"junk":              func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.publish(s.drv("other")) // makes it a cache for this store
			up := newUpstreamCache(t, answer)
			o := s.options()
			o.Upstreams = []string{up.url}
			if got := s.build(s.drv("upstream"), s.proxy(o)); got != "built" {
				t.Errorf("got %q, want built", got)
			}
			if up.requests.Load() == 0 {
				t.Error("the upstream was never asked")
			}
		})
	}
}

// What the proxy passes on from an upstream cache, Nix fetches there.
func TestNixSubstitutesFromTheUpstream(t *testing.T) {
	t.Parallel()
	upstream := newSite(t)
	d := upstream.drv("passed-on")
	upstream.publish(d)
	upstreamURL := upstream.proxy(upstream.options())

	s := &site{T: t, env: upstream.env}
	s.repo = proxytest.OpenRepo(t, "oci:"+t.TempDir()) // empty, and for the same store
	proxytest.PutBlob(t, s.repo, []byte("x"))
	e := proxytest.FileEntry("x", []byte("x"))
	e.Path.Dir = s.env.Store
	proxytest.Publish(t, s.repo, index.Config{StoreDir: s.env.Store}, e)
	o := s.options()
	o.Upstreams = []string{upstreamURL}
	if got := s.build(d, s.proxy(o)); got != "substituted" {
		t.Errorf("got %q, want substituted", got)
	}
}

// Trap 2: a NAR that cannot be served sends Nix to the next substituter.
func TestNixGoesToTheNextSubstituter(t *testing.T) { eachSite(t, (*site).nixGoesToTheNextSubstituter) }

func (s *site) nixGoesToTheNextSubstituter() {
	d := s.drv("next")
	s.publish(d)
	o := s.options()
	o.Blobs = &proxytest.Blobs{} // has none
	if got := s.build(d, s.proxy(o), s.proxy(s.options())); got != "substituted" {
		s.Errorf("got %q, want substituted", got)
	}
}

// Trap 3: Nix remembers the substituter, so the proxy has to be there while
// the registry is not, and after a start without it.
func TestNixBuildsWhileTheRegistryIsAway(t *testing.T) {
	eachSite(t, (*site).nixBuildsWhileTheRegistryIsAway)
}

func (s *site) nixBuildsWhileTheRegistryIsAway() {
	first, second, third := s.drv("first"), s.drv("second"), s.drv("third")
	for _, d := range []drv{first, second, third} {
		s.publish(d)
	}
	dir := s.TempDir()
	o := s.options()
	o.Index = index.Open(s.repo, index.Options{Dir: dir})
	url := s.proxy(o)
	if got := s.build(first, url); got != "substituted" {
		s.Fatalf("got %q, want substituted", got)
	}
	s.stopRegistry()
	if got := s.build(second, url); got != "built" {
		s.Errorf("registry gone: got %q, want built", got)
	}

	again := s.options()
	again.Index = index.Open(s.repo, index.Options{Dir: dir})
	p, err := New(again)
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.Context(), time.Second)
	defer cancel()
	if err := p.Prepare(ctx); err == nil || p.Len() != 6 {
		s.Errorf("start without the registry: got %v and %d paths, want a warning and the copy's 6", err, p.Len())
	}
	if got := s.build(third, proxytest.Start(s.T, p)); got != "built" || p.counts.hits.Load() == 0 {
		s.Errorf("started without the registry: got %q and %d narinfos, want built after some", got, p.counts.hits.Load())
	}

	p, err = New(s.options()) // no copy either
	if err != nil {
		s.Fatal(err)
	}
	if err := p.Prepare(ctx); err == nil || p.Len() != 0 {
		s.Errorf("start without anything: got %v and %d paths, want a warning and none", err, p.Len())
	}
	// that it answers misses then is in TestPrepare: here Nix would skip it,
	// because this test's store is not /nix/store, and nothing else is known
}

// Trap 4: what was published after a miss is seen, if Nix is told not to
// remember misses.
func TestNixSeesWhatIsPublishedAfterAMiss(t *testing.T) {
	eachSite(t, (*site).nixSeesWhatIsPublishedAfterAMiss)
}

func (s *site) nixSeesWhatIsPublishedAfterAMiss() {
	d := s.drv("late")
	s.publish(s.drv("other"))
	o := s.options()
	o.Refresh = time.Hour
	url := s.proxy(o)
	ask := func() error {
		_, err := s.nix("", "nix", "path-info", "--store", url, d.app, "--option", "narinfo-cache-negative-ttl", "0")
		return err
	}
	if err := ask(); err == nil {
		s.Fatal("the path is there before it is published")
	}
	s.publish(d)
	resp, err := http.Post(url+"/_refresh", "", nil)
	if err != nil {
		s.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		s.Fatalf("refresh: got %s", resp.Status)
	}
	if err := ask(); err != nil {
		s.Errorf("after publishing: %v", err)
	}
	// asks with HEAD first
	if _, err := s.nix("", "nix", "copy", "--from", url, "--no-check-sigs", d.app, "--option", "narinfo-cache-negative-ttl", "0"); err != nil {
		s.Errorf("copying from the proxy: %v", err)
	}
	if content, err := os.ReadFile(d.app); err != nil || !bytes.HasPrefix(content, []byte("substituted")) {
		s.Errorf("the copy: got %.20q, %v", content, err)
	}
}

// The proxy only reads, and says so at once.
func TestNixCannotCopyToTheProxy(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.publish(s.drv("theirs"))
	d := s.drv("mine")
	if got := s.build(d); got != "built" {
		t.Fatalf("got %q", got)
	}
	url := s.proxy(s.options())
	if _, err := s.nix("", "nix", "copy", "--to", url, d.app); err == nil || !strings.Contains(err.Error(), "405") {
		t.Errorf("got %v, want a refusal with 405", err)
	}
	var exit *exec.ExitError
	if _, err := s.nix("", "nix", "path-info", "--store", url, d.app); !errors.As(err, &exit) {
		t.Errorf("after the refused copy: got %v, want that the path is not there", err)
	}
}
