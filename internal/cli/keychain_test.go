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
