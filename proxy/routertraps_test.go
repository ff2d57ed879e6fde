package proxy

import (
	"bytes"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/registrytest"
)

// The tests in this file are those of traps_test.go for a proxy of many caches.

// router starts one and returns the URL of the site's cache there.
func (s *site) router(change ...func(*RouterOptions)) (string, *Router) {
	s.Helper()
	addr := strings.TrimPrefix(s.registry.URL, "http://")
	r := newRouter(s.T, addr, append([]func(*RouterOptions){func(o *RouterOptions) {
		o.Refresh, o.Wait = 500*time.Millisecond, time.Second
	}}, change...)...)
	return proxytest.Start(s.T, r) + "/" + addr + "/a/b", r
}

// told is how many narinfos all open caches have served.
func told(r *Router) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var n int64
	for _, c := range r.caches {
		if c.opened() {
			n += c.server.counts.hits.Load()
		}
	}
	return n
}

// Traps 1 and 2, when the cache is open as the trouble begins.
func TestNixBuildsWhateverTheRegistryDoesToMany(t *testing.T) {
	for _, tc := range registryFaults {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			d := s.drv("trap")
			s.publish(d)
			url, r := s.router(func(o *RouterOptions) { o.Refresh = time.Minute })
			if resp, _, _ := proxytest.Fetch(t, url+"/nix-cache-info"); resp.StatusCode != 200 {
				t.Fatalf("got %d", resp.StatusCode)
			}
			if tc.fault != nil {
				s.fault.Store(&tc.fault)
			}
			if got := s.build(d, url); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if told(r) == 0 {
				t.Error("Nix was never told of the paths")
			}
		})
	}
}

// The same when it is not: the trouble meets the opening.
func TestNixBuildsWhateverMeetsTheOpening(t *testing.T) {
	for _, tc := range registryFaults {
		if !slices.Contains([]string{"500", "429", "hangs", "drops connections", "other bytes", "slow"}, tc.name) {
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			d := s.drv("opening")
			s.publish(d)
			url, _ := s.router()
			if tc.fault != nil {
				s.fault.Store(&tc.fault)
			}
			s.build(d, url) // does not break; which way it goes depends on the fault
		})
	}
}

// Traps 1 and 3: a cache that is not there, is not allowed, or has gone, costs
// no build. Nix tries PUT where it is told that there is no nix-cache-info.
func TestNixBuildsWithoutTheCacheItNames(t *testing.T) {
	for name, path := range map[string]string{"absent": "/a/none", "not allowed": "/c/d", "no name": "/..", "nothing": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.publish(s.drv("other"))
			addr := strings.TrimPrefix(s.registry.URL, "http://")
			url, _ := s.router(func(o *RouterOptions) { o.Allow = []string{addr + "/a/*"} })
			if got := s.build(s.drv("x"), strings.TrimSuffix(url, "/a/b")+path); got != "built" {
				t.Errorf("got %q, want built", got)
			}
		})
	}
}

// Trap 3: Nix has spoken to it, and the proxy has forgotten the cache
// meanwhile, while the registry went away, or the credentials were revoked.
func TestNixBuildsAfterTheCacheWasDropped(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first, second := s.drv("first"), s.drv("second")
	s.publish(first)
	s.publish(second)
	url, r := s.router()
	if got := s.build(first, url); got != "substituted" {
		t.Fatalf("got %q, want substituted", got)
	}
	r.mu.Lock()
	for _, c := range r.caches {
		r.remove(c)
	}
	r.mu.Unlock()
	s.stopRegistry()
	if got := s.build(second, url); got != "built" {
		t.Errorf("got %q, want built", got)
	}
}

// Nix sends a login without being asked for one, and builds when the registry
// refuses it one day, or when it is gone. Since 2.35, Nix takes 401 for an error,
// as all versions take 501.
func TestNixBuildsAfterTheLoginExpired(t *testing.T) {
	eachSite(t, func(s *site) {
		first, second, third := s.drv("first"), s.drv("second"), s.drv("third")
		for _, d := range []drv{first, second, third} {
			s.publish(d)
		}
		reg := registrytest.NewPrivate(s.T, strings.TrimPrefix(s.registry.URL, "http://"), false)
		reg.User("alice", "wonderland", "a/")
		const valid = 500 * time.Millisecond
		router := newRouter(s.T, reg.Addr, func(o *RouterOptions) { o.Refresh = valid })
		var refused, without atomic.Int64
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				without.Add(1)
			}
			answer := httptest.NewRecorder()
			router.ServeHTTP(answer, r)
			switch answer.Code {
			case http.StatusUnauthorized, http.StatusProxyAuthRequired:
				answer.Code = http.StatusNotImplemented
			case http.StatusForbidden:
				refused.Add(1)
			}
			maps.Copy(w.Header(), answer.Header())
			w.WriteHeader(answer.Code)
			_, _ = w.Write(answer.Body.Bytes())
		}))
		s.Cleanup(front.Close)
		url := front.URL + "/" + reg.Addr + "/a/b"
		netrc := filepath.Join(s.TempDir(), "netrc")
		login := func(text string) {
			if err := os.WriteFile(netrc, []byte(text), 0o600); err != nil {
				s.Fatal(err)
			}
		}
		for i, v := range s.env.Vars {
			if strings.HasPrefix(v, "NIX_CONFIG=") {
				s.env.Vars[i] += "netrc-file = " + netrc + "\n"
			}
		}

		login("machine 127.0.0.1 login alice password wonderland\n")
		if got := s.build(first, url); got != "substituted" || without.Load() > 0 {
			s.Errorf("got %q, and %d requests without the login", got, without.Load())
		}
		reg.User("alice", "changed", "a/")
		time.Sleep(valid)
		if got := s.build(second, url); got != "built" || refused.Load() == 0 {
			s.Errorf("after the login expired: got %q, and it was refused %d times", got, refused.Load())
		}
		login("")
		refused.Store(0)
		if got := s.build(third, url); got != "built" || refused.Load() == 0 {
			s.Errorf("without a login: got %q, and it was refused %d times", got, refused.Load())
		}
	})
}

// Trap 4: what was published after a miss is seen.
func TestNixSeesWhatIsPublishedToOneOfMany(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	d := s.drv("late")
	s.publish(s.drv("other"))
	url, _ := s.router(func(o *RouterOptions) { o.Refresh = time.Hour })
	ask := func() error {
		_, err := s.nix("", "nix", "path-info", "--store", url, d.app, "--option", "narinfo-cache-negative-ttl", "0")
		return err
	}
	if err := ask(); err == nil {
		t.Fatal("the path is there before it is published")
	}
	s.publish(d)
	resp, err := http.Post(url+"/_refresh", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := ask(); resp.StatusCode != http.StatusOK || err != nil {
		t.Errorf("after publishing: %s, %v", resp.Status, err)
	}
	if _, err := s.nix("", "nix", "copy", "--from", url, "--no-check-sigs", d.app, "--option", "narinfo-cache-negative-ttl", "0"); err != nil {
		t.Errorf("copying: %v", err)
	}
	if content, err := os.ReadFile(d.app); err != nil || !bytes.HasPrefix(content, []byte("substituted")) {
		t.Errorf("the copy: got %.20q, %v", content, err)
	}
}

// A Nix that reaches only the proxy gets the NARs of upstream caches from it.
func TestNixSubstitutesThroughTheProxy(t *testing.T) {
	for _, mode := range []UpstreamNARs{RedirectNARs, StreamNARs} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			upstream := newSite(t)
			d := upstream.drv("passed-on")
			upstream.publish(d)
			var direct atomic.Int64
			upstream.proxy(upstream.options())
			front := newUpstreamCache(t, func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.UserAgent(), "Nix/") {
					direct.Add(1)
				}
				upstream.server.ServeHTTP(w, r)
			})
			s := &site{T: t, env: upstream.env}
			s.repo = proxytest.OpenRepo(t, "oci:"+t.TempDir()) // empty, and for the same store
			proxytest.PutBlob(t, s.repo, []byte("x"))
			e := proxytest.FileEntry("x", []byte("x"))
			e.Path.Dir = s.env.Store
			proxytest.Publish(t, s.repo, index.Config{StoreDir: s.env.Store}, e)
			o := s.options()
			o.Upstreams, o.UpstreamNARs = []string{front.url}, mode
			if got := s.build(d, s.proxy(o)); got != "substituted" {
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
		"500": fail(500), "429": fail(429), "404": fail(404), "hangs": hang,
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
			s.publish(s.drv("other"))
			theirs := &site{T: t, env: s.env, registry: s.registry}
			theirs.repo = proxytest.OpenRepo(t, "oci:"+t.TempDir())
			d := s.drv("upstream")
			theirs.publish(d)
			o := theirs.options()
			inner, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			if err := inner.Prepare(t.Context()); err != nil {
				t.Fatal(err)
			}
			up := newUpstreamCache(t, func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/nar/") {
					answer(w, r)
					return
				}
				inner.ServeHTTP(w, r)
			})
			o = s.options()
			o.Upstreams, o.UpstreamNARs = []string{up.url}, StreamNARs
			if got := s.build(d, s.proxy(o)); got != "built" {
				t.Errorf("got %q, want built", got)
			}
			if s.server.counts.upstreamHits.Load() == 0 {
				t.Error("Nix was never told of the paths")
			}
		})
	}
}
