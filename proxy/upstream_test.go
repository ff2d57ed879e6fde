package proxy

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/org/nixoci-action/internal/proxytest"
)

func withUpstreams(tb testing.TB, urls ...string) *Server {
	tb.Helper()
	return newServer(tb, proxytest.OpenRepo(tb, "oci:"+tb.TempDir()), func(o *Options) { o.Upstreams = urls })
}

func TestUpstreamAnswersMisses(t *testing.T) {
	e := proxytest.FileEntry("elsewhere", proxytest.RandomBytes(20, 100), "00000000000000000000000000000000-ref")
	e.Signatures = []string{"k-1:AAAA"}
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

func TestUpstreamMissesAreBounded(t *testing.T) {
	x := newExpiring(10)
	for i := range 1000 {
		x.add(fmt.Sprint(i), time.Hour)
		if len(x.until) > 10 {
			t.Fatalf("%d keys are held", len(x.until))
		}
	}
	if !x.has("999") {
		t.Error("the last key is not there")
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

func TestRewriteNarinfo(t *testing.T) {
	base, err := url.Parse("https://example.org/cache/")
	if err != nil {
		t.Fatal(err)
	}
	e := proxytest.FileEntry("x-1", proxytest.RandomBytes(21, 10), "00000000000000000000000000000000-ref")
	good := e.Narinfo()
	for _, tc := range []struct{ name, text, wantURL string }{
		{"relative", good, "https://example.org/cache/" + e.URL()},
		{"absolute", strings.Replace(good, e.URL(), "http://cdn.example/x.nar?a=b%2F", 1), "http://cdn.example/x.nar?a=b%2F"},
		{"from the root", strings.Replace(good, e.URL(), "/n/x.nar", 1), "https://example.org/n/x.nar"},
		{"with dots", strings.Replace(good, e.URL(), "../n/x.nar", 1), "https://example.org/n/x.nar"},
		{"CRLF", strings.ReplaceAll(good, "\n", "\r\n"), "https://example.org/cache/" + e.URL()},
		{"unknown field", good + "Extra: 1\n", "https://example.org/cache/" + e.URL()},
		{"several signatures", good + "Sig: a:AAAA\nSig: b:AAAA\n", "https://example.org/cache/" + e.URL()},
		{"no references", strings.Replace(good, "References: "+e.References[0], "References:", 1), "https://example.org/cache/" + e.URL()},
		{"unknown deriver", good + "Deriver: unknown-deriver\n", "https://example.org/cache/" + e.URL()},
		{"no URL", strings.Replace(good, "URL:", "LRU:", 1), ""},
		{"file URL", strings.Replace(good, e.URL(), "file:///etc/passwd", 1), ""},
		{"URL without host", strings.Replace(good, e.URL(), "http:x", 1), ""},
		{"empty URL", strings.Replace(good, e.URL(), "", 1), ""},
		{"two URLs", good + "URL: nar/other\n", ""},
		{"other path", strings.Replace(good, e.Path.HashPart, strings.Repeat("0", 32), 1), ""},
		{"other store", strings.Replace(good, "/nix/store", "/gnu/store", 1), ""},
		{"no size", strings.Replace(good, "NarSize: 10", "NarSize: 0", 1), ""},
		{"no hash", strings.Replace(good, e.NarHash, "", 1), ""},
		{"bad reference", strings.Replace(good, "-ref", "-r/f", 1), ""},
		{"deriver with directory", good + "Deriver: /nix/store/" + e.Path.Base() + ".drv\n", ""},
		{"HTML", "<html>\n<p>Hello: World\n", ""},
		{"empty", "", ""},
	} {
		got, err := rewriteNarinfo(tc.text, base, e.Path.HashPart, e.Path.Dir)
		if (err == nil) != (tc.wantURL != "") {
			t.Errorf("%s: got %v", tc.name, err)
			continue
		}
		if err == nil && !strings.Contains(got, "\nURL: "+tc.wantURL+"\n") {
			t.Errorf("%s: got %q, want the URL %s", tc.name, got, tc.wantURL)
		}
	}
}

func FuzzRewriteNarinfo(f *testing.F) {
	base, err := url.Parse("https://example.org/cache/")
	if err != nil {
		f.Fatal(err)
	}
	e := proxytest.FileEntry("x-1", proxytest.RandomBytes(21, 10), "00000000000000000000000000000000-ref")
	f.Add(e.Narinfo())
	f.Add(strings.ReplaceAll(e.Narinfo(), "\n", "\r\n") + "Sig: a:b\nDeriver: unknown-deriver\nCA: text:x\n\n")
	f.Add("StorePath: /nix/store\nURL:\nReferences:")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := rewriteNarinfo(text, base, e.Path.HashPart, e.Path.Dir)
		if err != nil {
			return
		}
		again, err := rewriteNarinfo(got, base, e.Path.HashPart, e.Path.Dir)
		if err != nil || again != got {
			t.Errorf("%q became %q and then %q, %v", text, got, again, err)
		}
	})
}

func TestExpiring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newExpiring(2)
		x.add("a", time.Minute)
		x.add("b", time.Hour)
		time.Sleep(2 * time.Minute)
		if x.has("a") || !x.has("b") {
			t.Errorf("after two minutes: a %v, b %v; want only b", x.has("a"), x.has("b"))
		}
		x.add("a", time.Minute)
		time.Sleep(2 * time.Minute)
		x.add("c", time.Minute) // full; a is old
		if !x.has("b") || !x.has("c") {
			t.Errorf("making room: b %v, c %v; want both", x.has("b"), x.has("c"))
		}
		x.reset()
		if x.has("b") {
			t.Error("b survived the reset")
		}
	})
}
