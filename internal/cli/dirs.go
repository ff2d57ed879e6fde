package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/org/nixoci-action/internal/hint"
)

// DefaultCache names the cache that is used when none is given: in GitHub
// Actions the repository's own on ghcr.io, elsewhere a directory of the user.
func DefaultCache(getenv func(string) string) (string, error) {
	const nameIt = "name the cache with --cache or " + EnvPrefix + "CACHE"
	if repo := getenv("GITHUB_REPOSITORY"); getenv("GITHUB_ACTIONS") == "true" && repo != "" {
		// Gitea, Forgejo and GitHub Enterprise set the same variables, and
		// their packages are not on ghcr.io.
		if server := getenv("GITHUB_SERVER_URL"); server != "" && server != "https://github.com" {
			return "", hint.Wrap(fmt.Errorf("no default cache for the server %s", server), nameIt)
		}
		return "ghcr.io/" + strings.ToLower(repo) + "/nix-cache", nil
	}
	dir, err := userDir(runtime.GOOS, getenv, "XDG_DATA_HOME", ".local/share", "Library/Application Support")
	if err != nil {
		return "", hint.Wrap(fmt.Errorf("choosing a default cache: %w", err), nameIt)
	}
	return "oci:" + filepath.Join(dir, "cache"), nil
}

// CacheDir is the directory for what a program may lose: copies of cache
// indexes, answers of upstream caches. It need not exist.
func CacheDir(getenv func(string) string) (string, error) {
	return userDir(runtime.GOOS, getenv, "XDG_CACHE_HOME", ".cache", "Library/Caches")
}

// userDir is the directory nixoci in one of the user's directories. As the XDG
// specification wants it, a variable with a relative path is ignored.
func userDir(goos string, getenv func(string) string, xdg, unix, mac string) (string, error) {
	if dir := getenv(xdg); filepath.IsAbs(dir) {
		return filepath.Join(dir, "nixoci"), nil
	}
	home := getenv("HOME")
	if !filepath.IsAbs(home) {
		return "", errors.New("neither HOME nor " + xdg + " is set")
	}
	if goos == "darwin" {
		return filepath.Join(home, mac, "nixoci"), nil
	}
	return filepath.Join(home, unix, "nixoci"), nil
}
