package many

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

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/registrytest"
)

// The tests in this file are those of traps_test.go for a proxy of many caches.

// site is a machine with Nix and a registry.
type site struct{ *proxytest.Site }

func newSite(t *testing.T) *site { return &site{proxytest.NewSite(t, nixtest.New(t))} }

// eachSite runs a test with each version of Nix.
func eachSite(t *testing.T, test func(s *site)) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) { test(&site{proxytest.NewSite(t, v.New(t))}) })
}

// router starts one and returns the URL of the site's cache there.
func (s *site) router(change ...func(*RouterOptions)) (string, *Router) {
	s.Helper()
	addr := strings.TrimPrefix(s.Registry.URL, "http://")
	r := newRouter(s.T, addr, append([]func(*RouterOptions){func(o *RouterOptions) {
		o.Refresh, o.Wait = 500*time.Millisecond, time.Second
	}}, change...)...)
	return proxytest.Start(s.T, r) + "/" + addr + "/a/b", r
}

// served is how many narinfos all open caches have served.
func served(r *Router) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var n int64
	for _, c := range r.caches {
		if c.opened() {
			n += c.server.Health().NarinfoHits
		}
	}
	return n
}

// Traps 1 and 2, when the cache is open as the trouble begins.
func TestNixBuildsWhateverTheRegistryDoesToMany(t *testing.T) {
	for _, tc := range proxytest.RegistryFaults {
		t.Run(tc.Name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			d := s.Drv("trap")
			s.Publish(d)
			url, r := s.router(func(o *RouterOptions) { o.Refresh = time.Minute })
			if resp, _, _ := proxytest.Fetch(t, url+"/nix-cache-info"); resp.StatusCode != 200 {
				t.Fatalf("got %d", resp.StatusCode)
			}
			if tc.Fault != nil {
				s.Fault.Store(&tc.Fault)
			}
			if got := s.Build(d, url); got != tc.Want {
				t.Errorf("got %q, want %q", got, tc.Want)
			}
			if served(r) == 0 {
				t.Error("Nix was never told of the paths")
			}
		})
	}
}

// The same when it is not: the trouble meets the opening.
func TestNixBuildsWhateverMeetsTheOpening(t *testing.T) {
	for _, tc := range proxytest.RegistryFaults {
		if !slices.Contains([]string{"500", "429", "hangs", "drops connections", "other bytes", "slow"}, tc.Name) {
			continue
		}
		t.Run(tc.Name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			d := s.Drv("opening")
			s.Publish(d)
			url, _ := s.router()
			if tc.Fault != nil {
				s.Fault.Store(&tc.Fault)
			}
			s.Build(d, url) // does not break; which way it goes depends on the fault
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
			s.Publish(s.Drv("other"))
			addr := strings.TrimPrefix(s.Registry.URL, "http://")
			url, _ := s.router(func(o *RouterOptions) { o.Allow = []string{addr + "/a/*"} })
			if got := s.Build(s.Drv("x"), strings.TrimSuffix(url, "/a/b")+path); got != "built" {
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
	first, second := s.Drv("first"), s.Drv("second")
	s.Publish(first)
	s.Publish(second)
	url, r := s.router()
	if got := s.Build(first, url); got != "substituted" {
		t.Fatalf("got %q, want substituted", got)
	}
	r.mu.Lock()
	for _, c := range r.caches {
		r.remove(c)
	}
	r.mu.Unlock()
	s.StopRegistry()
	if got := s.Build(second, url); got != "built" {
		t.Errorf("got %q, want built", got)
	}
}

// Nix sends a login without being asked for one, and builds when the registry
// refuses it one day, or when it is gone. Since 2.35, Nix takes 401 for an error,
// as all versions take 501.
func TestNixBuildsAfterTheLoginExpired(t *testing.T) {
	eachSite(t, func(s *site) {
		first, second, third := s.Drv("first"), s.Drv("second"), s.Drv("third")
		for _, d := range []proxytest.Derivation{first, second, third} {
			s.Publish(d)
		}
		reg := registrytest.NewPrivate(s.T, strings.TrimPrefix(s.Registry.URL, "http://"), false)
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
		for i, v := range s.Env.Vars {
			if strings.HasPrefix(v, "NIX_CONFIG=") {
				s.Env.Vars[i] += "netrc-file = " + netrc + "\n"
			}
		}

		login("machine 127.0.0.1 login alice password wonderland\n")
		if got := s.Build(first, url); got != "substituted" || without.Load() > 0 {
			s.Errorf("got %q, and %d requests without the login", got, without.Load())
		}
		reg.User("alice", "changed", "a/")
		time.Sleep(valid)
		if got := s.Build(second, url); got != "built" || refused.Load() == 0 {
			s.Errorf("after the login expired: got %q, and it was refused %d times", got, refused.Load())
		}
		login("")
		refused.Store(0)
		if got := s.Build(third, url); got != "built" || refused.Load() == 0 {
			s.Errorf("without a login: got %q, and it was refused %d times", got, refused.Load())
		}
	})
}

// Trap 4: what was published after a miss is seen.
func TestNixSeesWhatIsPublishedToOneOfMany(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	d := s.Drv("late")
	s.Publish(s.Drv("other"))
	url, _ := s.router(func(o *RouterOptions) { o.Refresh = time.Hour })
	ask := func() error {
		_, err := s.Nix("", "nix", "path-info", "--store", url, d.App, "--option", "narinfo-cache-negative-ttl", "0")
		return err
	}
	if err := ask(); err == nil {
		t.Fatal("the path is there before it is published")
	}
	s.Publish(d)
	resp, err := http.Post(url+"/_refresh", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := ask(); resp.StatusCode != http.StatusOK || err != nil {
		t.Errorf("after publishing: %s, %v", resp.Status, err)
	}
	if _, err := s.Nix("", "nix", "copy", "--from", url, "--no-check-sigs", d.App, "--option", "narinfo-cache-negative-ttl", "0"); err != nil {
		t.Errorf("copying: %v", err)
	}
	if content, err := os.ReadFile(d.App); err != nil || !bytes.HasPrefix(content, []byte("substituted")) {
		t.Errorf("the copy: got %.20q, %v", content, err)
	}
}
