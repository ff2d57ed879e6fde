package registry

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/org/nixoci-action/internal/hint"
)

// Each row is one operation, what the registry does otherwise than usual, and
// the requests that follow the handshake.
func TestRequests(t *testing.T) {
	const small, large = 1000, 200_000
	unwell := answer(http.StatusServiceUnavailable, "GREMLINS", "an unfamiliar code")
	put := func(r *remote, t *testing.T) error {
		d, err := r.PutBlob(within(t, 10*time.Second), content(small))
		if err == nil && (d.Digest.String() != sha(content(small)) || d.Size != small) {
			t.Errorf("got descriptor %+v", d)
		}
		return err
	}
	// write streams n bytes and wants its function to be called so often
	write := func(n, calls int) func(*remote, *testing.T) error {
		return func(r *remote, t *testing.T) error {
			got := 0
			d, err := r.WriteBlob(within(t, 10*time.Second), writing(n, &got))
			if got != calls {
				t.Errorf("write was called %d times, want %d", got, calls)
			}
			if err == nil && (d.Digest.String() != sha(content(n)) || d.Size != int64(n)) {
				t.Errorf("got descriptor %+v", d)
			}
			return err
		}
	}
	manifest := func(r *remote, t *testing.T) error {
		raw := []byte(`{"schemaVersion":2}`)
		d, err := r.PutManifest(within(t, 10*time.Second), "v1", Manifest{MediaType: "application/x", Raw: raw})
		if err == nil && d.String() != sha(raw) {
			t.Errorf("got digest %s", d)
		}
		return err
	}
	tooLarge := answer(http.StatusRequestedRangeNotSatisfiable, "UNKNOWN", "exceeds the maximum permissible limit of 4.00MiB")

	tests := []struct {
		name  string
		auth  bool
		rules func(f *fake) []rule
		do    func(*remote, *testing.T) error
		want  string // space-separated methods
		fails string // part of the error; "" means none
	}{
		{name: "small blob", do: put, want: "POST PUT"},
		{name: "small stream", do: write(small, 1), want: "POST PUT"},
		{name: "empty stream", do: write(0, 1), want: "POST PUT"},
		{name: "large stream", do: write(large, 1), want: "POST PATCH PUT"},
		{name: "manifest", do: manifest, want: "PUT"},
		{name: "small blob with tokens", auth: true, do: put, want: "POST PUT"},
		{
			name: "start refused for a moment", do: put, want: "POST POST PUT",
			rules: func(*fake) []rule { return []rule{{kind: "POST upload", answer: unwell}} },
		}, {
			name: "end refused for a moment", do: put, want: "POST PUT POST PUT",
			rules: func(*fake) []rule { return []rule{{kind: "PUT upload", answer: unwell}} },
		}, {
			name: "end lost on the way", do: put, want: "POST PUT POST PUT",
			rules: func(*fake) []rule { return []rule{{kind: "PUT upload", answer: drop(10)}} },
		}, {
			name: "upload forgotten", do: put, want: "POST PUT POST PUT",
			rules: func(*fake) []rule {
				return []rule{{kind: "PUT upload", answer: answer(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")}}
			},
		}, {
			name: "a proxy's own status", do: put, want: "POST POST PUT",
			rules: func(*fake) []rule { return []rule{{kind: "POST upload", answer: answer(522, "", "")}} },
		}, {
			name: "unwell for good", do: put, want: "POST POST POST POST", fails: "an unfamiliar code",
			rules: func(*fake) []rule { return []rule{{kind: "POST upload", times: 99, answer: unwell}} },
		}, {
			name: "full for good", do: put, want: "POST PUT", fails: "no space left",
			rules: func(*fake) []rule {
				return []rule{{kind: "PUT upload", answer: answer(http.StatusInsufficientStorage, "X", "no space left")}}
			},
		}, {
			name: "denied", do: put, want: "POST", fails: "DENIED: permission_denied: write_package",
			rules: func(*fake) []rule {
				return []rule{{kind: "POST upload", answer: answer(403, "DENIED", "permission_denied: write_package")}}
			},
		}, {
			name: "repository must be created", do: put, want: "POST", fails: "NAME_UNKNOWN",
			rules: func(*fake) []rule { return []rule{{kind: "POST upload", answer: answer(404, "NAME_UNKNOWN", "x")}} },
		}, {
			name: "stream lost on the way", do: write(large, 2), want: "POST PATCH POST PATCH PUT",
			rules: func(*fake) []rule { return []rule{{kind: "PATCH upload", answer: drop(70_000)}} },
		}, {
			name: "stream refused after all of it", do: write(large, 2), want: "POST PATCH POST PATCH PUT",
			rules: func(*fake) []rule { return []rule{{kind: "PATCH upload", answer: unwell}} },
		}, {
			name: "stream's end refused", do: write(large, 3), want: "POST PATCH PUT POST PATCH PUT POST PATCH PUT",
			rules: func(*fake) []rule { return []rule{{kind: "PUT upload", times: 2, answer: unwell}} },
		}, {
			name: "stream taken for other bytes", do: write(large, 2), want: "POST PATCH PUT POST PATCH PUT",
			rules: func(*fake) []rule { return []rule{{kind: "PUT upload", answer: answer(400, "DIGEST_INVALID", "x")}} },
		}, {
			name: "small stream refused needs no second write", do: write(small, 1), want: "POST PUT POST PUT",
			rules: func(*fake) []rule { return []rule{{kind: "PUT upload", answer: unwell}} },
		}, {
			name: "token expired before the start", auth: true, do: put, want: "POST GET POST PUT",
			rules: func(f *fake) []rule { return []rule{{kind: "POST upload", answer: f.expired(0)}} },
		}, {
			name: "token expired before the end", auth: true, do: put, want: "POST PUT GET PUT",
			rules: func(f *fake) []rule { return []rule{{kind: "PUT upload", answer: f.expired(small)}} },
		}, {
			name: "token expired before a manifest", auth: true, do: manifest, want: "PUT GET PUT",
			rules: func(f *fake) []rule { return []rule{{kind: "PUT manifest", answer: f.expired(100)}} },
		}, {
			name: "token expired when a stream began", auth: true, do: write(large, 2), want: "POST PATCH GET POST PATCH PUT",
			rules: func(f *fake) []rule { return []rule{{kind: "PATCH upload", answer: f.expired(0)}} },
		}, {
			name: "token expired in the middle of a stream", auth: true, do: write(large, 2), want: "POST PATCH GET POST PATCH PUT",
			rules: func(f *fake) []rule { return []rule{{kind: "PATCH upload", answer: f.expired(70_000)}} },
		}, {
			name: "token expired at the end of a stream", auth: true, do: write(large, 2), want: "POST PATCH GET POST PATCH PUT",
			rules: func(f *fake) []rule { return []rule{{kind: "PATCH upload", answer: f.expired(large)}} },
		}, {
			name: "token expired after a stream", auth: true, do: write(large, 1), want: "POST PATCH PUT GET PUT",
			rules: func(f *fake) []rule { return []rule{{kind: "PUT upload", answer: f.expired(0)}} },
		}, {
			name: "streams refused", do: write(100_000, 2), want: "POST PATCH POST PATCH PATCH PATCH PATCH PUT",
			rules: func(*fake) []rule { return []rule{{kind: "PATCH upload", answer: tooLarge}} },
		}, {
			name: "chunk refused for a moment", do: write(100_000, 2), want: "POST PATCH POST PATCH PATCH PATCH PATCH PATCH PUT",
			rules: func(*fake) []rule {
				return []rule{{kind: "PATCH upload", answer: tooLarge}, {kind: "PATCH upload", answer: unwell}}
			},
		}, {
			name: "token expired in a chunk", auth: true, do: write(100_000, 2), want: "POST PATCH POST PATCH GET PATCH PATCH PATCH PATCH PUT",
			rules: func(f *fake) []rule {
				return []rule{{kind: "PATCH upload", answer: tooLarge}, {kind: "PATCH upload", answer: f.expired(100)}}
			},
		}, {
			name: "chunk's upload forgotten", do: write(100_000, 3), want: "POST PATCH POST PATCH POST PATCH PATCH PATCH PATCH PUT",
			rules: func(*fake) []rule {
				return []rule{{kind: "PATCH upload", answer: tooLarge}, {kind: "PATCH upload", answer: answer(404, "BLOB_UPLOAD_UNKNOWN", "x")}}
			},
		}, {
			name: "end with another digest", do: put, want: "POST PUT", fails: "stored sha256:",
			rules: func(f *fake) []rule {
				return []rule{{kind: "PUT upload", answer: func(w http.ResponseWriter, _ *http.Request) bool {
					w.Header().Set("Docker-Content-Digest", sha([]byte("other")))
					w.WriteHeader(http.StatusCreated)
					return true
				}}}
			},
		}, {
			name: "no location", do: put, want: "POST", fails: "no upload location",
			rules: func(f *fake) []rule {
				return []rule{{kind: "POST upload", answer: func(w http.ResponseWriter, _ *http.Request) bool {
					w.WriteHeader(http.StatusAccepted)
					return true
				}}}
			},
		}, {
			name: "location elsewhere without TLS", do: put, want: "POST", fails: "without TLS",
			rules: func(f *fake) []rule {
				return []rule{{kind: "POST upload", answer: withHeader("Location", "http://127.0.0.1:1/x", answer(http.StatusAccepted, "", ""))}}
			},
		}, {
			name: "redirect that would make a GET of it", do: put, want: "POST", fails: "302",
			rules: func(f *fake) []rule {
				return []rule{{kind: "POST upload", answer: withHeader("Location", "/elsewhere", answer(http.StatusFound, "", ""))}}
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.auth = tt.auth
			if tt.rules != nil {
				for _, r := range tt.rules(f) {
					f.rules = append(f.rules, &r)
				}
			}
			r := f.open()
			if _, err := r.connect(t.Context(), r.session); err != nil {
				t.Fatal(err)
			}
			f.log = nil
			err := tt.do(r, t)
			switch {
			case tt.fails == "" && err != nil:
				t.Errorf("got error %v", err)
			case tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails)):
				t.Errorf("got error %v, want one with %q", err, tt.fails)
			case errors.Is(err, ErrNotFound):
				t.Errorf("an upload found something absent: %v", err)
			}
			var methods []string
			for _, k := range f.requests() {
				m, _, _ := strings.Cut(k, " ")
				methods = append(methods, m)
			}
			if got := strings.Join(methods, " "); got != tt.want {
				t.Errorf("got requests %s, want %s", got, tt.want)
			}
		})
	}
}

// A registry that refuses streams is asked only once.
func TestChunksAreRemembered(t *testing.T) {
	f := newFake(t, rule{kind: "PATCH upload", answer: answer(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "x")})
	r := f.open()
	calls := 0
	for range 2 {
		if _, err := r.WriteBlob(t.Context(), writing(100_000, &calls)); err != nil {
			t.Fatal(err)
		}
	}
	if calls != 3 {
		t.Errorf("write was called %d times, want 2 and 1", calls)
	}
}

func TestHandshake(t *testing.T) {
	f := newFake(t)
	f.auth = true
	r := f.open()
	errs := make(chan error)
	for range 20 {
		go func() {
			_, err := r.PutBlob(t.Context(), []byte("x"))
			errs <- err
		}()
	}
	for range 20 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	got := f.requests()
	if n := len(got); n != 2+2*20 {
		t.Errorf("got %d requests, want one ping, one token and 40: %q", n, got)
	}
	if !slices.Equal(got[:2], []string{"GET /v2/", "GET /token"}) {
		t.Errorf("got %q first", got[:2])
	}
}

// A registry forgets tokens: what it refuses after it has worked is tried again
// with another handshake, also where the first new token is refused as well. A
// login that has never worked is not.
func TestTokenForgotten(t *testing.T) {
	f := newFake(t)
	f.auth = true
	r := f.open()
	if _, err := r.PutBlob(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"POST upload", "PUT upload", "HEAD manifest", "GET tags"} {
		f.rules = append(f.rules, &rule{kind: k, times: 2, answer: f.expired(0)})
	}
	if _, err := r.PutBlob(t.Context(), []byte("y")); err != nil {
		t.Error(err)
	}
	if _, err := r.Resolve(t.Context(), "v1"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if _, err := r.Tags(t.Context()); err != nil {
		t.Error(err)
	}

	f = newFake(t, rule{kind: "GET tags", times: 100, answer: func(w http.ResponseWriter, _ *http.Request) bool {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "no")
		return true
	}})
	if _, err := f.open().Tags(within(t, 10*time.Second)); !Denied(err) {
		t.Error(err)
	}
	if n := len(f.requests()); n > 4 {
		t.Errorf("a login that never worked was tried %d times: %q", n, f.requests())
	}
}

// Whoever waits for another's handshake still follows its own context.
func TestHandshakeOfAnotherHangs(t *testing.T) {
	f := newFake(t, rule{kind: "GET /v2/", times: 9, answer: hang})
	r := f.open()
	first := within(t, 5*time.Second)
	go r.Tags(first)
	for len(f.requests()) == 0 {
		time.Sleep(time.Millisecond)
	}
	start := time.Now()
	_, err := r.Tags(within(t, 50*time.Millisecond))
	if err == nil || time.Since(start) > time.Second {
		t.Errorf("got %v after %s", err, time.Since(start))
	}
}

// HTTP/2 is what ghcr.io speaks: the same bodies, other failures.
func TestHTTP2(t *testing.T) {
	f := newUnstartedFake(t)
	s := httptest.NewUnstartedServer(f)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	f.auth = true
	f.addr = strings.TrimPrefix(s.URL, "https://")
	tr := s.Client().Transport.(*http.Transport).Clone()
	f.opts.Transport = tr
	const large = 3 << 20
	tests := []struct {
		name  string
		rules []rule
		want  string
		calls int
	}{
		{"stream", nil, "POST PATCH PUT", 1},
		{"token expired in the middle", []rule{{kind: "PATCH upload", answer: f.expired(70_000)}}, "POST PATCH GET POST PATCH PUT", 2},
		{"token expired after it", []rule{{kind: "PUT upload", answer: f.expired(0)}}, "POST PATCH PUT GET PUT", 1},
		{"broken off", []rule{{kind: "PATCH upload", answer: drop(70_000)}}, "POST PATCH POST PATCH PUT", 2},
		{"unwell", []rule{{kind: "PATCH upload", answer: func(w http.ResponseWriter, r *http.Request) bool {
			fail(w, 500, "X", "before the body was read")
			return true
		}}}, "POST PATCH POST PATCH PUT", 2},
		{"streams refused", []rule{{kind: "PATCH upload", answer: func(w http.ResponseWriter, r *http.Request) bool {
			io.CopyN(io.Discard, r.Body, 100_000)
			fail(w, 413, "SIZE_INVALID", "before the body was read")
			return true
		}}}, "POST PATCH POST PATCH PATCH PATCH PUT", 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := f.open()
			r.chunk = 1 << 20
			if _, err := r.connect(t.Context(), r.session); err != nil {
				t.Fatal(err)
			}
			f.mu.Lock()
			f.log, f.rules = nil, nil
			for _, u := range tt.rules {
				f.rules = append(f.rules, &u)
			}
			f.mu.Unlock()
			calls := 0
			d, err := r.WriteBlob(within(t, 20*time.Second), writing(large, &calls))
			if err != nil || d.Digest.String() != sha(content(large)) || calls != tt.calls {
				t.Errorf("got %+v after %d calls, %v; want %d calls", d, calls, err, tt.calls)
			}
			var methods []string
			for _, k := range f.requests() {
				m, _, _ := strings.Cut(k, " ")
				methods = append(methods, m)
			}
			if got := strings.Join(methods, " "); got != tt.want {
				t.Errorf("got requests %s, want %s", got, tt.want)
			}
		})
	}
	t.Run("blob broken off", func(t *testing.T) {
		data := content(500_000)
		d := f.put(data)
		f.mu.Lock()
		f.rules = []*rule{{kind: "GET blob", answer: func(w http.ResponseWriter, _ *http.Request) bool {
			w.Write(data[:100_000])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}}}
		f.mu.Unlock()
		got, err := ReadBlob(within(t, 10*time.Second), f.open(), digestOf(t, d), int64(len(data)))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	})
}

func TestHints(t *testing.T) {
	tests := []struct {
		name     string
		rule     rule
		wantHint string
		denied   bool
	}{
		{"denied", rule{kind: "POST upload", answer: answer(403, "DENIED", "x")}, "docker login", true},
		{"unauthorized", rule{kind: "POST upload", answer: answer(401, "UNAUTHORIZED", "x")}, "docker login", true},
		{"denied with a login", rule{kind: "POST upload", answer: answer(403, "DENIED", "x")}, "there is a login", true},
		{"unauthorized with a login", rule{kind: "POST upload", answer: answer(401, "UNAUTHORIZED", "x")}, "there is a login", true},
		{"token refused", rule{kind: "GET /token", answer: answer(403, "DENIED", "x")}, "there is a login", true},
		{"Harbor's quota", rule{kind: "POST upload", answer: answer(403, "DENIED", "adding 5.0 MiB of storage resource, which when updated to current usage of 1.0 GiB will exceed the configured upper limit of 1.0 GiB.")}, "no room left", false},
		{"Quay's quota", rule{kind: "POST upload", answer: answer(403, "DENIED", "Quota has been exceeded on namespace")}, "no room left", false},
		{"ECR's quota", rule{kind: "POST upload", answer: answer(403, "DENIED", "The repository with name 'a' already has the maximum allowed number of images which is '10000'")}, "no room left", false},
		{"read-only", rule{kind: "POST upload", answer: answer(405, "UNSUPPORTED", "The operation is unsupported.")}, "read-only", false},
		{"no registry", rule{kind: "GET /v2/", answer: answer(404, "", "")}, "an OCI registry", false},
		{"too large", rule{kind: "PUT upload", answer: answer(413, "", "")}, "limits the size", false},
		{"too many", rule{kind: "POST upload", times: 9, answer: answer(429, "TOOMANYREQUESTS", "x")}, "fewer --jobs", false},
		{"something else", rule{kind: "POST upload", answer: answer(400, "X", "x")}, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, tt.rule)
			f.auth = tt.name == "token refused"
			if !f.auth && !strings.Contains(tt.name, "login") {
				f.opts.Keychain = authn.NewMultiKeychain() // which knows nobody
			}
			_, err := f.open().PutBlob(within(t, 10*time.Second), []byte("x"))
			if err == nil || !strings.Contains(hint.Of(err), tt.wantHint) || (hint.Of(err) == "") != (tt.wantHint == "") {
				t.Errorf("got %v with hint %q, want one about %q", err, hint.Of(err), tt.wantHint)
			}
			if Denied(err) != tt.denied {
				t.Errorf("Denied is %v for %v", Denied(err), err)
			}
			if !strings.Contains(err.Error(), "registry "+f.addr) {
				t.Errorf("the error does not say which side failed: %v", err)
			}
		})
	}
}

func TestHintsForGHCR(t *testing.T) {
	for push, want := range map[bool]string{true: "packages: write", false: "is the package public?"} {
		repo, err := Open("ghcr.io/o/r/c", Options{Push: push})
		if err != nil {
			t.Fatal(err)
		}
		if got := repo.(*remote).hint(&transport.Error{StatusCode: http.StatusForbidden}); !strings.Contains(got, want) {
			t.Errorf("push %v: got hint %q", push, got)
		}
	}
}
