package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/proxytest"
)

// The tests in this file let a real Nix build while what is behind the proxy
// fails in every way that is known to fail a build. Each derivation writes
// "built"; what is published in its place says "substituted".

// site is a machine with Nix and a registry, and a proxy.
type site struct {
	*proxytest.Site
	server *Server // of the last proxy
}

func newSite(t *testing.T) *site { return &site{Site: proxytest.NewSite(t, nixtest.New(t))} }

// eachSite runs a test with each version of Nix.
func eachSite(t *testing.T, test func(s *site)) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) { test(&site{Site: proxytest.NewSite(t, v.New(t))}) })
}

// options are a proxy's with time-outs that fit a test.
func (s *site) options() Options {
	return Options{
		Index: index.Open(s.Repo, index.Options{}), Blobs: s.Repo, Logger: proxytest.LogTo(s.T),
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

// Traps 1 and 2: whatever the registry does, the build succeeds, with the path
// from the cache if there is any way to get it.
func TestNixBuildsWhateverTheRegistryDoes(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		for _, tc := range proxytest.RegistryFaults {
			t.Run(tc.Name, func(t *testing.T) {
				t.Parallel()
				s := &site{Site: proxytest.NewSite(t, v.New(t))}
				d := s.Drv("trap")
				s.Publish(d)
				url := s.proxy(s.options())
				if tc.Fault != nil {
					s.Fault.Store(&tc.Fault)
				}
				if got := s.Build(d, url); got != tc.Want {
					t.Errorf("got %q, want %q", got, tc.Want)
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
		"500": proxytest.Fail(500), "429": proxytest.Fail(429), "501": proxytest.Fail(501), "hangs": proxytest.Hang,
		"drops connections": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"junk":              func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.Publish(s.Drv("other")) // makes it a cache for this store
			up := proxytest.NewUpstreamCache(t, answer)
			o := s.options()
			o.Upstreams = []string{up.URL}
			if got := s.Build(s.Drv("upstream"), s.proxy(o)); got != "built" {
				t.Errorf("got %q, want built", got)
			}
			if up.Requests.Load() == 0 {
				t.Error("the upstream was never asked")
			}
		})
	}
}

// What the proxy passes on from an upstream cache, Nix fetches there.
func TestNixSubstitutesFromTheUpstream(t *testing.T) {
	t.Parallel()
	upstream := newSite(t)
	d := upstream.Drv("passed-on")
	upstream.Publish(d)
	upstreamURL := upstream.proxy(upstream.options())

	s := &site{Site: &proxytest.Site{T: t, Env: upstream.Env}}
	s.Repo = proxytest.OpenRepo(t, "oci:"+t.TempDir()) // empty, and for the same store
	proxytest.PutBlob(t, s.Repo, []byte("x"))
	e := proxytest.FileEntry("x", []byte("x"))
	e.Path.Dir = s.Env.Store
	proxytest.Publish(t, s.Repo, format.Config{StoreDir: s.Env.Store}, e)
	o := s.options()
	o.Upstreams = []string{upstreamURL}
	if got := s.Build(d, s.proxy(o)); got != "substituted" {
		t.Errorf("got %q, want substituted", got)
	}
}

// Trap 1, for what the narinfos of upstream caches say: what would make Nix fail is
// left out if nothing depends on it, else the path is built. The paths after these
// are found all the same.
func TestNixBuildsWhateverTheUpstreamsNarinfosSay(t *testing.T) {
	eachSite(t, (*site).buildsWhateverNarinfosSay)
}

func (s *site) buildsWhateverNarinfosSay() {
	const built, substituted = "built", "substituted"
	edits := map[string]func(narinfo string) string{} // by hash part
	type want struct {
		what, word string
		drv        proxytest.Derivation
	}
	var cases []want
	add := func(what, word string, edit func(string) string) {
		d := s.Drv(fmt.Sprintf("narinfo-%d", len(cases)))
		s.Publish(d)
		edits[strings.SplitN(filepath.Base(d.App), "-", 2)[0]] = edit
		cases = append(cases, want{what, word, d})
	}
	for line, word := range map[string]string{
		"FileHash: sha256:zzz": substituted, "FileHash: ": substituted, "FileHash: sha1:" + strings.Repeat("a", 40): substituted,
		"FileSize: many": substituted, "FileSize: -1": substituted, "FileSize: +7": substituted,
		"NarHash: sha256:zzz": built, "NarHash: md5:9dd4e461268c8034f5c8564e155c67a6": built,
		"NarSize: many": built, "NarSize: 0": built,
		"Compression: nonsense": built, // Nix 2.34 crashes
		"References: nonsense":  built,
		"URL: ":                 built,
	} {
		add(line, word, func(narinfo string) string {
			key, _, _ := strings.Cut(line, ":")
			return regexp.MustCompile("(?m)^"+key+": .*$").ReplaceAllLiteralString(narinfo, line)
		})
	}
	hash := strings.Repeat("0", 52)
	for line, word := range map[string]string{
		"CA: what": built, "CA: text:md5:9dd4e461268c8034f5c8564e155c67a6": built, "CA: fixed:git:sha256:" + hash: built,
		"CA: fixed:blake3:" + hash: built, "CA: ": substituted,
		"Deriver: ": substituted, "Deriver: nonsense": substituted, "Deriver: unknown-deriver": substituted, "Deriver: /nix/store/" + hash[:32] + "-x.drv": substituted,
		"Sig: nonsense": substituted, "Sig: ": substituted, "Sig: k-1:???": substituted, "Sig: :AAAA": substituted, "Sig: k-1:AAAA": substituted,
		"New: field": substituted, "": substituted, "no field": built,
	} {
		add(line, word, func(narinfo string) string { return narinfo + line + "\n" })
	}
	add("CRLF", substituted, func(n string) string { return strings.ReplaceAll(n, "\n", "\r\n") })
	add("without space", substituted, func(n string) string { return strings.ReplaceAll(n, ": ", ":") })
	add("without end", substituted, func(n string) string { return strings.TrimSuffix(n, "\n") })
	add("nothing", built, func(string) string { return "" })
	add("as it is", substituted, func(n string) string { return n }) // after all that

	s.proxy(s.options())
	inner := s.server
	up := proxytest.NewUpstreamCache(s.T, func(w http.ResponseWriter, r *http.Request) {
		hashPart, ok := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/"), ".narinfo")
		edit := edits[hashPart]
		if !ok || edit == nil {
			inner.ServeHTTP(w, r)
			return
		}
		got := httptest.NewRecorder()
		inner.ServeHTTP(got, r)
		fmt.Fprint(w, edit(got.Body.String()))
	})
	front := &site{Site: &proxytest.Site{T: s.T, Env: s.Env}}
	front.Repo = proxytest.OpenRepo(s.T, "oci:"+s.TempDir()) // for the same store
	proxytest.PutBlob(s.T, front.Repo, []byte("x"))
	e := proxytest.FileEntry("x", []byte("x"))
	e.Path.Dir = s.Env.Store
	proxytest.Publish(s.T, front.Repo, format.Config{StoreDir: s.Env.Store}, e)
	o := front.options()
	o.Upstreams, o.UpstreamNARs = []string{up.URL}, StreamNARs
	url := front.proxy(o)
	for _, tc := range cases {
		if _, err := s.Nix(url, "nix-store", "--realise", tc.drv.Path); err != nil {
			s.Errorf("%q: the build broke: %v", tc.what, err)
		} else if content, err := os.ReadFile(tc.drv.App); err != nil || !strings.HasPrefix(string(content), tc.word) {
			s.Errorf("%q: got %.20q, %v, want it %s", tc.what, content, err, tc.word)
		}
	}
}

// Trap 2: a NAR that cannot be served sends Nix to the next substituter.
func TestNixGoesToTheNextSubstituter(t *testing.T) { eachSite(t, (*site).nixGoesToTheNextSubstituter) }

func (s *site) nixGoesToTheNextSubstituter() {
	d := s.Drv("next")
	s.Publish(d)
	o := s.options()
	o.Blobs = &proxytest.Blobs{} // has none
	if got := s.Build(d, s.proxy(o), s.proxy(s.options())); got != "substituted" {
		s.Errorf("got %q, want substituted", got)
	}
}

// Trap 3: Nix remembers the substituter, so the proxy has to be there while
// the registry is not, and after a start without it.
func TestNixBuildsWhileTheRegistryIsAway(t *testing.T) {
	eachSite(t, (*site).nixBuildsWhileTheRegistryIsAway)
}

func (s *site) nixBuildsWhileTheRegistryIsAway() {
	first, second, third := s.Drv("first"), s.Drv("second"), s.Drv("third")
	for _, d := range []proxytest.Derivation{first, second, third} {
		s.Publish(d)
	}
	dir := s.TempDir()
	o := s.options()
	o.Index = index.Open(s.Repo, index.Options{Dir: dir})
	url := s.proxy(o)
	if got := s.Build(first, url); got != "substituted" {
		s.Fatalf("got %q, want substituted", got)
	}
	s.StopRegistry()
	if got := s.Build(second, url); got != "built" {
		s.Errorf("registry gone: got %q, want built", got)
	}

	again := s.options()
	again.Index = index.Open(s.Repo, index.Options{Dir: dir})
	p, err := New(again)
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.Context(), time.Second)
	defer cancel()
	if err := p.Prepare(ctx); err == nil || p.Len() != 6 {
		s.Errorf("start without the registry: got %v and %d paths, want a warning and the copy's 6", err, p.Len())
	}
	if got := s.Build(third, proxytest.Start(s.T, p)); got != "built" || p.counts.hits.Load() == 0 {
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
	d := s.Drv("late")
	s.Publish(s.Drv("other"))
	o := s.options()
	o.Refresh = time.Hour
	url := s.proxy(o)
	ask := func() error {
		_, err := s.Nix("", "nix", "path-info", "--store", url, d.App, "--option", "narinfo-cache-negative-ttl", "0")
		return err
	}
	if err := ask(); err == nil {
		s.Fatal("the path is there before it is published")
	}
	s.Publish(d)
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
	if _, err := s.Nix("", "nix", "copy", "--from", url, "--no-check-sigs", d.App, "--option", "narinfo-cache-negative-ttl", "0"); err != nil {
		s.Errorf("copying from the proxy: %v", err)
	}
	if content, err := os.ReadFile(d.App); err != nil || !bytes.HasPrefix(content, []byte("substituted")) {
		s.Errorf("the copy: got %.20q, %v", content, err)
	}
}

// The proxy only reads, and says so at once.
func TestNixCannotCopyToTheProxy(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Publish(s.Drv("theirs"))
	d := s.Drv("mine")
	if got := s.Build(d); got != "built" {
		t.Fatalf("got %q", got)
	}
	url := s.proxy(s.options())
	if _, err := s.Nix("", "nix", "copy", "--to", url, d.App); err == nil || !strings.Contains(err.Error(), "405") {
		t.Errorf("got %v, want a refusal with 405", err)
	}
	var exit *exec.ExitError
	if _, err := s.Nix("", "nix", "path-info", "--store", url, d.App); !errors.As(err, &exit) {
		t.Errorf("after the refused copy: got %v, want that the path is not there", err)
	}
}

// A Nix that reaches only the proxy gets the NARs of upstream caches from it.
func TestNixSubstitutesThroughTheProxy(t *testing.T) {
	for _, mode := range []UpstreamNARs{RedirectNARs, StreamNARs} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			upstream := newSite(t)
			d := upstream.Drv("passed-on")
			upstream.Publish(d)
			var direct atomic.Int64
			upstream.proxy(upstream.options())
			front := proxytest.NewUpstreamCache(t, func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.UserAgent(), "Nix/") {
					direct.Add(1)
				}
				upstream.server.ServeHTTP(w, r)
			})
			s := &site{Site: &proxytest.Site{T: t, Env: upstream.Env}}
			s.Repo = proxytest.OpenRepo(t, "oci:"+t.TempDir()) // empty, and for the same store
			proxytest.PutBlob(t, s.Repo, []byte("x"))
			e := proxytest.FileEntry("x", []byte("x"))
			e.Path.Dir = s.Env.Store
			proxytest.Publish(t, s.Repo, format.Config{StoreDir: s.Env.Store}, e)
			o := s.options()
			o.Upstreams, o.UpstreamNARs = []string{front.URL}, mode
			if got := s.Build(d, s.proxy(o)); got != "substituted" {
				t.Errorf("got %q, want substituted", got)
			}
			if (direct.Load() == 0) != (mode == StreamNARs) {
				t.Errorf("Nix has asked the upstream %d times itself", direct.Load())
			}
		})
	}
}

// Trap 2, for NARs of upstreams: whatever the upstream does, the build goes on.
func TestNixBuildsWhateverTheUpstreamSends(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"500": proxytest.Fail(500), "429": proxytest.Fail(429), "404": proxytest.Fail(404), "hangs": proxytest.Hang,
		"drops connections": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"cut off again and again": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000000")
			_, _ = w.Write(make([]byte, 1000))
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.Publish(s.Drv("other"))
			other := &site{Site: &proxytest.Site{T: t, Env: s.Env, Registry: s.Registry}}
			other.Repo = proxytest.OpenRepo(t, "oci:"+t.TempDir())
			d := s.Drv("upstream")
			other.Publish(d)
			o := other.options()
			inner, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			if err := inner.Prepare(t.Context()); err != nil {
				t.Fatal(err)
			}
			up := proxytest.NewUpstreamCache(t, func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/nar/") {
					answer(w, r)
					return
				}
				inner.ServeHTTP(w, r)
			})
			o = s.options()
			o.Upstreams, o.UpstreamNARs = []string{up.URL}, StreamNARs
			if got := s.Build(d, s.proxy(o)); got != "built" {
				t.Errorf("got %q, want built", got)
			}
			if s.server.counts.upstreamHits.Load() == 0 {
				t.Error("Nix was never told of the paths")
			}
		})
	}
}
