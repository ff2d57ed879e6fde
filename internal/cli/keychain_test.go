package cli

import (
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
)

func TestKeychain(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir()) // nobody is logged in
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	registry, err := name.NewRegistry("registry.example.org")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ user, password, want string }{
		{"me", "secret", "me:secret"},
		{"me", "", ":"}, // a password that is missing is no empty password
		{"", "secret", ":"},
	} {
		getenv := func(name string) string {
			return map[string]string{"NIXOCI_USERNAME": tc.user, "NIXOCI_PASSWORD": tc.password}[name]
		}
		auth, err := Keychain(getenv).Resolve(registry)
		if err != nil {
			t.Fatal(err)
		}
		c, err := auth.Authorization()
		if err != nil || c.Username+":"+c.Password != tc.want {
			t.Errorf("%q and %q: got %s:%s, %v, want %s", tc.user, tc.password, c.Username, c.Password, err, tc.want)
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
		{"ghcr.io", "", "secret", "unset:secret"},
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
