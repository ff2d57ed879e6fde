package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/registrytest"
)

// logins gives one password to every registry.
type logins string

func (l logins) Resolve(authn.Resource) (authn.Authenticator, error) {
	return &authn.Basic{Username: "unset", Password: string(l)}, nil
}

// openGHCR opens the package of a fake GitHub.
func openGHCR(t *testing.T, g *registrytest.GitHub) *remote {
	t.Helper()
	return quick(t, g.Cache(), Options{Push: true, Keychain: logins(g.Token), GitHubAPI: g.API, ghcr: g.Addr})
}

func listings(g *registrytest.GitHub) (n int) {
	for _, r := range g.Requests() {
		if strings.Contains(r, "per_page=100&page=1") {
			n++
		}
	}
	return n
}

func TestPackagesDelete(t *testing.T) {
	for name, change := range map[string]func(*registrytest.GitHub){
		"user":         func(*registrytest.GitHub) {},
		"organization": func(g *registrytest.GitHub) { g.Organization = true },
		"own account":  func(g *registrytest.GitHub) { g.Self, g.Private = true, true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := registrytest.NewGitHub(t)
			change(g)
			r := openGHCR(t, g)
			ctx := within(t, 30*time.Second)
			a, b := put(t, r, "a"), put(t, r, "b")
			c := put(t, r, "c")
			for range 2 { // what is gone can be deleted again
				if err := r.DeleteManifest(ctx, "a", a); err != nil {
					t.Fatal(err)
				}
			}
			// a tag that points elsewhere stays, and what it points to
			if err := r.DeleteManifest(ctx, "b", c); err != nil {
				t.Fatal(err)
			}
			if got := tagsOf(t, r); got != "b" {
				t.Errorf("got tags %q", got)
			}
			if have, err := r.Resolve(ctx, "b"); have != b || err != nil {
				t.Errorf("got %s, %v", have, err)
			}
			if n := listings(g); n != 1 {
				t.Errorf("the versions were listed %d times", n)
			}
			for _, req := range g.Requests() {
				if strings.Contains(req, g.Token) {
					t.Errorf("the token is in %s", req)
				}
			}
		})
	}
}

// What a listing lacks is looked for again before it counts as gone.
func TestPackagesStaleListing(t *testing.T) {
	g := registrytest.NewGitHub(t)
	r := openGHCR(t, g)
	put(t, r, "old")
	gone := put(t, r, "gone")
	if _, err := r.Untagged(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	young := put(t, r, "young")
	r.packages.listed = time.Now().Add(-2 * freshListing)
	if err := r.DeleteManifest(t.Context(), "young", young); err != nil {
		t.Fatal(err)
	}
	if got := tagsOf(t, r); got != "gone old" || listings(g) != 2 {
		t.Errorf("got tags %q after %d listings", got, listings(g))
	}
	// somebody else was faster
	g.Vanish(gone.String())
	if err := r.DeleteManifest(t.Context(), "gone", gone); err != nil {
		t.Error(err)
	}
	// the registry has it, and GitHub does not list it (yet)
	lost := put(t, r, "lost")
	err := r.DeleteManifest(t.Context(), "lost", lost)
	checkRefusal(t, err, "does not list it", false, true)
	if listings(g) != 2 {
		t.Errorf("the versions were listed %d times within a minute", listings(g))
	}
}

func TestPackagesUntagged(t *testing.T) {
	g := registrytest.NewGitHub(t)
	r := openGHCR(t, g)
	put(t, r, "segment")
	g.Pass(time.Hour)
	// roots, of which only the last has a tag
	var roots []v1.Hash
	for i := range 4 {
		raw := fmt.Appendf(nil, `{"root":%d}`, i)
		d, err := r.PutManifest(t.Context(), "root", Manifest{MediaType: "application/x", Raw: raw})
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, d)
		g.Pass(time.Hour)
	}
	g.Add("no digest")
	other := sha([]byte("other"))
	g.Add(other)
	now := g.Versions()[0].Created
	// the first was replaced three hours ago, the third one hour ago
	got, err := r.Untagged(t.Context(), now.Add(-90*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b v1.Hash) int { return slices.Index(roots, a) - slices.Index(roots, b) })
	if !slices.Equal(got, roots[:2]) {
		t.Errorf("got %v, want %v", got, roots[:2])
	}
	// the second one gets the tag back before it is deleted
	if _, err := r.PutManifest(t.Context(), "root", Manifest{MediaType: "application/x", Raw: []byte(`{"root":1}`)}); err != nil {
		t.Fatal(err)
	}
	if err := r.DeleteManifest(t.Context(), "", roots[0]); err != nil {
		t.Error(err)
	}
	if again, err := r.Untagged(t.Context(), now.Add(-90*time.Minute)); err != nil || !slices.Equal(again, roots[1:2]) {
		t.Errorf("got %v, %v", again, err)
	}
	checkRefusal(t, r.DeleteManifest(t.Context(), "", roots[1]), `has the tag "root" now`, false, true)
	if have, err := r.Resolve(t.Context(), "root"); have != roots[1] || err != nil {
		t.Errorf("got %s, %v", have, err)
	}
	if _, err := r.Manifest(t.Context(), roots[0].String()); !errors.Is(err, ErrNotFound) {
		t.Errorf("the first is there: %v", err)
	}
	if n := listings(g); n != 1 {
		t.Errorf("the versions were listed %d times", n)
	}
}

func TestPackagesRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		change        func(*registrytest.GitHub)
		answer        int
		words, remedy string
		all, one      bool
	}{
		"no admin":   {change: func(g *registrytest.GitHub) { g.Role = "write" }, words: "Package not found", remedy: "Manage Actions access", all: true},
		"no access":  {change: func(g *registrytest.GitHub) { g.Role = "" }, words: "Package not found", remedy: "Manage Actions access", all: true},
		"bad token":  {change: func(g *registrytest.GitHub) { g.Token = "another" }, words: "Bad credentials", remedy: "delete:packages", all: true},
		"no package": {change: func(g *registrytest.GitHub) { g.Owner += "-renamed" }, words: "Not Found", all: true},
		"forbidden":  {answer: 403, words: "words of GitHub", remedy: "packages: write", all: true},
		"this one":   {answer: 400, words: "words of GitHub", one: true},
		"broken":     {answer: 418, words: "words of GitHub", one: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := registrytest.NewGitHub(t)
			r := openGHCR(t, g)
			put(t, r, "a")
			digest := put(t, r, "b")
			api := registrytest.NewGitHub(t) // so that the registry stays as it is
			for _, v := range slices.Backward(g.Versions()) {
				api.Add(v.Digest, v.Tags...)
			}
			r.opts.GitHubAPI = api.API
			if tt.change != nil {
				tt.change(api)
			}
			if tt.answer != 0 {
				api.Answer(func(w http.ResponseWriter, r *http.Request) bool {
					if r.Method == http.MethodDelete {
						registrytest.GitHubError(w, tt.answer, "words of GitHub")
					}
					return r.Method == http.MethodDelete
				})
			}
			err := r.DeleteManifest(within(t, 20*time.Second), "b", digest)
			checkRefusal(t, err, tt.words, tt.all, tt.one)
			var refused *RefusedError
			if errors.As(err, &refused) && !strings.Contains(refused.Remedy, tt.remedy) {
				t.Errorf("got remedy %q", refused.Remedy)
			}
			if err != nil && strings.Contains(err.Error(), g.Token) {
				t.Errorf("the token is in %v", err)
			}
		})
	}
}

// Without a package there is nothing to delete; one that is hidden is not none.
func TestPackagesAbsent(t *testing.T) {
	g := registrytest.NewGitHub(t)
	g.Role = "" // GitHub says the same of what is not there
	r := openGHCR(t, g)
	if err := r.DeleteManifest(t.Context(), "a", digestOf(t, sha(nil))); err != nil {
		t.Error(err)
	}
	if hs, err := r.Untagged(t.Context(), time.Now()); len(hs) > 0 || err != nil {
		t.Errorf("got %v, %v", hs, err)
	}
	put(t, r, "a")
	_, err := r.Untagged(t.Context(), time.Now())
	checkRefusal(t, err, "Package not found", true, false)
}

// A listing may take long; who waits for another's need not.
func TestPackagesCanceled(t *testing.T) {
	g := registrytest.NewGitHub(t)
	r := openGHCR(t, g)
	digest := put(t, r, "a")
	arrived, release := make(chan struct{}), make(chan struct{})
	g.Answer(func(http.ResponseWriter, *http.Request) bool {
		close(arrived)
		<-release
		g.Answer(nil)
		return false
	})
	first := make(chan error)
	go func() { _, err := r.Untagged(context.Background(), time.Now()); first <- err }()
	<-arrived
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.DeleteManifest(ctx, "a", digest); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(release)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// Only ghcr.io is deleted from in this way, and by default with the API that
// belongs to it.
func TestPackagesOnlyOnGHCR(t *testing.T) {
	for cache, want := range map[string]bool{"ghcr.io/o/r/nix-cache": true, "quay.io/o/r": false, "ghcr.io.example.com/o/r": false, "localhost:5000/o/r": false} {
		repo, err := Open(cache, Options{})
		if err != nil || (repo.(*remote).packages != nil) != want {
			t.Errorf("%s: want %t, %v", cache, want, err)
		}
	}
}
