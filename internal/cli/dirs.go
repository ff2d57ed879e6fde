package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"

	"github.com/org/nixoci-action/internal/ci"
	"github.com/org/nixoci-action/internal/hint"
)

// DefaultCache names the cache that is used when none is given: in CI the
// repository's own in the registry of the CI system, elsewhere a directory of
// the user.
func DefaultCache(getenv func(string) string) (string, error) {
	const nameIt = "name the cache with --cache or " + EnvPrefix + "CACHE"
	cache, err := ci.Detect(getenv).DefaultCache()
	if cache != "" || err != nil {
		return cache, hint.Wrap(err, nameIt)
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
