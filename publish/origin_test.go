package publish

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/ci"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/nix/nixtest"
)

// A folder is named after the repository that it was cloned from, or after itself
// and its machine; what says by itself where it is has no other name.
func TestFlakeOrigin(t *testing.T) {
	e := nixtest.New(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	host = strings.ToLower(host)
	make := func(name string, remotes ...string) string {
		repo := filepath.Join(dir, name)
		nixtest.Write(t, repo, "x", "x")
		e.Git(t, repo)
		for i := 0; i < len(remotes); i += 2 {
			e.Run(t, repo, "git", "remote", "add", remotes[i], remotes[i+1])
		}
		return "git+file://" + repo
	}
	clone := make("clone", "fork", "https://example.org/you/one", "origin", "https://me:s3cret@example.org/me/one.git?x=s3cret")
	e.Run(t, filepath.Join(dir, "clone"), "git", "worktree", "add", "-q", "../tree")
	e.Run(t, dir, "git", "clone", "-q", "--bare", "clone", "bare.git")
	if err := os.Symlink("clone", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_DIR", filepath.Join(dir, "two", ".git")) // as in a hook of another repository
	p := &publisher{Options: Options{GitEnv: os.Environ(), Log: slog.New(slog.DiscardHandler)}}
	for _, tc := range []struct{ original, resolved, want string }{
		{clone, "", "example.org/me/one"},
		{clone + "?dir=a%2Fb&shallow=1", "", "example.org/me/one?dir=a%2Fb"},
		{"git+file://" + dir + "/link", "", "example.org/me/one"},
		{"git+file://" + dir + "/tree?ref=v1", "", "example.org/me/one?ref=v1"},
		{"flake:mine", clone, "example.org/me/one"},
		{make("one", "upstream", "git@example.org:me/one.git"), "", "example.org/me/one"},
		{make("two", "a", "git@example.org:a/one", "b", "git@example.org:b/one"), "", host + ":" + dir + "/two"},
		{make("none"), "", host + ":" + dir + "/none"},
		{make("a b") + "?dir=x", "", host + ":" + dir + "/a%20b?dir=x"},
		{make("path", "origin", "../clone"), "", host + ":" + dir + "/path"},
		{"git+file://" + dir + "/bare.git", "", host + ":" + dir + "/bare.git"},
		{"path:" + dir + "/clone/sub/..", "", host + ":" + dir + "/clone"},
		{"path:" + dir + "/link?dir=s", "", host + ":" + dir + "/clone?dir=s"},
		{"git+file:///nowhere/at/all", "", host + ":/nowhere/at/all"},
		{"github:me/one", "", ""},
		{"git+https://me:s3cret@example.org/me/one", "", ""},
		{"flake:nixpkgs", "github:NixOS/nixpkgs/nixpkgs-unstable", "github:NixOS/nixpkgs/nixpkgs-unstable"},
		{"flake:mine", "git+https://me:s3cret@example.org/me/one", "git+https://example.org/me/one"},
	} {
		f := nix.Flake{Original: strings.ReplaceAll(tc.original, " ", "%20"), Resolved: tc.resolved}
		if tc.resolved == "" {
			f.Resolved = f.Original
		}
		if got := p.flakeOrigin(t.Context(), f); got != tc.want {
			t.Errorf("%s (%s): got %q, want %q", tc.original, tc.resolved, got, tc.want)
		}
	}
	p.GitEnv = nil // no PATH for Git, no configuration
	if got := p.flakeOrigin(t.Context(), nix.Flake{Original: clone}); !strings.HasSuffix(got, "/one") && got != host+":"+dir+"/clone" {
		t.Errorf("without an environment: got %q", got)
	}
}

// What is recorded has no credentials. In CI the origin is the repository, and
// the flake stays as it was given.
func TestPublicationOrigin(t *testing.T) {
	t.Parallel()
	actions := []string{"GITHUB_ACTIONS", "true", "GITHUB_SERVER_URL", "https://github.com", "GITHUB_REPOSITORY", "me/one", "GITHUB_REF", "refs/heads/main"}
	gitlab := []string{"GITLAB_CI", "true", "CI_SERVER_URL", "https://u:s3cret@gitlab.example.org", "CI_PROJECT_PATH", "a/b/c"}
	for _, tc := range []struct {
		name, flake, own string
		env              []string
		origin, recorded string
	}{
		{"in CI", ".", "laptop:/x", actions, "github.com/me/one", "."},
		{"store paths in CI", "", "", actions, "github.com/me/one", ""},
		{"on GitLab", "./x", "laptop:/x", gitlab, "gitlab.example.org/a/b/c", "./x"},
		{"in CI of no repository", ".", "laptop:/x", actions[:4], "laptop:/x", "laptop:/x"},
		{"a folder", ".", "laptop:/x", nil, "laptop:/x", "laptop:/x"},
		{"a reference", "git+https://u:s3cret@host/x?token=s3cret&ref=y", "", nil, "", "git+https://host/x?ref=y"},
		{"store paths", "", "", nil, "", ""},
	} {
		p := &publisher{Options: Options{Flake: tc.flake, Job: ci.Detect(env(tc.env...))}, origin: tc.own}
		got := p.publication(nil)
		if got.Origin != tc.origin || got.Flake != tc.recorded || strings.Contains(got.Selection, "s3cret") {
			t.Errorf("%s: got %+v, want the origin %q and the flake %q", tc.name, got, tc.origin, tc.recorded)
		}
	}
}
