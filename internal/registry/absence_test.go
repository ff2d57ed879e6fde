package registry

import (
	"errors"
	"net/http"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func digestOf(t testing.TB, s string) v1.Hash {
	t.Helper()
	h, err := v1.NewHash(s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// look-ups, each as a function of the repository
var lookups = map[string]struct {
	kind string
	do   func(*testing.T, Repository) error
}{
	"manifest": {"GET manifest", func(t *testing.T, r Repository) error {
		_, err := r.Manifest(within(t, 5*time.Second), "v1")
		return err
	}},
	"resolve": {"HEAD manifest", func(t *testing.T, r Repository) error {
		_, err := r.Resolve(within(t, 5*time.Second), "v1")
		return err
	}},
	"blob size": {"HEAD blob", func(t *testing.T, r Repository) error {
		_, err := r.BlobSize(within(t, 5*time.Second), digestOf(t, sha(nil)))
		return err
	}},
	"blob": {"GET blob", func(t *testing.T, r Repository) error {
		_, err := r.Blob(within(t, 5*time.Second), digestOf(t, sha(nil)), 0, -1)
		return err
	}},
}

func TestAbsence(t *testing.T) {
	tests := []struct {
		name   string
		auth   bool
		answer func(http.ResponseWriter, *http.Request) bool // of the look-up itself
		rule   rule                                          // of another request
		absent bool
	}{
		{name: "nothing there", absent: true},
		{name: "nothing there, with tokens", auth: true, absent: true},
		{name: "repository unknown", answer: answer(404, "NAME_UNKNOWN", "x"), absent: true},
		{name: "denied", answer: answer(403, "DENIED", "x")},
		{name: "gone, which is not in the specification", answer: answer(410, "", "")},
		{name: "unwell", answer: answer(500, "X", "x")},
		{name: "broken off", answer: drop(0)},
		{name: "bad request", answer: answer(400, "NAME_INVALID", "x")},
		{name: "no registry at this host", rule: rule{kind: "GET /v2/", times: 9, answer: answer(404, "", "")}},
		{name: "no such token service", auth: true, rule: rule{kind: "GET /token", times: 9, answer: answer(404, "", "")}},
		{
			name:   "storage elsewhere lost it",
			answer: withHeader("Location", "/storage/x?X-Signature=abc", answer(http.StatusTemporaryRedirect, "", "")),
			rule:   rule{kind: "GET /storage/x", times: 9, answer: answer(404, "", "")},
		},
	}
	for name, l := range lookups {
		for _, tt := range tests {
			if tt.name == "storage elsewhere lost it" && l.kind[:3] != "GET" {
				continue
			}
			t.Run(name+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				f := newFake(t)
				f.auth = tt.auth
				if tt.answer != nil {
					f.rules = append(f.rules, &rule{kind: l.kind, times: 9, answer: tt.answer})
				}
				if tt.rule.answer != nil {
					f.rules = append(f.rules, &tt.rule)
				}
				err := l.do(t, f.open())
				if err == nil || errors.Is(err, ErrNotFound) != tt.absent {
					t.Errorf("got %v, want absent: %v", err, tt.absent)
				}
			})
		}
	}
	t.Run("nobody listens", func(t *testing.T) {
		for name, l := range lookups {
			if err := l.do(t, quick(t, "127.0.0.1:1/a/b", Options{})); err == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("%s: got %v", name, err)
			}
		}
	})
}
