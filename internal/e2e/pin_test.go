package e2e

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
)

// publications reads what a cache records. What two writers have merged at once
// stands in both segments, and counts once.
func publications(t *testing.T, cache string, login ...authn.Keychain) []format.Publication {
	t.Helper()
	repo, err := registry.Open(cache, registry.Options{Keychain: authn.NewMultiKeychain(login...)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := index.Open(repo, index.Options{}).Sweep(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	pubs := s.Publications()
	slices.SortStableFunc(pubs, func(a, b format.Publication) int { return a.Time.Compare(b.Time) })
	return slices.CompactFunc(pubs, func(a, b format.Publication) bool { return a.Time.Equal(b.Time) && slices.Equal(a.Roots, b.Roots) })
}

// A publication is recorded again only where that says something new: a pin,
// or that an older one is the newest again.
func TestPinning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := "oci:" + filepath.Join(t.TempDir(), "cache")
	first, second := flakeText(t.Name(), ""), flakeText(t.Name(), "changed")
	pin := []string{"--pin", "production"}
	for i, step := range []struct {
		what    string
		flake   string
		args    []string
		records int
	}{
		{"something new", first, nil, 1},
		{"the same", first, nil, 1},
		{"the same, pinned", first, pin, 2},
		{"the same pin", first, pin, 2},
		{"another pin", first, []string{"--pin", "other", "--pin-keep", "3"}, 3},
		{"other content", second, pin, 4},
		{"back to the first", first, pin, 5},
	} {
		r := w.publish(cache, append([]string{"--flake", w.flake(step.flake)}, step.args...)...)
		pubs := publications(t, cache)
		if len(pubs) != step.records {
			t.Errorf("step %d, %s: got %d publications, want %d", i, step.what, len(pubs), step.records)
			continue
		}
		newest := pubs[len(pubs)-1]
		want, keep := "", 0
		if step.args != nil {
			want, keep = step.args[1], 1
			if len(step.args) > 2 {
				keep = 3
			}
		}
		if newest.Pin != want || newest.PinKeep != keep || r.Pin != want || r.PinKeep != keep {
			t.Errorf("step %d, %s: got the pin %q (%d) in the cache and %q (%d) in the result, want %q (%d)", i, step.what, newest.Pin, newest.PinKeep, r.Pin, r.PinKeep, want, keep)
		}
		if said := strings.Contains(r.stderr, "pinned: "+want+" (the newest"); said != (want != "") {
			t.Errorf("step %d, %s: a pin is reported: %v\n%s", i, step.what, said, r.stderr)
		}
	}

	// what is not complete must not take the place of what is
	broken := strings.Replace(second, "checks.${system}.works", `checks.${system}.broken = mk "broken" "exit 1" { }; checks.${system}.works`, 1)
	r := w.tryPublish(cache, append([]string{"--upstream", "none", "--flake", w.flake(broken)}, pin...)...)
	pubs := publications(t, cache)
	if r.code != 3 || r.Pin != "" || !strings.Contains(r.stderr, "not pinned as production") || len(pubs) != 6 || pubs[5].Pin != "" || !pubs[5].Partial || pubs[4].Partial {
		t.Errorf("a broken one: got %d, pinned as %q, records %+v\n%s", r.code, r.Pin, pubs, r.stderr)
	}
}

// In CI the reference and the job tell publications apart.
func TestPublicationInActions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := "oci:" + filepath.Join(t.TempDir(), "cache")
	cmd := w.command("publish", "--json", "--cache", cache, "--upstream", "none", "--flake", w.flake(flakeText(t.Name(), "")), "--kinds", "checks")
	cmd.Env = append(cmd.Env, "GITHUB_ACTIONS=true", "GITHUB_REF=refs/heads/main", "GITHUB_WORKFLOW=ci", "GITHUB_JOB=build", "GITHUB_WORKSPACE="+w.Dir)
	if r := w.finish(cmd); r.code != 0 {
		t.Fatalf("publish ended with %d:\n%s", r.code, r.stderr)
	}
	pubs := publications(t, cache)
	if want := "flake=.%2Fflake&job=build&kind=checks&workflow=ci"; len(pubs) != 1 || pubs[0].Ref != "refs/heads/main" || pubs[0].Selection != want {
		t.Errorf("got %+v, want the selection %s", pubs, want)
	}
}
