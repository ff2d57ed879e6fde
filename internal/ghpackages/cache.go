package ghpackages

import (
	"net/url"
	"strings"
)

// Source is the URL of the repository on GitHub that a cache on ghcr.io is of,
// ghcr.io/OWNER/REPO/NAME; "" for other caches.
func Source(cache string) string {
	if owner, repo, _, ok := names(cache); ok && repo != "" {
		return "https://github.com/" + owner + "/" + repo
	}
	return ""
}

// PackagePage is the URL of the page with the settings of a cache on ghcr.io; ""
// for other caches.
func PackagePage(cache string) string {
	owner, repo, pack, ok := names(cache)
	switch {
	case !ok:
		return ""
	case repo == "":
		return "https://github.com/" + owner + "?tab=packages"
	}
	return "https://github.com/" + owner + "/" + repo + "/pkgs/container/" + url.PathEscape(pack)
}

// names takes the name of a cache on ghcr.io apart: the owner, the repository
// if it names one, and the package.
func names(cache string) (owner, repo, pack string, ok bool) {
	name, ok := strings.CutPrefix(strings.TrimPrefix(cache, "https://"), "ghcr.io/")
	owner, pack, found := strings.Cut(name, "/")
	repo, _, deeper := strings.Cut(pack, "/")
	if !deeper {
		repo = ""
	}
	return owner, repo, pack, ok && found
}
