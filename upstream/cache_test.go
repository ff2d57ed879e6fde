package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/upstreamtest"
	"github.com/org/nixoci-action/upstream"
)

// quick are options that keep tests short.
var quick = upstream.Options{Timeout: 5 * time.Second, Backoff: time.Millisecond, Patience: 20 * time.Second}

func open(t testing.TB, url string, opts upstream.Options) *upstream.Cache {
	t.Helper()
	u, err := upstream.New(url, opts)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestHas(t *testing.T) {
	t.Parallel()
	reset := func(w http.ResponseWriter, _ *http.Request, n int) bool {
		if n == 1 {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	getOnly := func(code int) func(w http.ResponseWriter, r *http.Request, _ int) bool {
		return func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if r.Method == http.MethodHead {
				w.WriteHeader(code)
			}
			return r.Method == http.MethodHead
		}
	}
	web := func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if r.Method == http.MethodHead && strings.Contains(r.URL.Path, "noHEAD") {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return true
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte("<html>log in</html>"))
		return true
	}
	other := func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if r.Method == http.MethodHead {
			w.WriteHeader(http.StatusNotImplemented)
			return true
		}
		_, _ = w.Write([]byte("hello"))
		return true
	}
	huge := func(w http.ResponseWriter, r *http.Request, n int) bool {
		if r.Method == http.MethodHead {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return true
		}
		_, _ = fmt.Fprintf(w, "StorePath: /nix/store/%s-here\n", upstreamtest.HashPart("here"))
		for range 1 << 10 {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return true
			}
		}
		t.Error("64 MiB were read")
		return true
	}
	for name, tt := range map[string]struct {
		answer   func(http.ResponseWriter, *http.Request, int) bool
		path     string
		has      bool
		err      string
		requests int
	}{
		"present":                  {nil, "here", true, "", 1},
		"absent":                   {nil, "gone", false, "", 1},
		"403 of S3 is absent":      {upstreamtest.Status(403, 9), "here", false, "", 1},
		"410 is absent":            {upstreamtest.Status(410, 9), "here", false, "", 1},
		"401 is unknown":           {upstreamtest.Status(401, 9), "gone", false, "answered 401 Unauthorized", 1},
		"400 is unknown":           {upstreamtest.Status(400, 9), "gone", false, "answered 400 Bad Request", 1},
		"204 is unknown":           {upstreamtest.Status(204, 9), "here", false, "answered 204 No Content", 1},
		"500 is tried again":       {upstreamtest.Status(500, 2), "here", true, "", 3},
		"502 then absent":          {upstreamtest.Status(502, 4), "gone", false, "", 5},
		"408 is tried again":       {upstreamtest.Status(408, 1), "here", true, "", 2},
		"429 without header":       {upstreamtest.Status(429, 1), "here", true, "", 2},
		"503 for good":             {upstreamtest.Status(503, 9), "here", false, "answered 503 Service Unavailable", 5},
		"dropped connection":       {reset, "here", true, "", 2},
		"405 falls back to GET":    {getOnly(405), "here", true, "", 2},
		"501 falls back to GET":    {getOnly(501), "here", true, "", 2},
		"405 then absent":          {getOnly(405), "gone", false, "", 2},
		"405 to GET as well":       {upstreamtest.Status(405, 9), "here", false, "answered 405", 2},
		"web page is not present":  {web, "here", false, "web page", 1},
		"other text is no narinfo": {other, "here", false, "something else", 2},
		"huge body is cut off":     {huge, "here", true, "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := upstreamtest.Serve(t, "here")
			s.Answer = tt.answer
			has, err := open(t, s.URL+"/", quick).Has(t.Context(), upstreamtest.HashPart(tt.path))
			if has != tt.has {
				t.Errorf("got %t, want %t", has, tt.has)
			}
			if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got error %v, want %q", err, tt.err)
			}
			if err != nil && !strings.Contains(err.Error(), "upstream cache "+s.URL) {
				t.Errorf("got error %v, want it to say which cache failed", err)
			}
			if got := s.Count(); got != tt.requests {
				t.Errorf("got %d requests, want %d", got, tt.requests)
			}
		})
	}
}

func TestHasRefusesWhatIsNoHashPart(t *testing.T) {
	t.Parallel()
	s := upstreamtest.Serve(t)
	if has, err := open(t, s.URL, quick).Has(t.Context(), "../secret"); has || err == nil || s.Count() > 0 {
		t.Errorf("got %t, %v after %d requests, want an error and none", has, err, s.Count())
	}
}

func TestHasRemembersThatHEADIsRefused(t *testing.T) {
	t.Parallel()
	s := upstreamtest.Serve(t, "a", "b")
	s.Answer = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if r.Method == http.MethodHead {
			w.WriteHeader(http.StatusMethodNotAllowed)
		}
		return r.Method == http.MethodHead
	}
	u := open(t, s.URL, quick)
	for _, name := range []string{"a", "b"} {
		if has, err := u.Has(t.Context(), upstreamtest.HashPart(name)); !has || err != nil {
			t.Errorf("%s: got %t, %v, want present", name, has, err)
		}
	}
	if got := s.Requests("a", "b"); got != "a a b" {
		t.Errorf("got requests %q, want HEAD once only", got)
	}
}

func TestHasHonoursRetryAfter(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]func() string{
		"seconds": func() string { return "1" },
		"date":    func() string { return time.Now().Add(2 * time.Second).UTC().Format(http.TimeFormat) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := upstreamtest.Serve(t, "a", "b")
			var again atomic.Int64
			s.Answer = func(w http.ResponseWriter, _ *http.Request, n int) bool {
				if n > 1 || again.Load() > 0 {
					return false
				}
				again.Store(time.Now().Add(time.Second).UnixNano())
				w.Header().Set("Retry-After", header())
				w.WriteHeader(http.StatusTooManyRequests)
				return true
			}
			u := open(t, s.URL, quick)
			start := time.Now()
			var wg sync.WaitGroup
			wg.Go(func() { has(t, u, "a") })
			for s.Count() == 0 {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(50 * time.Millisecond)
			// asked for afterwards, it waits as well
			wg.Go(func() { has(t, u, "b") })
			wg.Wait()
			if d := time.Since(start); d < 900*time.Millisecond || d > 10*time.Second {
				t.Errorf("took %s, want a wait of 1 to 2 s", d)
			}
			if got := s.Requests("a", "b"); got != "a a b" {
				t.Errorf("got requests %q, want two for a and, after the wait, one for b", got)
			}
		})
	}
}

func has(t *testing.T, u *upstream.Cache, name string) {
	t.Helper()
	if has, err := u.Has(t.Context(), upstreamtest.HashPart(name)); !has || err != nil {
		t.Errorf("%s: got %t, %v, want present", name, has, err)
	}
}

func TestHasDoesNotWaitLongerThanItsPatience(t *testing.T) {
	t.Parallel()
	s := upstreamtest.Serve(t, "a")
	s.Answer = func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		w.Header().Set("Retry-After", "20")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	opts := quick
	opts.Patience = 10 * time.Second
	start := time.Now()
	_, err := open(t, s.URL, opts).Has(t.Context(), upstreamtest.HashPart("a"))
	if err == nil || !strings.Contains(err.Error(), "answered 503") || time.Since(start) > 5*time.Second {
		t.Errorf("got %v after %s, want the 503 at once", err, time.Since(start))
	}
}

func TestHasEveryTryHasADeadline(t *testing.T) {
	t.Parallel()
	s := upstreamtest.Serve(t, "a")
	s.Answer = func(_ http.ResponseWriter, r *http.Request, n int) bool {
		if n <= 2 {
			<-r.Context().Done()
		}
		return n <= 2
	}
	opts := quick
	opts.Timeout = 100 * time.Millisecond
	u := open(t, s.URL, opts)
	has(t, u, "a")
	s.Answer = func(_ http.ResponseWriter, r *http.Request, _ int) bool { <-r.Context().Done(); return true }
	_, err := u.Has(t.Context(), upstreamtest.HashPart("b"))
	if err == nil || !strings.Contains(err.Error(), "no answer within 100ms") {
		t.Errorf("got error %v, want the deadline in it", err)
	}
}

func TestHasStopsWithItsContext(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request, int) bool{
		"in a request":  func(_ http.ResponseWriter, r *http.Request, _ int) bool { <-r.Context().Done(); return true },
		"between tries": upstreamtest.Status(500, 1000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := upstreamtest.Serve(t)
			s.Answer = answer
			opts := quick
			opts.Backoff, opts.Timeout = 5*time.Second, 10*time.Second
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(100*time.Millisecond, cancel)
			start := time.Now()
			_, err := open(t, s.URL, opts).Has(ctx, upstreamtest.HashPart("a"))
			if !errors.Is(err, context.Canceled) || time.Since(start) > 2*time.Second {
				t.Errorf("got %v after %s, want to be cancelled at once", err, time.Since(start))
			}
		})
	}
}

func TestHasGivesUpAfterFailedLookUps(t *testing.T) {
	t.Parallel()
	s := upstreamtest.Serve(t, "p")
	s.Answer = upstreamtest.Status(500, 1000)
	opts := quick
	opts.Tries, opts.GiveUpAfter = 2, 3
	u := open(t, s.URL, opts)
	for range 10 {
		if has, err := u.Has(t.Context(), upstreamtest.HashPart("p")); has || err == nil {
			t.Fatalf("got %t, %v, want a failure", has, err)
		}
	}
	if got := s.Count(); got != 6 {
		t.Errorf("got %d requests, want 6: three look-ups of two tries", got)
	}
	_, err := u.Has(t.Context(), upstreamtest.HashPart("p"))
	if !errors.Is(err, upstream.ErrGivenUp) || !strings.Contains(err.Error(), "given up") || !strings.Contains(err.Error(), "answered 500") {
		t.Errorf("got error %v, want one that tells why it was given up", err)
	}
}

func TestHasWakesUpWhenTheUpstreamIsGivenUp(t *testing.T) {
	t.Parallel()
	s := upstreamtest.Serve(t)
	s.Answer = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		code := http.StatusBadRequest // for good
		if strings.Contains(r.URL.Path, upstreamtest.HashPart("slow")) {
			code = http.StatusInternalServerError
		}
		w.WriteHeader(code)
		return true
	}
	opts := quick
	opts.Backoff, opts.GiveUpAfter = 10*time.Second, 2
	u := open(t, s.URL, opts)
	start := time.Now()
	done := make(chan error)
	go func() {
		_, err := u.Has(t.Context(), upstreamtest.HashPart("slow"))
		done <- err
	}()
	for s.Count() == 0 {
		time.Sleep(time.Millisecond)
	}
	for range 2 {
		if _, err := u.Has(t.Context(), upstreamtest.HashPart("bad")); err == nil {
			t.Error("got no error for a 400")
		}
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "given up") || time.Since(start) > 4*time.Second {
		t.Errorf("got %v after %s, want it not to wait for its next try", err, time.Since(start))
	}
}

// An answer that was read, however odd, says nothing about other paths.
func TestOddAnswersDoNotGiveUpAnUpstream(t *testing.T) {
	t.Parallel()
	s := upstreamtest.Serve(t, "good")
	s.Answer = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		odd := !strings.Contains(r.URL.Path, upstreamtest.HashPart("good"))
		if odd {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<html>"))
		}
		return odd
	}
	opts := quick
	opts.Tries, opts.GiveUpAfter = 1, 2
	u := open(t, s.URL, opts)
	for range 3 {
		if _, err := u.Has(t.Context(), upstreamtest.HashPart("odd")); !errors.Is(err, upstream.ErrUnusable) || errors.Is(err, upstream.ErrGivenUp) {
			t.Errorf("got %v, want that the answer is unusable", err)
		}
	}
	has(t, u, "good")
}

func TestHasForgetsFailuresAfterASuccess(t *testing.T) {
	t.Parallel()
	s := upstreamtest.Serve(t, "good")
	s.Answer = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		bad := !strings.Contains(r.URL.Path, upstreamtest.HashPart("good"))
		if bad {
			w.WriteHeader(http.StatusInternalServerError)
		}
		return bad
	}
	opts := quick
	opts.Tries, opts.GiveUpAfter = 1, 2
	u := open(t, s.URL, opts)
	for range 5 {
		if _, err := u.Has(t.Context(), upstreamtest.HashPart("bad")); err == nil || strings.Contains(err.Error(), "given up") {
			t.Errorf("got error %v, want 500", err)
		}
		has(t, u, "good")
	}
}

func TestHasFollowsRedirectsUpToABound(t *testing.T) {
	t.Parallel()
	target := upstreamtest.Serve(t, "a")
	s := upstreamtest.Serve(t)
	s.Answer = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		to := target.URL + r.URL.Path + "?X-Amz-Signature=secret"
		if strings.Contains(r.URL.Path, upstreamtest.HashPart("loop")) {
			to = r.URL.Path + "?X-Amz-Signature=secret"
		}
		http.Redirect(w, r, to, http.StatusFound)
		return true
	}
	opts := quick
	opts.Tries = 1
	u := open(t, s.URL, opts)
	has(t, u, "a")
	_, err := u.Has(t.Context(), upstreamtest.HashPart("loop"))
	if err == nil || !strings.Contains(err.Error(), "redirected more than") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got error %v, want one about redirects without the signature", err)
	}
	if got := s.Requests("a", "loop"); got != "a"+strings.Repeat(" loop", 6) {
		t.Errorf("got requests %q, want five redirects", got)
	}
}

// The port that a redirect leads to is closed.
func TestErrorsHideASignedRedirect(t *testing.T) {
	t.Parallel()
	gone := upstreamtest.Serve(t)
	gone.Close()
	s := upstreamtest.Serve(t)
	s.Answer = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		http.Redirect(w, r, gone.URL+"/x?X-Amz-Signature=secret", http.StatusFound)
		return true
	}
	_, err := open(t, s.URL, quick).Has(t.Context(), upstreamtest.HashPart("a"))
	if err == nil || !strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got error %v, want the refused connection without the signature", err)
	}
}

func TestNewURL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"https://cache.nixos.org":                           "https://cache.nixos.org",
		" https://cache.nixos.org/ ":                        "https://cache.nixos.org",
		"https://user:secret@h.example:8443/a/b//?x=1#frag": "https://h.example:8443/a/b",
		"http://h.example?priority=30&trusted=1":            "http://h.example",
	} {
		if got := open(t, in, quick).String(); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	for _, in := range []string{"", "cache.nixos.org", "file:///srv/cache", "s3://bucket", "https://", "http://u:se/cret@h", "https://u:secret@h\x00"} {
		_, err := upstream.New(in, quick)
		if err == nil || strings.Contains(err.Error(), "cret") {
			t.Errorf("%q: got error %v, want one without the password", in, err)
		}
	}
	if _, err := upstream.New("cache.nixos.org", quick); hint.Of(err) == "" {
		t.Error("an address without scheme: got no hint")
	}
	public := upstream.Options{Public: true}
	if _, err := upstream.New("https://u:secret@h", public); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("credentials where others would see them: got error %v, want one without the password", err)
	}
	open(t, "https://h", public)
}

func TestHasSendsCredentialsToTheCacheOnly(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Bool
	target := upstreamtest.Serve(t, "a")
	target.Answer = func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		elsewhere.Store(r.Header.Get("Authorization") != "")
		return false
	}
	s := upstreamtest.Serve(t)
	s.Answer = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		user, password, _ := r.BasicAuth()
		if user != "user" || password != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		// another host name of the same machine
		http.Redirect(w, r, strings.Replace(target.URL, "127.0.0.1", "localhost", 1)+r.URL.Path, http.StatusFound)
		return true
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("user", "secret")
	has(t, open(t, u.String(), quick), "a")
	if elsewhere.Load() {
		t.Error("credentials were sent to the redirect's target")
	}
}

func TestHasSendsCredentialsOverTLSOnly(t *testing.T) {
	t.Parallel()
	var plain atomic.Bool
	target := upstreamtest.Serve(t, "a")
	target.Answer = func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		plain.Store(r.Header.Get("Authorization") != "")
		return false
	}
	s := upstreamtest.New()
	tr := upstream.NewTransport()
	upstreamtest.StartTLS(t, s, tr)
	s.Answer = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if _, _, ok := r.BasicAuth(); !ok {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		http.Redirect(w, r, target.URL+r.URL.Path, http.StatusFound) // the same host name
		return true
	}
	opts := quick
	opts.Transport = tr
	has(t, open(t, strings.Replace(s.URL, "//", "//user:secret@", 1), opts), "a")
	if plain.Load() {
		t.Error("credentials were sent in plain text")
	}
}

// The narinfo and the NAR are asked for with the credentials; storage elsewhere,
// to which the narinfo may lead, gets none. A service's cache that fails is left
// alone for a while, and a miss is no failure.
func TestNarinfoAndNAR(t *testing.T) {
	t.Parallel()
	var fail atomic.Bool
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the storage got the credentials")
		}
		_, _ = w.Write([]byte("stored"))
	}))
	t.Cleanup(storage.Close)
	key := upstreamtest.HashPart("a")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		switch {
		case fail.Load() || password != "secret":
			w.WriteHeader(http.StatusInternalServerError)
		case r.URL.Path == "/c/"+key+".narinfo":
			_, _ = fmt.Fprintf(w, "StorePath: /nix/store/%s-a\nURL: nar/x.nar\nNarHash: sha256:%s\nNarSize: 6\n", key, strings.Repeat("0", 52))
		case r.URL.Path == "/c/nar/x.nar":
			_, _ = w.Write([]byte("as NAR"))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(s.Close)
	u := open(t, strings.Replace(s.URL, "//", "//user:secret@", 1)+"/c/", upstream.Options{Service: true})
	fields, err := u.Narinfo(t.Context(), key, "/nix/store")
	if err != nil || fields.Get("URL") != s.URL+"/c/nar/x.nar" {
		t.Fatalf("got %q, %v", fields, err)
	}
	for at, want := range map[string]string{fields.Get("URL"): "as NAR", storage.URL + "/x.nar": "stored"} {
		resp, err := u.NAR(t.Context(), http.MethodGet, at, "")
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != want {
			t.Errorf("%s: got %q, %v", at, body, err)
		}
		_ = resp.Body.Close()
	}
	if fields, err := u.Narinfo(t.Context(), upstreamtest.HashPart("b"), "/nix/store"); fields != nil || err != nil {
		t.Errorf("got %q, %v, want a miss", fields, err)
	}
	if resp, err := u.NAR(t.Context(), http.MethodGet, s.URL+"/c/nar/y.nar", ""); !errors.Is(err, upstream.ErrMiss) {
		t.Errorf("got %+v, %v, want a miss", resp, err)
	}
	fail.Store(true)
	for range 2 {
		if !u.Allow() {
			t.Error("it is left alone too early")
		}
		_, err := u.Narinfo(t.Context(), key, "/nix/store")
		u.Report(err == nil)
	}
	if u.Allow() {
		t.Error("it is not left alone")
	}
}

func TestHasUsesOneConnectionWithHTTP2(t *testing.T) {
	t.Parallel()
	s := upstreamtest.New("a")
	var http1 atomic.Bool
	s.Answer = func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		if r.ProtoMajor != 2 {
			http1.Store(true)
		}
		time.Sleep(5 * time.Millisecond)
		return false
	}
	opts := quick
	tr := upstream.NewTransport()
	conns := upstreamtest.StartTLS(t, s, tr)
	opts.Transport = tr
	u := open(t, s.URL, opts)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() { has(t, u, "a") })
	}
	wg.Wait()
	if http1.Load() || conns.Load() != 1 {
		t.Errorf("got %d connections, HTTP/1 on some: %t; want 1 with HTTP/2", conns.Load(), http1.Load())
	}
}

func TestHasKeepsConnectionsAlive(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request, int) bool{
		"HEAD": nil,
		"GET": func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if r.Method == http.MethodHead {
				w.WriteHeader(http.StatusMethodNotAllowed)
			}
			return r.Method == http.MethodHead
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var conns atomic.Int64
			s := upstreamtest.New("a")
			s.Answer = answer
			s.Server = httptest.NewUnstartedServer(s)
			s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					conns.Add(1)
				}
			}
			s.Start()
			t.Cleanup(s.Close)
			u := open(t, s.URL, quick)
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() {
					for range 50 {
						has(t, u, "a")
					}
				})
			}
			wg.Wait()
			// a few more than the workers, as a dial may lose to a connection that comes free
			if got := conns.Load(); got > 32 {
				t.Errorf("got %d connections for 800 look-ups by 16, want about 16", got)
			}
		})
	}
}

// A connection whose other end silently went away (a suspended laptop, a NAT
// that forgot) must not take all tries.
func TestHasLeavesADeadHTTP2Connection(t *testing.T) {
	t.Parallel()
	s := upstreamtest.New("a")
	tr := upstream.NewTransport()
	upstreamtest.StartTLS(t, s, tr)
	tr.HTTP2.SendPingTimeout, tr.HTTP2.PingTimeout = 100*time.Millisecond, 100*time.Millisecond
	var dead atomic.Bool
	relay, conns := startRelay(t, s.Listener.Addr().String(), &dead)
	opts := quick
	opts.Transport = tr
	u := open(t, "https://"+relay, opts)
	has(t, u, "a")
	dead.Store(true)
	start := time.Now()
	has(t, u, "a")
	if d := time.Since(start); d > 4*time.Second || conns.Load() != 2 {
		t.Errorf("took %s and %d connections, want a second one soon", d, conns.Load())
	}
}

// startRelay passes connections on to target. The first one carries nothing
// more once dead is set, and stays open.
func startRelay(t *testing.T, target string, dead *atomic.Bool) (addr string, conns *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	conns = new(atomic.Int64)
	pass := func(from, to net.Conn, first bool) {
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				_ = to.Close()
				return
			}
			if first && dead.Load() {
				continue
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				_ = in.Close()
				return
			}
			first := conns.Add(1) == 1
			go pass(in, out, first)
			go pass(out, in, first)
		}
	}()
	return l.Addr().String(), conns
}
