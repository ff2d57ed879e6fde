package proxy

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/proxytest"
)

func withUpstreams(tb testing.TB, urls ...string) *Server {
	tb.Helper()
	return newServer(tb, proxytest.OpenRepo(tb, "oci:"+tb.TempDir()), func(o *Options) { o.Upstreams = urls })
}

func TestUpstreamAnswersMisses(t *testing.T) {
	e := proxytest.FileEntry("elsewhere", proxytest.RandomBytes(20, 100), "00000000000000000000000000000000-ref")
	e.Signatures = []string{"k-1:" + strings.Repeat("A", 86) + "=="}
	has := proxytest.NewUpstreamCache(t, proxytest.NarinfoOf(e))
	hasNot := proxytest.NewUpstreamCache(t, proxytest.NarinfoOf())
	hangs := proxytest.NewUpstreamCache(t, proxytest.Hang)
	s := withUpstreams(t, hasNot.URL, hangs.URL, has.URL+"/a/cache/")

	got := proxytest.Get(s, "GET", "/"+e.Path.HashPart+".narinfo")
	ours := "upstream/" + s.upstreams.caches[2].id + "/" + e.Path.HashPart + "-" + shortHash(e.NarHash) + ".nar"
	want := strings.Replace(e.Narinfo(), "URL: "+e.URL(), "URL: "+ours, 1)
	if got.Code != 200 || got.Body.String() != want {
		t.Errorf("got %d, %q; want %q", got.Code, got.Body, want)
	}
	if got := proxytest.Get(s, "HEAD", "/"+e.Path.HashPart+".narinfo").Code; got != 200 {
		t.Errorf("HEAD: got %d, want 200", got)
	}
	if got := s.Status().Served; got.NarinfoUpstream != 2 {
		t.Errorf("got %d upstream hits in the status, want 2", got.NarinfoUpstream)
	}
}

func TestUpstreamMissesAreRemembered(t *testing.T) {
	up := proxytest.NewUpstreamCache(t, proxytest.NarinfoOf())
	s := withUpstreams(t, up.URL)
	miss := "/" + strings.Repeat("0", 32) + ".narinfo"
	for range 10 {
		if got := proxytest.Get(s, "GET", miss).Code; got != 404 {
			t.Fatalf("got %d, want 404", got)
		}
	}
	if got := up.Requests.Load(); got != 1 {
		t.Errorf("got %d requests for one path, want 1", got)
	}
	if got := proxytest.Get(s, "POST", "/_refresh").Code; got != 200 {
		t.Fatalf("refresh: got %d", got)
	}
	proxytest.Get(s, "GET", miss)
	if got := up.Requests.Load(); got != 2 {
		t.Errorf("got %d requests after a refresh, want 2", got)
	}
}

// Nix gives up a build at most of these; a miss is all it may see.
func TestUpstreamTroubleIsAMiss(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"500":   proxytest.Fail(500),
		"429":   proxytest.Fail(429),
		"401":   proxytest.Fail(401),
		"hangs": proxytest.Hang,
		"cut off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, "St")
		},
		"login page": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>Who are you?</html>") },
		"empty":      func(http.ResponseWriter, *http.Request) {},
		"endless": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				fmt.Fprintf(w, "Sig: %s\n", strings.Repeat("x", 1000))
			}
		},
		"loop": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := proxytest.NewUpstreamCache(t, answer)
			s := withUpstreams(t, up.URL)
			var wg sync.WaitGroup
			begin := time.Now()
			for i := range 100 {
				wg.Go(func() {
					if got := proxytest.Get(s, "GET", fmt.Sprintf("/%032d.narinfo", i)).Code; got != 404 {
						t.Errorf("got %d, want 404", got)
					}
				})
			}
			wg.Wait()
			// the next ones do not wait for an upstream that is known to be unwell
			for i := range 100 {
				proxytest.Get(s, "GET", fmt.Sprintf("/%032d.narinfo", 100+i))
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("two hundred look-ups took %s", took)
			}
		})
	}
}

func TestProxyAsItsOwnUpstream(t *testing.T) {
	var s *Server
	up := proxytest.NewUpstreamCache(t, func(w http.ResponseWriter, r *http.Request) { s.ServeHTTP(w, r) })
	s = withUpstreams(t, up.URL)
	if got := proxytest.Get(s, "GET", "/"+strings.Repeat("0", 32)+".narinfo").Code; got != 404 {
		t.Errorf("got %d, want 404", got)
	}
	if got := up.Requests.Load(); got > 2 {
		t.Errorf("it asked itself %d times", got)
	}
}

func TestCheckUpstream(t *testing.T) {
	for s, ok := range map[string]bool{
		"https://cache.nixos.org":     true,
		"http://localhost:8080/cache": true,
		"https://user:pw@example.org": false,
		"s3://bucket":                 false,
		"cache.nixos.org":             false,
		"http://":                     false,
		"http://[::1":                 false,
	} {
		err := CheckUpstream(s)
		if (err == nil) != ok {
			t.Errorf("CheckUpstream(%q): got %v", s, err)
		}
		if err != nil && strings.Contains(err.Error(), "pw") {
			t.Errorf("the error shows the password: %v", err)
		}
		if _, newErr := New(Options{Upstreams: []string{s}}); (newErr == nil) != ok {
			t.Errorf("New with upstream %q: got %v", s, newErr)
		}
	}
}
