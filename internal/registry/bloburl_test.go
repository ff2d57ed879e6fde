package registry

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func redirectTo(location string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return true
	}
}

func TestBlobURL(t *testing.T) {
	data := content(1000)
	signed := "http://127.0.0.1:1/store/x?X-Amz-Signature=a%2Bb%2F&X-Amz-Date=20260102T030405Z&X-Amz-Expires=300&A=1"
	for _, tc := range []struct {
		name    string
		answer  func(http.ResponseWriter, *http.Request) bool
		want    string
		expires time.Time
		err     error
	}{
		{name: "signed", answer: redirectTo(signed), want: signed, expires: time.Date(2026, 1, 2, 3, 9, 5, 0, time.UTC)},
		{name: "sent by the registry"},
		{name: "elsewhere in the registry", answer: redirectTo("/v2/other/blobs/x")},
		{name: "with a password", answer: redirectTo("http://u:p@127.0.0.1:1/x")},
		{name: "no URL", answer: redirectTo("http://127.0.0.1:1/x\x7f")},
		{name: "another scheme", answer: redirectTo("file:///etc/passwd")},
		{name: "too long", answer: redirectTo("http://127.0.0.1:1/x?" + strings.Repeat("a", maxBlobURL))},
		{name: "not there", answer: answer(404, "BLOB_UNKNOWN", "no"), err: ErrNotFound},
		{name: "after a failure", answer: nil, want: signed, expires: time.Date(2026, 1, 2, 3, 9, 5, 0, time.UTC)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rules := []rule{{kind: "GET blob", answer: tc.answer}}
			if tc.answer == nil {
				rules = nil
			}
			if tc.name == "after a failure" {
				rules = []rule{{kind: "GET blob", answer: answer(503, "UNAVAILABLE", "later")}, {kind: "GET blob", answer: redirectTo(signed)}}
			}
			f := newFake(t, rules...)
			f.auth = true
			digest := f.put(data)
			h, err := v1.NewHash(digest)
			if err != nil {
				t.Fatal(err)
			}
			got, expires, err := f.open().BlobURL(within(t, 10*time.Second), h)
			if got != tc.want || !expires.Equal(tc.expires) || !errors.Is(err, tc.err) {
				t.Errorf("got %q, %s, %v; want %q, %s, %v", got, expires, err, tc.want, tc.expires, tc.err)
			}
		})
	}
}

// Where clients are sent must be for everybody, and no less safe than the
// registry.
func TestBlobURLsForEverybody(t *testing.T) {
	for _, tc := range []struct {
		cache, location string
		want            bool
	}{
		{"ghcr.io/o/r", "https://pkg-containers.githubusercontent.com/x?se=1&sig=2", true},
		{"ghcr.io/o/r", "http://pkg-containers.githubusercontent.com/x", false},
		{"ghcr.io/o/r", "https://ghcr.io/x", false},
		{"ghcr.io/o/r", "https://127.0.0.1/x", false},
		{"ghcr.io/o/r", "https://localhost./x", false},
		{"ghcr.io/o/r", "https://a.localhost:8080/x", false},
		{"ghcr.io/o/r", "https://[::1]/x", false},
		{"ghcr.io/o/r", "https://[::ffff:10.1.2.3]/x", false},
		{"ghcr.io/o/r", "https://169.254.169.254/latest", false},
		{"ghcr.io/o/r", "https://0.0.0.0/x", false},
		{"http://10.1.2.3:5000/o/r", "http://10.1.2.4:9000/x?sig=1", true},
		{"http://10.1.2.3:5000/o/r", "https://s3.example.org/x?sig=1", true},
		{"localhost:5000/o/r", "http://127.0.0.1:9000/x?sig=1", true},
		{"localhost:5000/o/r", "http://localhost:5000/x?sig=1", false},
	} {
		repo, err := Open(tc.cache, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := repo.(*remote).public(tc.location); got != tc.want {
			t.Errorf("%s to %s: got %v, want %v", tc.cache, tc.location, got, tc.want)
		}
	}
}

func TestExpiry(t *testing.T) {
	for query, want := range map[string]time.Time{
		"X-Amz-Date=20260102T030405Z&X-Amz-Expires=60":                time.Date(2026, 1, 2, 3, 5, 5, 0, time.UTC),
		"X-Goog-Expires=60&X-Goog-Date=20260102T030405Z":              time.Date(2026, 1, 2, 3, 5, 5, 0, time.UTC),
		"se=2026-01-02T03%3A04%3A05Z&sig=x":                           time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		"Expires=1767323045&Signature=x":                              time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		"verify=1767323045-x":                                         {},
		"X-Amz-Date=today&X-Amz-Expires=60":                           {},
		"X-Amz-Date=20260102T030405Z&X-Amz-Expires=99999999999999999": {},
		"Expires=-1": {},
		"":           {},
	} {
		if got := expiry("https://s.example/x?" + query); !got.Equal(want) {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
}

// New credentials are used without a restart.
func TestRenew(t *testing.T) {
	f := newFake(t)
	f.auth = true
	r := f.open()
	h, err := v1.NewHash(f.put(content(100)))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for range 2 {
			if _, err := r.BlobSize(within(t, 10*time.Second), h); err != nil {
				t.Fatal(err)
			}
		}
		r.Renew()
	}
	tokens := 0
	for _, k := range f.requests() {
		if strings.Contains(k, "token") {
			tokens++
		}
	}
	if tokens != 2 {
		t.Errorf("got %d tokens, want one before Renew and one after: %v", tokens, f.requests())
	}
}

// Whatever a registry sends, a client is not sent back to it, nor to a place
// with a user or without TLS.
func FuzzBlobURL(f *testing.F) {
	for _, s := range []string{"https://s.example/x?se=2026-01-02T03:04:05Z", "//h/x", "http://s.example", "https://u@h/", "https://ghcr.io", "https://[::1%25lo]/"} {
		f.Add(s)
	}
	repo, err := Open("ghcr.io/o/r", Options{})
	if err != nil {
		f.Fatal(err)
	}
	r := repo.(*remote)
	f.Fuzz(func(t *testing.T, location string) {
		expiry(location)
		if !r.public(location) {
			return
		}
		u, err := url.Parse(location)
		if err != nil || u.Scheme != "https" || u.User != nil || u.Host == "ghcr.io" || strings.ContainsAny(location, " \r\n") {
			t.Errorf("%q is for everybody", location)
		}
	})
}
