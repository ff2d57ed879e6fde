package registry

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestManifest(t *testing.T) {
	raw := []byte(`{"schemaVersion":2}`)
	serve := func(body []byte, digest string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", "application/x; charset=utf-8")
			if digest != "" {
				w.Header().Set("Docker-Content-Digest", digest)
			}
			w.Write(body)
			return true
		}
	}
	tests := []struct {
		name, ref string
		answer    func(http.ResponseWriter, *http.Request) bool
		fails     string
	}{
		{"by tag", "v1", serve(raw, sha(raw)), ""},
		{"by tag, no digest", "v1", serve(raw, ""), ""},
		{"by tag, another digest", "v1", serve(raw, sha(nil)), "was to have the digest"},
		{"by digest", sha(raw), serve(raw, ""), ""},
		{"by digest, other bytes", sha(raw), serve([]byte("{}"), sha(raw)), "was to have the digest"},
		{"as large as can be", "v1", serve(make([]byte, MaxManifestSize), ""), ""},
		{"too large", "v1", serve(make([]byte, MaxManifestSize+1), ""), "longer than 4194304 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, rule{kind: "GET manifest", times: 9, answer: tt.answer})
			m, err := f.open().Manifest(within(t, 10*time.Second), tt.ref)
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Errorf("got %v, want an error with %q", err, tt.fails)
				}
				if n := len(f.requests()); n != 2 {
					t.Errorf("got %d requests, want 2: it will not change", n)
				}
				return
			}
			if err != nil || m.MediaType != "application/x" || m.Digest.String() != sha(m.Raw) {
				t.Errorf("got %s %s, %d bytes, %v", m.MediaType, m.Digest, len(m.Raw), err)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	raw := []byte(`{"schemaVersion":2}`)
	f := newFake(t)
	f.manifests["v1"] = raw
	r := f.open()
	check := func(requests ...string) {
		t.Helper()
		f.log = nil
		d, err := r.Resolve(t.Context(), "v1")
		if err != nil || d.String() != sha(raw) {
			t.Errorf("got %s, %v", d, err)
		}
		if got := f.requests(); !slices.Equal(got, requests) {
			t.Errorf("got requests %q, want %q", got, requests)
		}
	}
	check("GET /v2/", "HEAD manifest")
	check("HEAD manifest")
	f.rules = []*rule{{kind: "HEAD manifest", answer: func(http.ResponseWriter, *http.Request) bool { return true }}}
	check("HEAD manifest", "GET manifest") // which is allowed to registries
	f.rules = []*rule{{kind: "HEAD manifest", answer: func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Docker-Content-Digest", "md5:123")
		return true
	}}}
	if d, err := r.Resolve(t.Context(), "v1"); err == nil {
		t.Errorf("got %s", d)
	}
}

func TestMissingBlobs(t *testing.T) {
	have, lost1, lost2, config := sha([]byte("have")), sha([]byte("lost1")), sha([]byte("lost2")), sha([]byte("{}"))
	raw := fmt.Appendf(nil, `{"schemaVersion":2,"config":{"digest":%q},"layers":[{"digest":%q},{"digest":%q},{"digest":%q}]}`, config, have, lost1, lost2)
	details := func(status int, errs string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"errors":[%s]}`, errs)
			return true
		}
	}
	unknown := func(d string) string {
		return fmt.Sprintf(`{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown to registry","detail":{"digest":%q}}`, d)
	}
	tests := []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request) bool
		want   []string // nil: not a *MissingBlobsError
		heads  int
	}{
		{"distribution", details(400, unknown(lost1)+","+unknown(lost2)), []string{lost1, lost2}, 0},
		{"detail is text", details(404, `{"code":"BLOB_UNKNOWN","message":"x","detail":"blob `+lost1+` of y"}`), []string{lost1}, 0},
		{"named twice", details(400, unknown(lost1)+","+unknown(lost1)), []string{lost1}, 0},
		{"a blob that we never named", details(400, unknown(sha([]byte("z")))), []string{lost1, lost2}, 4},
		{"without a name", details(400, `{"code":"MANIFEST_BLOB_UNKNOWN","message":"x"}`), []string{lost1, lost2}, 4},
		{"zot", details(400, `{"code":"MANIFEST_INVALID","message":"manifest invalid","detail":{"reference":"v1"}}`), []string{lost1, lost2}, 4},
		{"another reason", details(400, `{"code":"TAG_INVALID","message":"x"}`), nil, 0},
		{"denied", details(403, `{"code":"DENIED","message":"x"}`), nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, rule{kind: "PUT manifest", answer: tt.answer})
			f.put([]byte("have"))
			f.put([]byte("{}"))
			_, err := f.open().PutManifest(within(t, 5*time.Second), "v1", Manifest{MediaType: "x/y", Raw: raw})
			var missing *MissingBlobsError
			if errors.As(err, &missing) != (tt.want != nil) || errors.Is(err, ErrNotFound) {
				t.Fatalf("got %v", err)
			}
			heads := 0
			for _, k := range f.requests() {
				if k == "HEAD blob" {
					heads++
				}
			}
			if heads != tt.heads {
				t.Errorf("got %d look-ups of blobs, want %d", heads, tt.heads)
			}
			if missing == nil {
				return
			}
			want := slices.Clone(tt.want)
			slices.Sort(want)
			var got []string
			for _, d := range missing.Digests {
				got = append(got, d.String())
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	t.Run("invalid for another reason", func(t *testing.T) {
		f := newFake(t, rule{kind: "PUT manifest", answer: details(400, `{"code":"MANIFEST_INVALID","message":"x"}`)})
		for _, s := range []string{"have", "lost1", "lost2", "{}"} {
			f.put([]byte(s))
		}
		_, err := f.open().PutManifest(within(t, 5*time.Second), "v1", Manifest{MediaType: "x/y", Raw: raw})
		if err == nil || errors.As(err, new(*MissingBlobsError)) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("all are there a moment later", func(t *testing.T) {
		f := newFake(t, rule{kind: "PUT manifest", answer: details(404, `{"code":"BLOB_UNKNOWN","message":"x"}`)})
		for _, s := range []string{"have", "lost1", "lost2", "{}"} {
			f.put([]byte(s))
		}
		if _, err := f.open().PutManifest(within(t, 5*time.Second), "v1", Manifest{MediaType: "x/y", Raw: raw}); err != nil {
			t.Error(err)
		}
	})
	t.Run("what cannot be looked up is not missing", func(t *testing.T) {
		f := newFake(t,
			rule{kind: "PUT manifest", answer: details(400, `{"code":"MANIFEST_INVALID","message":"x"}`)},
			rule{kind: "HEAD blob", times: 99, answer: answer(403, "DENIED", "x")})
		_, err := f.open().PutManifest(within(t, 5*time.Second), "v1", Manifest{MediaType: "x/y", Raw: raw})
		if err == nil || errors.As(err, new(*MissingBlobsError)) {
			t.Errorf("got %v", err)
		}
	})
}

func TestBlobsOf(t *testing.T) {
	for raw, want := range map[string]int{`{}`: 0, `nonsense`: 0, `{"layers":[{"digest":"` + sha(nil) + `"}]}`: 1, `{"config":{"digest":"` + sha(nil) + `"}}`: 1} {
		if got := blobsOf(Manifest{Raw: []byte(raw)}); len(got) != want || slices.Contains(got, v1.Hash{}) {
			t.Errorf("%s: got %v", raw, got)
		}
	}
}
