package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
)

func TestKeychain(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir()) // nobody is logged in
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	login := func(user, password string) []string {
		return []string{"NIXOCI_USERNAME", user, "NIXOCI_PASSWORD", password}
	}
	onGitHub := []string{"GITHUB_ACTIONS", "true", "GITHUB_TOKEN", "t", "GITHUB_ACTOR", "me"}
	onGitea := slices.Concat(onGitHub, []string{"GITEA_ACTIONS", "true", "GITHUB_SERVER_URL", "https://git.example.org"})
	plain := slices.Concat(onGitea, []string{"GITHUB_SERVER_URL", "http://git.example.org"})
	onGitLab := []string{"GITLAB_CI", "true", "CI_REGISTRY_IMAGE", "registry.example.org/o/r", "CI_REGISTRY_USER", "job", "CI_REGISTRY_PASSWORD", "t", "GITHUB_TOKEN", "g"}
	for _, tc := range []struct {
		env      []string
		registry string
		want     string
	}{
		{login("me", "secret"), "registry.example.org", "me:secret"},
		{login("me", ""), "registry.example.org", ":"}, // a password that is missing is no empty password
		{login("", "secret"), "registry.example.org", ":"},
		{[]string{"GITHUB_TOKEN", "t"}, "ghcr.io", "token:t"},
		{[]string{"GITHUB_TOKEN", "t"}, "registry.example.org", ":"},
		{onGitHub, "ghcr.io", "me:t"},
		{slices.Concat(onGitHub, login("a", "b")), "ghcr.io", "a:b"},
		{onGitea, "git.example.org", "me:t"},
		{onGitea, "ghcr.io", ":"}, // the token is not GitHub's
		{onGitea, "http://git.example.org", ":"},
		{plain, "http://git.example.org", "me:t"},
		{slices.Concat(onGitea, []string{"GITHUB_SERVER_URL", "http://127.0.0.1:3000"}), "127.0.0.1:3000", "me:t"},
		{onGitLab, "registry.example.org", "job:t"},
		{onGitLab, "ghcr.io", "token:g"},
		{onGitLab, "http://registry.example.org", ":"},
		{slices.Concat(onGitLab, []string{"CI_REGISTRY_IMAGE", "127.0.0.1:5000/o/r"}), "127.0.0.1:5000", "job:t"},
	} {
		var opts []name.Option
		host, plain := strings.CutPrefix(tc.registry, "http://")
		if plain {
			opts = append(opts, name.Insecure)
		}
		registry, err := name.NewRegistry(host, opts...)
		if err != nil {
			t.Fatal(err)
		}
		auth, err := Keychain(env(tc.env...)).Resolve(registry)
		if err != nil {
			t.Fatal(err)
		}
		c, err := auth.Authorization()
		if err != nil || c.Username+":"+c.Password != tc.want {
			t.Errorf("%q for %s: got %s:%s, %v, want %s", tc.env, tc.registry, c.Username, c.Password, err, tc.want)
		}
	}
}

// The token of GitHub is for its registry only.
func TestKeychainOfGitHub(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("GITHUB_TOKEN", "of the process") // not what getenv says
	for _, tc := range []struct{ registry, actor, token, want string }{
		{"ghcr.io", "me", "secret", "me:secret"},
		{"ghcr.io", "", "secret", "token:secret"},
		{"ghcr.io", "me", "", ":"},
		{"ghcr.io.example.org", "me", "secret", ":"},
		{"ghcr.io:444", "me", "secret", ":"},
		{"registry.example.org", "me", "secret", ":"},
	} {
		registry, err := name.NewRegistry(tc.registry)
		if err != nil {
			t.Fatal(err)
		}
		auth, err := Keychain(env("GITHUB_ACTOR", tc.actor, "GITHUB_TOKEN", tc.token)).Resolve(registry)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := auth.Authorization(); err != nil || c.Username+":"+c.Password != tc.want {
			t.Errorf("%s: got %s:%s, %v, want %s", tc.registry, c.Username, c.Password, err, tc.want)
		}
	}
}
