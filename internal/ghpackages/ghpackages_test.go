package ghpackages

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/registrytest"
	"github.com/org/nixoci-action/internal/retry"
)

// world is a package with a client that does not really wait.
type world struct {
	*registrytest.GitHub
	client *Client

	mu    sync.Mutex
	slept []time.Duration
	log   bytes.Buffer
}

func newWorld(t *testing.T, change func(*registrytest.GitHub)) *world {
	t.Helper()
	w := &world{GitHub: registrytest.NewGitHub(t)}
	if change != nil {
		change(w.GitHub)
	}
	c, err := New(w.Owner+"/"+w.Package, Options{
		API: w.API, UserAgent: "test", Logger: slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Token: func(context.Context) (string, error) { return w.Token, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	c.deletions = rate.NewLimiter(rate.Inf, 1)
	c.sleep = func(_ context.Context, d time.Duration) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.slept = append(w.slept, d)
		return nil
	}
	w.client = c
	t.Cleanup(func() {
		if strings.Contains(w.log.String(), "secret") {
			t.Errorf("the token is in the log:\n%s", w.log.String())
		}
	})
	return w
}

func digest(i int) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(fmt.Append(nil, i))) }

// refused wants a refusal with the words, which may be "" for anything.
func refused(t *testing.T, err error, all bool, words, remedy string) {
	t.Helper()
	var r *RefusedError
	if !errors.As(err, &r) || r.All != all || !strings.Contains(r.Reason, words) || !strings.Contains(r.Remedy, remedy) {
		t.Errorf("got %v (%+v), want a refusal of all: %t, with %q and %q", err, r, all, words, remedy)
	}
	if err != nil && (strings.Contains(err.Error(), "secret") || len(err.Error()) > 2*maxWords) {
		t.Errorf("the error is %v", err)
	}
}

func TestVersions(t *testing.T) {
	for name, change := range map[string]func(*registrytest.GitHub){
		"/users/owner": nil,
		"/orgs/owner":  func(g *registrytest.GitHub) { g.Organization = true },
		"/user":        func(g *registrytest.GitHub) { g.Self, g.Private = true, true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, change)
			const n = 2*perPage + 1
			for i := range n {
				if i%2 == 0 {
					w.Add(digest(i))
				} else {
					w.Add(digest(i), "tag"+strconv.Itoa(i), "also")
				}
			}
			got, err := w.client.Versions(t.Context())
			if err != nil || len(got) != n {
				t.Fatalf("got %d, %v", len(got), err)
			}
			slices.SortFunc(got, func(a, b Version) int { return int(a.ID - b.ID) })
			for i, v := range got {
				if v.Digest != digest(i) || len(v.Tags) != i%2*2 || i%2 == 1 && v.Tags[0] != "tag"+strconv.Itoa(i) || v.Changed.IsZero() {
					t.Errorf("%d: got %+v", i, v)
				}
				if one, err := w.client.Version(t.Context(), v.ID); err != nil || one.Digest != v.Digest || len(one.Tags) != len(v.Tags) {
					t.Errorf("%d: got %+v, %v", i, one, err)
				}
			}
			want := "GET " + name + "/packages/container/repo%2Fnix-cache/versions?per_page=100&page=3"
			if !slices.Contains(w.Requests(), want) {
				t.Errorf("no %s among %q", want, w.Requests()[:8])
			}
			for range 2 { // what is gone can be deleted again
				if err := w.client.Delete(t.Context(), got[0].ID); err != nil {
					t.Error(err)
				}
			}
			if left := w.Versions(); len(left) != n-1 || slices.ContainsFunc(left, func(v registrytest.GitHubVersion) bool { return v.ID == got[0].ID }) {
				t.Errorf("%d versions are left", len(left))
			}
		})
	}
}

// The later of the two times counts.
func TestVersionChanged(t *testing.T) {
	early, late := time.Unix(1, 0), time.Unix(2, 0)
	var v version
	v.ID, v.Name, v.CreatedAt, v.UpdatedAt = 1, "x", early, late
	if _, err := v.decode(); err == nil {
		t.Error("a version without a list of tags was taken for one without tags")
	}
	v.Metadata = &struct {
		Container *struct {
			Tags []string `json:"tags"`
		} `json:"container"`
	}{&struct {
		Tags []string `json:"tags"`
	}{[]string{}}}
	for range 2 {
		if got, err := v.decode(); err != nil || !got.Changed.Equal(late) {
			t.Errorf("got %+v, %v", got, err)
		}
		v.CreatedAt, v.UpdatedAt = late, early
	}
}

// What GitHub is documented to refuse, and what users have seen.
func TestRefusals(t *testing.T) {
	says := func(status int, message string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodDelete {
				registrytest.GitHubError(w, status, message)
			}
			return r.Method == http.MethodDelete
		}
	}
	for name, tt := range map[string]struct {
		change        func(*registrytest.GitHub)
		answer        func(http.ResponseWriter, *http.Request) bool
		all           bool
		words, remedy string
	}{
		"no admin":      {change: func(g *registrytest.GitHub) { g.Role = "write" }, all: true, words: "Package not found.", remedy: "Manage Actions access"},
		"no scope":      {answer: says(403, "You need at least delete:packages scope to delete a package version."), all: true, words: "delete:packages", remedy: "delete:packages"},
		"no permission": {answer: says(403, "Resource not accessible by integration"), all: true, words: "integration", remedy: "packages: write"},
		"expired":       {answer: says(401, "Bad credentials"), all: true, words: "Bad credentials", remedy: "expired"},
		"last":          {answer: says(400, "You cannot delete the last tagged version of a package. You must delete the package instead."), words: "last tagged", remedy: "whole package"},
		"downloads":     {answer: says(400, "Publicly visible package versions with more than 5000 downloads cannot be deleted. Contact GitHub support for further assistance."), words: "5000", remedy: "support"},
		"another":       {answer: says(422, "Validation failed"), words: "Validation failed"},
		"long":          {answer: says(400, strings.Repeat("x", 100_000)), words: "xxx…"},
		"not JSON": {words: "Bad Request", answer: func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodDelete {
				http.Error(w, "<html>", 400)
			}
			return r.Method == http.MethodDelete
		}},
		"to elsewhere": {all: true, answer: func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodDelete {
				http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
			}
			return r.Method == http.MethodDelete
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tt.change)
			w.Add(digest(1), "a")
			id := w.Add(digest(2), "b")
			w.Answer(tt.answer)
			refused(t, w.client.Delete(t.Context(), id), tt.all, tt.words, tt.remedy)
			if len(w.Versions()) != 2 {
				t.Error("it is gone")
			}
			deletions := 0
			for _, r := range w.Requests() {
				if strings.HasPrefix(r, "DELETE ") {
					deletions++
				}
			}
			if deletions != 1 || len(w.slept) > 0 {
				t.Errorf("%d requests, slept %v", deletions, w.slept)
			}
		})
	}
	t.Run("only one tagged version", func(t *testing.T) {
		w := newWorld(t, nil)
		refused(t, w.client.Delete(t.Context(), w.Add(digest(1), "a")), false, "last tagged", "whole package")
	})
}

// A package that is not shown is no empty package.
func TestHidden(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*registrytest.GitHub)
		token  string
		words  string
		absent bool
	}{
		"no access":      {change: func(g *registrytest.GitHub) { g.Role = "" }, token: "right", words: "Package not found.", absent: true},
		"in an org":      {change: func(g *registrytest.GitHub) { g.Role, g.Organization = "", true }, token: "right", words: "Package not found.", absent: true},
		"private":        {change: func(g *registrytest.GitHub) { g.Private = true }, token: "right", words: "Package not found.", absent: true},
		"nobody's owner": {change: func(g *registrytest.GitHub) { g.Owner = "somebody" }, token: "right", words: "Not Found", absent: true},
		"no token":       {words: "Requires authentication"},
		"wrong token":    {token: "wrong", words: "Bad credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			id := w.Add(digest(1), "a")
			if tt.change != nil {
				tt.change(w.GitHub)
			}
			token := tt.token
			if token == "right" {
				token = w.Token
			}
			w.client.opts.Token = func(context.Context) (string, error) { return token, nil }
			_, err := w.client.Versions(t.Context())
			refused(t, err, true, tt.words, "token")
			if errors.Is(err, ErrNotFound) != tt.absent {
				t.Errorf("got %v", err)
			}
			if err := w.client.Delete(t.Context(), id); err == nil && !w.Organization {
				t.Error("a version of a package that was never seen counts as deleted")
			}
		})
	}
}

// Limits are waited for, as long as GitHub says and no longer than we may.
func TestRateLimits(t *testing.T) {
	header := func(status int, message string, pairs ...string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			for i := 0; i < len(pairs); i += 2 {
				w.Header().Set(pairs[i], pairs[i+1])
			}
			registrytest.GitHubError(w, status, message)
		}
	}
	inFuture := func(d time.Duration) string { return strconv.FormatInt(time.Now().Add(d).Unix(), 10) }
	for name, tt := range map[string]struct {
		answer func(http.ResponseWriter)
		times  int
		slept  []time.Duration // within five seconds
		fails  bool
	}{
		"retry-after":         {answer: header(429, "x", "Retry-After", "7"), times: 2, slept: []time.Duration{7 * time.Second, 7 * time.Second}},
		"retry-after 403":     {answer: header(403, "x", "Retry-After", "7"), times: 1, slept: []time.Duration{7 * time.Second}},
		"retry-after of zero": {answer: header(403, "x", "Retry-After", "0"), times: 1, slept: []time.Duration{time.Second}},
		"primary":             {answer: header(403, "API rate limit exceeded", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", inFuture(5*time.Minute)), times: 1, slept: []time.Duration{5 * time.Minute}},
		"primary, just over":  {answer: header(403, "x", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", inFuture(-time.Hour)), times: 1, slept: []time.Duration{time.Second}},
		"secondary":           {answer: header(403, "You have exceeded a secondary rate limit."), times: 3, slept: []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute}},
		"nothing said":        {answer: header(429, "x"), times: 1, slept: []time.Duration{time.Minute}},
		"too long":            {answer: header(403, "x", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", inFuture(50*time.Minute)), times: 1, fails: true},
		"absurdly long":       {answer: header(429, "x", "Retry-After", "9223372036854775807"), times: 1, fails: true},
		"too long together":   {answer: header(429, "x", "Retry-After", "400"), times: 99, slept: []time.Duration{400 * time.Second, 400 * time.Second}, fails: true},
		"too long in all":     {answer: header(429, "x"), times: 99, slept: []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.Add(digest(1), "a")
			id := w.Add(digest(2), "b")
			var mu sync.Mutex
			left := tt.times
			w.Answer(func(rw http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				if r.Method != http.MethodDelete || left == 0 {
					return false
				}
				left--
				tt.answer(rw)
				return true
			})
			err := w.client.Delete(t.Context(), id)
			if (err != nil) != tt.fails || errors.As(err, new(*RefusedError)) {
				t.Errorf("got %v", err)
			}
			if tt.fails && !strings.Contains(hint.Of(err), "next run") {
				t.Errorf("got hint %q of %v", hint.Of(err), err)
			}
			if !slices.EqualFunc(w.slept, tt.slept, func(a, b time.Duration) bool { return a > b-5*time.Second && a < b+5*time.Second && a > 0 }) {
				t.Errorf("slept %v, want %v", w.slept, tt.slept)
			}
		})
	}
}

func TestTransient(t *testing.T) {
	for name, tt := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		times  int
		fails  string
		hint   string
	}{
		"502 once":       {answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }, times: 1},
		"502 for good":   {answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }, times: 99, fails: "Bad Gateway", hint: "later"},
		"dropped once":   {answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, times: 1},
		"dropped always": {answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, times: 99, fails: "EOF"},
		"cut off once": {times: 1, answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, "[")
		}},
		"hangs":   {times: 99, fails: "deadline exceeded", answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		"no JSON": {times: 99, fails: "decoding", answer: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }},
		"no tags": {times: 99, fails: "documented", answer: func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `[{"id":1,"name":"sha256:x","created_at":"2026-01-01T00:00:00Z"}]`)
		}},
		"tags left out": {times: 99, fails: "documented", answer: func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `[{"id":1,"name":"sha256:x","created_at":"2026-01-01T00:00:00Z","metadata":{"container":{}}}]`)
		}},
		"endless": {times: 99, fails: "longer than", answer: func(w http.ResponseWriter, r *http.Request) {
			for chunk := bytes.Repeat([]byte(" "), 1<<20); r.Context().Err() == nil; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			if name == "hangs" {
				w.client.timeout = 20 * time.Millisecond
			}
			w.Add(digest(1), "a")
			var mu sync.Mutex
			left := tt.times
			w.Answer(func(rw http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				hit := left > 0 && strings.Contains(r.URL.RawQuery, "page=1") && strings.Contains(r.URL.RawQuery, "per_page=100")
				if hit {
					left--
				}
				mu.Unlock()
				if hit {
					tt.answer(rw, r)
				}
				return hit
			})
			got, err := w.client.Versions(t.Context())
			switch {
			case tt.fails == "" && (err != nil || len(got) != 1):
				t.Errorf("got %v, %v", got, err)
			case tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails) || errors.As(err, new(*RefusedError)) || !strings.Contains(hint.Of(err), tt.hint)):
				t.Errorf("got %v, hint %q", err, hint.Of(err))
			}
		})
	}
}

// A deletion whose answer was lost has happened.
func TestDeleteTwice(t *testing.T) {
	w := newWorld(t, nil)
	w.Add(digest(1), "a")
	id := w.Add(digest(2), "b")
	once := true
	w.Answer(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete && once {
			once = false
			w.Vanish(digest(2))
			registrytest.GitHubError(rw, http.StatusBadGateway, "Server Error")
			return true
		}
		return false
	})
	if err := w.client.Delete(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// Waiting ends with the context.
func TestCanceled(t *testing.T) {
	w := newWorld(t, nil)
	w.client.sleep = retry.Sleep
	ctx, cancel := context.WithCancel(t.Context())
	w.Answer(func(rw http.ResponseWriter, _ *http.Request) bool {
		cancel()
		rw.Header().Set("Retry-After", "600")
		registrytest.GitHubError(rw, 429, "x")
		return true
	})
	if _, err := w.client.Versions(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Pages are counted, not followed: no answer leads elsewhere.
func TestEndlessPages(t *testing.T) {
	w := newWorld(t, nil)
	w.Answer(func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.RawQuery, "per_page=100") {
			return false
		}
		rw.Header().Set("Link", `<http://127.0.0.1:1/>; rel="next"`)
		fmt.Fprint(rw, `[{"id":1,"name":"x","created_at":"2026-01-01T00:00:00Z","metadata":{"container":{"tags":[]}}}]`)
		return true
	})
	if _, err := w.client.Versions(t.Context()); err == nil || !strings.Contains(err.Error(), "pages") {
		t.Errorf("got %v", err)
	}
}

func TestNew(t *testing.T) {
	for _, bad := range []struct{ repository, api string }{
		{"owner", ""}, {"owner/", ""}, {"/name", ""}, {"o/n", "http://user:secret@host"}, {"o/n", "ftp://host"}, {"o/n", "host"}, {"o/n", "https://host?token=secret"}, {"o/n", "http://[secret"},
	} {
		if _, err := New(bad.repository, Options{API: bad.api}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: got %v", bad, err)
		}
	}
	c, err := New("owner/a/b", Options{API: "https://host/api/v3/"})
	if err != nil || c.base+c.below("/orgs/owner") != "https://host/api/v3/orgs/owner/packages/container/a%2Fb/versions" {
		t.Errorf("got %v", err)
	}
	if c, err := New("o/n", Options{}); err != nil || c.base != PublicAPI {
		t.Errorf("got %+v, %v", c, err)
	}
}
