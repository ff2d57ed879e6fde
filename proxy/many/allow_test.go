package many

import (
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/hint"
)

func TestGrant(t *testing.T) {
	for _, tc := range []struct {
		allow string // globs, separated by spaces
		cache string
		want  string // the cache as it is opened; empty if it is not
		named bool
	}{
		{"ghcr.io/my-org/*", "ghcr.io/my-org/a", "ghcr.io/my-org/a", true},
		{"https://ghcr.io/my-org/*", "ghcr.io/my-org/a", "ghcr.io/my-org/a", true},
		{"ghcr.io/my-org/*", "ghcr.io/my-org/a/b", "", false},
		{"ghcr.io/my-org/*", "ghcr.io/my-org", "", false},
		{"ghcr.io/my-org/*", "ghcr.io/my-org-evil/a", "", false},
		{"ghcr.io/my-org/*", "evil.ghcr.io/my-org/a", "", false},
		{"ghcr.io/my-org/*", "ghcr.io.evil.example/my-org/a", "", false},
		{"ghcr.io/my-org/*", "ghcr.io:443/my-org/a", "", false},
		{"ghcr.io/my-org/**", "ghcr.io/my-org/a/b/c", "ghcr.io/my-org/a/b/c", true},
		{"ghcr.io/my-org/**", "ghcr.io/my-org", "", false},
		{"ghcr.io/**/nix-cache", "ghcr.io/a/b/nix-cache", "ghcr.io/a/b/nix-cache", true},
		{"ghcr.io/**/nix-cache", "ghcr.io/a/b/other", "", false},
		{"ghcr.io/*/nix-*", "ghcr.io/a/nix-cache", "ghcr.io/a/nix-cache", true},
		{"ghcr.io/a/b", "ghcr.io/a/b", "ghcr.io/a/b", true},
		{"ghcr.io/a/b", "ghcr.io/a/c", "", false},
		{"**", "registry.example.org/a/b", "registry.example.org/a/b", false},
		{"*.example.org/**", "registry.example.org/a/b", "registry.example.org/a/b", false},
		{"*.example.org/**", "example.org/a/b", "", false},
		{"** ghcr.io/a/*", "ghcr.io/a/b", "ghcr.io/a/b", true},
		{"** ghcr.io/a/*", "ghcr.io/b/b", "ghcr.io/b/b", false},

		// without TLS only what is named so, or this machine if it is named
		{"localhost:5000/**", "localhost:5000/a/b", "localhost:5000/a/b", true},
		{"127.0.0.1:5000/**", "127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b", true},
		{"[::1]:5000/**", "[::1]:5000/a/b", "[::1]:5000/a/b", true},
		{"**", "localhost:5000/a/b", "", false},
		{"**", "a.localhost/b", "", false},
		{"**", "127.0.0.1:5000/a/b", "", false},
		{"**", "10.0.0.1/a/b", "", false},
		{"10.0.0.1:5000/**", "10.0.0.1:5000/a/b", "", false},
		{"http://10.0.0.1:5000/**", "10.0.0.1:5000/a/b", "http://10.0.0.1:5000/a/b", true},
		{"http://registry.lan:5000/**", "registry.lan:5000/a/b", "http://registry.lan:5000/a/b", true},
		{"registry.lan:5000/**", "registry.lan:5000/a/b", "registry.lan:5000/a/b", true},
		{"http://registry.lan:5000/a/* **", "registry.lan:5000/b/c", "registry.lan:5000/b/c", false},

		// names that are none, or another scheme's
		{"**", "oci:/tmp/x", "", false},
		{"**", "oci:/etc", "", false},
		{"**", "http:/a/b", "", false},
		{"**", "https://ghcr.io/a/b", "", false},
		{"**", "ghcr.io", "", false},
		{"**", "ghcr.io/", "", false},
		{"**", "ghcr.io/..", "", false},
		{"**", "ghcr.io/a/../b", "", false},
		{"ghcr.io/my-org/**", "ghcr.io/my-org/../other/b", "", false},
		{"**", "ghcr.io/a//b", "", false},
		{"**", "ghcr.io/A/b", "", false},
		{"**", "GHCR.IO/a/b", "", false},
		{"**", "ghcr.io/a/b:tag", "", false},
		{"**", "ghcr.io/a/b@sha256:00", "", false},
		{"**", "user:pw@ghcr.io/a/b", "", false},
		{"**", "ghcr.io:99999999/a/b", "", false},
		{"**", "ghcr.io:0/a/b", "", false},
		{"**", "ghcr.io:/a/b", "", false},
		{"**", "ghcr.io./a/b", "", false},
		{"**", "ghcr.io/a b/c", "", false},
		{"**", "ghcr.io/a%2fb/c", "", false},
		{"**", "ghcr.io/a/\x00", "", false},
		{"**", "owner/repo", "", false},
		{"**", "ghcr.io/" + strings.Repeat("a/", 300) + "a", "", false},
		{"", "ghcr.io/a/b", "", false},
	} {
		var globs []allowed
		for _, g := range strings.Fields(tc.allow) {
			a, err := parseAllow(g)
			if err != nil {
				t.Fatalf("%s: %v", g, err)
			}
			globs = append(globs, a)
		}
		got, err := grant(globs, tc.cache)
		if (err == nil) != (tc.want != "") || got.Cache != tc.want || got.Named != tc.named {
			t.Errorf("%q allows %q: got %q, named %t, %v; want %q, named %t", tc.allow, tc.cache, got.Cache, got.Named, err, tc.want, tc.named)
		}
	}
}

func TestCheckAllow(t *testing.T) {
	for glob, want := range map[string]string{
		"": "host", "ghcr.io": "names no repository", "ghcr.io/": "malformed", "ghcr.io//x": "malformed", "ghcr.io/[": "malformed",
		"my org/x": "host", "oci:/tmp/**": "host", "ftp://ghcr.io/x": "host", "Ghcr.io/x": "host", "*": "names no repository",
		"http://**": "by a wildcard", "http://*.lan/x": "by a wildcard", "user:hunter2@ghcr.io/x": "names a user",
	} {
		err := CheckAllow(glob)
		if err == nil || !strings.Contains(err.Error(), want) || hint.Of(err) == "" {
			t.Errorf("%q: got %v (hint %q), want %q", glob, err, hint.Of(err), want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows the password: %v", err)
		}
		if _, err := NewRouter(RouterOptions{Allow: []string{glob}}); err == nil {
			t.Errorf("NewRouter takes %q", glob)
		}
	}
}

func FuzzGrant(f *testing.F) {
	f.Add("ghcr.io/a/b")
	f.Add("[::1]:5000/a")
	any, err := parseAllow("**")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, cache string) {
		a, err := grant([]allowed{any}, cache)
		if err != nil {
			return
		}
		if a.Cache != cache || a.Named || strings.ContainsAny(cache, "@?#% \\") || strings.Contains(cache, "..") || strings.HasPrefix(cache, "oci:") {
			t.Errorf("%q is opened as %+v", cache, a)
		}
	})
}
