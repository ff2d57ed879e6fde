package registry

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/registrytest"
)

// put stores an image and returns its digest.
func put(t *testing.T, r Repository, tag string) v1.Hash {
	t.Helper()
	if err := putImage(t.Context(), r, tag); err != nil {
		t.Fatal(err)
	}
	digest, err := r.Resolve(t.Context(), tag)
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// retag stores the manifest that one tag has under another as well.
func retag(t *testing.T, r Repository, from, to string) {
	t.Helper()
	m, err := r.Manifest(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.PutManifest(t.Context(), to, m); err != nil {
		t.Fatal(err)
	}
}

// tagsOf lists the tags, sorted.
func tagsOf(t *testing.T, r Repository) string {
	t.Helper()
	tags, err := r.Tags(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(tags)
	return strings.Join(tags, " ")
}

// What is deleted is gone with its tag, and nothing else is.
func TestDeleteManifest(t *testing.T) {
	everywhere(t, func(t *testing.T, r Repository) {
		ctx := within(t, 60*time.Second)
		a, b, c := put(t, r, "a"), put(t, r, "b"), put(t, r, "c")
		if err := r.DeleteManifest(ctx, "a", a); err != nil {
			t.Fatal(err)
		}
		if got := tagsOf(t, r); got != "b c" {
			t.Errorf("got tags %q", got)
		}
		if _, err := r.Manifest(ctx, "a"); !errors.Is(err, ErrNotFound) {
			t.Errorf("the tag is there: %v", err)
		}
		for range 2 { // what is gone can be deleted again
			if err := r.DeleteManifest(ctx, "a", a); err != nil {
				t.Errorf("deleting it again: %v", err)
			}
		}
		// a tag that points elsewhere stays, and what it points to
		if err := r.DeleteManifest(ctx, "b", a); err != nil {
			t.Error(err)
		}
		for tag, want := range map[string]v1.Hash{"b": b, "c": c} {
			m, err := r.Manifest(ctx, tag)
			if err != nil || m.Digest != want {
				t.Errorf("%s: got %s, %v", tag, m.Digest, err)
			}
			for _, blob := range blobsOf(m) {
				if _, err := r.BlobSize(ctx, blob); err != nil {
					t.Errorf("%s lost a blob: %v", tag, err)
				}
			}
		}
		// nor is the wish to be served by the wrong tag
		if err := r.DeleteManifest(ctx, "b", c); err != nil {
			t.Error(err)
		}
		if have, err := r.Resolve(ctx, "b"); err != nil || have != b {
			t.Errorf("b: got %s, %v", have, err)
		}
	})
}

// An empty repository, or none, has nothing to delete.
func TestDeleteManifestOfNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, r Repository) {
		if err := r.DeleteManifest(within(t, 20*time.Second), "a", digestOf(t, sha(nil))); err != nil {
			t.Error(err)
		}
		if hs, err := r.Untagged(t.Context(), time.Now()); len(hs) > 0 || err != nil {
			t.Errorf("got untagged %v, %v", hs, err)
		}
		if freed, err := r.Collect(t.Context(), time.Now()); freed != (Freed{}) || err != nil {
			t.Errorf("freed %+v, %v", freed, err)
		}
	})
}

func TestDistributionDeletes(t *testing.T) {
	d := registrytest.NewDistribution(t)
	r := quick(t, d.Addr+"/a/b", Options{Push: true})
	digest := put(t, r, "a")
	retag(t, r, "a", "also-a")
	put(t, r, "b")
	size := d.Size(t)
	if err := r.DeleteManifest(t.Context(), "a", digest); err != nil {
		t.Fatal(err)
	}
	if got := tagsOf(t, r); got != "b" {
		t.Errorf("got tags %q", got)
	}
	d.Collect(t)
	if freed := size - d.Size(t); freed < 100_000 {
		t.Errorf("the registry then freed %d bytes, want those of two layers", freed)
	}
	if m, err := r.Manifest(t.Context(), "b"); err != nil || len(r.lookFor(t.Context(), blobsOf(m))) > 0 {
		t.Errorf("b is damaged: %v", err)
	}
}

// Distribution deletes nothing unless it is told to.
func TestDistributionRefuses(t *testing.T) {
	r := quick(t, registrytest.NewUndeleting(t).Addr+"/a/b", Options{Push: true})
	digest := put(t, r, "a")
	err := r.DeleteManifest(t.Context(), "a", digest)
	var refused *RefusedError
	if !errors.As(err, &refused) || !refused.All {
		t.Fatalf("got %v", err)
	}
	if refused.Reason != "UNSUPPORTED: The operation is unsupported." || !strings.Contains(refused.Remedy, "REGISTRY_STORAGE_DELETE_ENABLED=true") {
		t.Errorf("got reason %q, remedy %q", refused.Reason, refused.Remedy)
	}
	if have, err := r.Resolve(t.Context(), "a"); have != digest || err != nil {
		t.Errorf("got %s, %v", have, err)
	}
}

// Answers to the deletion of v1, as registries give them.
func TestDeletion(t *testing.T) {
	lost := answer(404, "NAME_UNKNOWN", "repository name not known to registry")
	status := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(code); return true }
	}
	html := func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "<html>nothing here</html>", http.StatusNotFound)
		return true
	}
	tests := []struct {
		name  string
		auth  bool
		keeps bool   // its tags
		tag   string // to be deleted; v1 if empty
		rules []rule
		want  string // the requests
		all   bool   // refused for everything
		one   bool   // refused for this
		fails string // part of the error
	}{
		{name: "202", want: "DELETE HEAD"},
		{name: "with tokens", auth: true, want: "DELETE HEAD"},
		{name: "200", rules: []rule{{kind: "DELETE manifest", answer: status(200)}}, want: "DELETE HEAD DELETE"},
		{name: "204", rules: []rule{{kind: "DELETE manifest", answer: status(204)}}, want: "DELETE HEAD DELETE"},
		{name: "tags stay", keeps: true, want: "DELETE HEAD DELETE"},
		{name: "another tag stays", keeps: true, tag: "v2", want: "DELETE HEAD"},
		{name: "deleted but for the tag", keeps: true, rules: []rule{{kind: "DELETE manifest", answer: answer(404, "MANIFEST_UNKNOWN", "unknown")}}, want: "DELETE HEAD DELETE"},
		{name: "unwell for a moment", rules: []rule{{kind: "DELETE manifest", times: 2, answer: answer(503, "X", "x")}}, want: "DELETE DELETE DELETE HEAD"},
		{name: "done, but the answer was lost", rules: []rule{{kind: "DELETE manifest", answer: drop(0)}, {kind: "DELETE manifest", answer: answer(404, "MANIFEST_UNKNOWN", "unknown")}, {kind: "HEAD manifest", answer: answer(404, "", "")}}, want: "DELETE DELETE HEAD"},
		{name: "too many requests", rules: []rule{{kind: "DELETE manifest", answer: answer(429, "TOOMANYREQUESTS", "x")}}, want: "DELETE DELETE HEAD"},
		{name: "unwell for good", rules: []rule{{kind: "DELETE manifest", times: 9, answer: answer(500, "X", "gremlins")}}, want: "DELETE DELETE DELETE DELETE", fails: "gremlins"},
		{name: "too many for good", rules: []rule{{kind: "DELETE manifest", times: 9, answer: answer(429, "TOOMANYREQUESTS", "slow down")}}, want: "DELETE DELETE DELETE DELETE", fails: "slow down"},

		// not found, but what?
		{name: "the repository is gone", rules: []rule{{kind: "DELETE manifest", answer: lost}, {kind: "HEAD manifest", times: 2, answer: answer(404, "", "")}}, want: "DELETE HEAD HEAD"},
		{name: "the repository is hidden", rules: []rule{{kind: "DELETE manifest", times: 9, answer: lost}}, want: "DELETE HEAD", all: true, fails: "NAME_UNKNOWN"},
		{name: "deletion is hidden", rules: []rule{{kind: "DELETE manifest", times: 9, answer: html}}, want: "DELETE HEAD", all: true, fails: "nothing here"},
		{name: "is it there?", rules: []rule{{kind: "DELETE manifest", times: 9, answer: lost}, {kind: "HEAD manifest", times: 9, answer: answer(403, "", "")}}, want: "DELETE HEAD", fails: "403"},
		{name: "does the tag still point there?", rules: []rule{{kind: "HEAD manifest", times: 9, answer: answer(403, "", "")}}, want: "DELETE HEAD", fails: "403"},

		// distribution, 2.8.2 and 3.1.2, with deletion disabled
		{name: "405 unsupported", rules: []rule{{kind: "DELETE manifest", answer: answer(405, "UNSUPPORTED", "The operation is unsupported.")}}, want: "DELETE", all: true, fails: "UNSUPPORTED: The operation is unsupported."},
		{name: "405 without words", rules: []rule{{kind: "DELETE manifest", answer: status(405)}}, want: "DELETE", all: true, fails: "405"},
		// zot: a part of an index; a policy
		{name: "405 denied", rules: []rule{{kind: "DELETE manifest", answer: answer(405, "DENIED", "part of an index")}}, want: "DELETE", one: true, fails: "part of an index"},
		{name: "403", auth: true, rules: []rule{{kind: "DELETE manifest", answer: answer(403, "DENIED", "requested access to the resource is denied")}}, want: "DELETE", all: true, fails: "requested access"},
		{name: "409", rules: []rule{{kind: "DELETE manifest", answer: answer(409, "MANIFEST_INVALID", "conflict")}}, want: "DELETE", one: true, fails: "conflict"},
		{name: "412", rules: []rule{{kind: "DELETE manifest", answer: answer(412, "PRECONDITION", "immutable tag")}}, want: "DELETE", one: true, fails: "immutable"},
		{name: "501", rules: []rule{{kind: "DELETE manifest", answer: answer(501, "UNSUPPORTED", "no")}}, want: "DELETE", all: true, fails: "no"},
		{name: "400", rules: []rule{{kind: "DELETE manifest", answer: answer(400, "MANIFEST_INVALID", "not this one")}}, want: "DELETE", one: true, fails: "not this one"},
		{name: "400 unsupported", rules: []rule{{kind: "DELETE manifest", answer: answer(400, "UNSUPPORTED", "none at all")}}, want: "DELETE", all: true, fails: "none at all"},
		{name: "only by digest", keeps: true, rules: []rule{{kind: "DELETE manifest", answer: status(202)}, {kind: "DELETE manifest", answer: answer(405, "UNSUPPORTED", "by tag")}}, want: "DELETE HEAD DELETE", one: true, fails: "by tag"},
		{name: "a long refusal", rules: []rule{{kind: "DELETE manifest", answer: answer(400, "X", strings.Repeat("x", 60_000))}}, want: "DELETE", one: true, fails: "xxx…"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, tt.rules...)
			f.auth, f.keepsTags = tt.auth, tt.keeps
			r := f.open()
			m := Manifest{MediaType: "application/x", Raw: []byte(`{"a":1}`)}
			digest, err := r.PutManifest(t.Context(), "v1", m)
			if err != nil {
				t.Fatal(err)
			}
			m.Raw = []byte(`{"a":2}`)
			if _, err := r.PutManifest(t.Context(), "v2", m); err != nil {
				t.Fatal(err)
			}
			before := len(f.requests())
			tag := "v1"
			if tt.tag != "" {
				tag = tt.tag
			}
			err = r.DeleteManifest(within(t, 20*time.Second), tag, digest)
			var methods []string
			for _, k := range f.requests()[before:] {
				if m, ok := strings.CutSuffix(k, " manifest"); ok {
					methods = append(methods, m)
				}
			}
			if got := strings.Join(methods, " "); got != tt.want {
				t.Errorf("got requests %s, want %s", got, tt.want)
			}
			checkRefusal(t, err, tt.fails, tt.all, tt.one)
			if _, err := r.Manifest(t.Context(), "v2"); err != nil {
				t.Errorf("v2 is gone: %v", err)
			}
			_, err = r.Manifest(t.Context(), "v1")
			if gone := errors.Is(err, ErrNotFound); tt.fails == "" && tt.tag == "" && tt.name != "the repository is gone" && !strings.HasPrefix(tt.name, "done") && !gone {
				t.Errorf("v1 is there: %v", err)
			}
		})
	}
}

// checkRefusal wants an error with the words, and if all or one is true, a
// refusal of everything or of one manifest. No words means no error.
func checkRefusal(t *testing.T, err error, words string, all, one bool) {
	t.Helper()
	if words == "" {
		if err != nil {
			t.Errorf("got %v", err)
		}
		return
	}
	var refused *RefusedError
	got := errors.As(err, &refused)
	if err == nil || !strings.Contains(err.Error(), words) || got != (all || one) {
		t.Fatalf("got %v, want %q; refused: %t", err, words, all || one)
	}
	if !got {
		return
	}
	if refused.All != all || !strings.Contains(refused.Reason, words) || all && refused.Remedy == "" {
		t.Errorf("got %+v", refused)
	}
	if len(refused.Reason) > 2*maxErrorText || strings.Contains(refused.Reason, "http://") {
		t.Errorf("the reason is %q", refused.Reason)
	}
}

// The right to delete is asked for where something is deleted only, and not
// where the token service does not know it.
func TestDeletionScope(t *testing.T) {
	scope := "repository:" + fakeRepo + ":push,pull"
	for name, unknown := range map[string]bool{"known": false, "unknown": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked []string
			f := newFake(t)
			f.rules = append(f.rules, &rule{kind: "GET /token", times: 9, answer: func(w http.ResponseWriter, r *http.Request) bool {
				got := r.URL.Query().Get("scope")
				asked = append(asked, got)
				if unknown && strings.Contains(got, "delete") {
					fail(w, 400, "INVALID_REQUEST", "Unable to decode repository and actions")
					return true
				}
				return false
			}})
			f.auth = true
			r := f.open()
			digest := put(t, r, "v1")
			for range 2 {
				if err := r.DeleteManifest(t.Context(), "v1", digest); err != nil {
					t.Fatal(err)
				}
			}
			want := []string{scope, scope + ",delete"}
			if unknown {
				want = append(want, scope)
			}
			if !slices.Equal(asked, want) {
				t.Errorf("asked for %q, want %q", asked, want)
			}
		})
	}
}

// Who may not delete may go on with everything else; and what a token service
// does not find is no manifest.
func TestDeletionDeniedByTokenService(t *testing.T) {
	for _, status := range []int{http.StatusForbidden, http.StatusNotFound} {
		f := newFake(t)
		f.auth = true
		r := f.open()
		digest := put(t, r, "v1")
		f.mu.Lock()
		f.rules = append(f.rules, &rule{kind: "GET /token", times: 2, answer: answer(status, "MANIFEST_UNKNOWN", "not you")})
		f.mu.Unlock()
		err := r.DeleteManifest(t.Context(), "v1", digest)
		checkRefusal(t, err, "not you", true, false)
		if have, err := r.Resolve(t.Context(), "v1"); have != digest || err != nil {
			t.Errorf("got %s, %v", have, err)
		}
	}
}

func TestDeletionCanceled(t *testing.T) {
	f := newFake(t, rule{kind: "DELETE manifest", times: 9, answer: hang})
	r := f.open()
	digest := put(t, r, "v1")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.DeleteManifest(ctx, "v1", digest) }()
	waitFor(t, func() bool { return slices.Contains(f.requests(), "DELETE manifest") })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
