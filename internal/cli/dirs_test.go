package cli

import (
	"runtime"
	"testing"

	"github.com/org/nixoci-action/internal/hint"
)

func TestDefaultCache(t *testing.T) {
	home := "oci:/home/u/.local/share/nixoci/cache"
	if runtime.GOOS == "darwin" {
		home = "oci:/home/u/Library/Application Support/nixoci/cache"
	}
	actions := []string{"GITHUB_ACTIONS", "true", "GITHUB_REPOSITORY", "Owner/Some.Repo"}
	tests := map[string]struct {
		env  []string
		want string // "" for an error with a hint
	}{
		"data directory":  {nil, "oci:/data/nixoci/cache"},
		"home":            {[]string{"XDG_DATA_HOME", ""}, home},
		"relative":        {[]string{"XDG_DATA_HOME", "data"}, home},
		"nothing":         {[]string{"XDG_DATA_HOME", "", "HOME", ""}, ""},
		"actions":         {actions, "ghcr.io/owner/some.repo/nix-cache"},
		"actions, github": {append(actions, "GITHUB_SERVER_URL", "https://github.com"), "ghcr.io/owner/some.repo/nix-cache"},
		"actions, gitea":  {append(actions, "GITHUB_SERVER_URL", "https://git.example.org", "GITEA_ACTIONS", "true"), "git.example.org/owner/some.repo/nix-cache"},
		"actions, nobody": {actions[:2], ""},
		"gitlab":          {[]string{"GITLAB_CI", "true", "CI_REGISTRY_IMAGE", "registry.example.org/o/r"}, "registry.example.org/o/r/nix-cache"},
		"not in actions":  {actions[2:], "oci:/data/nixoci/cache"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := DefaultCache(env(tt.env...))
			if got != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
			if err != nil && hint.Of(err) == "" {
				t.Errorf("%v has no hint", err)
			}
		})
	}
}

func TestUserDir(t *testing.T) {
	for goos, want := range map[string]string{
		"linux":  "/home/u/.cache/nixoci",
		"darwin": "/home/u/Library/Caches/nixoci",
	} {
		if got, err := userDir(goos, env(), "XDG_CACHE_HOME", ".cache", "Library/Caches"); got != want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", goos, got, err, want)
		}
	}
	if got, err := CacheDir(env("XDG_CACHE_HOME", "/c")); got != "/c/nixoci" || err != nil {
		t.Errorf("got %q, %v, want /c/nixoci", got, err)
	}
}
