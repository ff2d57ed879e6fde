package ghpackages

import "testing"

func TestPackagePage(t *testing.T) {
	for cache, want := range map[string]string{
		"ghcr.io/owner/repo/nix-cache":         "https://github.com/owner/repo/pkgs/container/repo%2Fnix-cache",
		"https://ghcr.io/owner/repo/nix-cache": "https://github.com/owner/repo/pkgs/container/repo%2Fnix-cache",
		"ghcr.io/owner/cache":                  "https://github.com/owner?tab=packages",
		"ghcr.io.example.org/owner/repo/cache": "",
		"oci:ghcr.io/owner/repo/cache":         "",
		"ghcr.io/owner":                        "",
	} {
		if got := PackagePage(cache); got != want {
			t.Errorf("%s: got %q, want %q", cache, got, want)
		}
	}
}
