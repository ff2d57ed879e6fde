// Package ci tells where a program runs: on which CI system, and for which
// branch, tag or pull request. It also tells which registry belongs to that
// system. It only reads variables. It knows nothing of what is published.
package ci

import (
	"cmp"
	"fmt"
	"strings"
)

// Job is what a CI system tells about the job that this process belongs to.
// Outside of CI it has Registries only.
type Job struct {
	// System is the CI system's name, for people; empty outside of CI.
	System string
	// Ref is what the job runs for, in full: refs/heads/NAME, refs/tags/NAME,
	// refs/pull/NUMBER/…, refs/merge-requests/NUMBER/head.
	Ref string
	// Revision is the commit.
	Revision string
	// Origin names the repository that the job belongs to, with the host of its
	// forge: HOST/PATH, as package origin makes it.
	Origin string
	// RunURL is the page of the run or of the job.
	RunURL string
	// Workflow and Name tell the job apart from others that run for Ref. They
	// are the same in each run.
	Workflow, Name string
	// Workspace is the folder of the checkout.
	Workspace string
	// Registries are those for which the job has a login. In CI the first is
	// the system's own, if it has one.
	Registries []Registry
	// GitHubAPI is the address of GitHub's REST API, where the job is told one;
	// Gitea and Forgejo give theirs in the same variable, which this is not.
	GitHubAPI string

	cache   string // in the system's own registry
	noCache string // why there is none
}

// Detect finds out about the job. It needs no network, and does not fail: what
// is not known is empty.
func Detect(getenv func(string) string) Job {
	switch {
	case getenv("GITHUB_ACTIONS") == "true" && isForge(getenv):
		return forge(getenv)
	case getenv("GITHUB_ACTIONS") == "true":
		return github(getenv)
	case getenv("GITLAB_CI") == "true":
		return gitlab(getenv)
	}
	own := ghcr(getenv)
	own.Token = cmp.Or(own.Token, getenv("GH_TOKEN")) // the GitHub CLI's name for it
	return Job{Registries: []Registry{own}}
}

// cacheName is what the default cache is called, below its repository.
const cacheName = "/nix-cache"

// DefaultCache is the repository's cache in the system's own registry; "" outside
// of CI. The error tells why there is none.
func (j Job) DefaultCache() (string, error) {
	if j.System == "" || j.cache != "" {
		return j.cache, nil
	}
	return "", fmt.Errorf("no default cache in %s: %s", j.System, j.noCache)
}

// Own returns the registry of the CI system that the cache lies in; false if it
// lies elsewhere, where the job's token must not go.
func (j Job) Own(cache string) (Registry, bool) {
	if j.System == "" || len(j.Registries) == 0 || !j.Registries[0].Has(cache) {
		return Registry{}, false
	}
	return j.Registries[0], true
}

// Registry is a registry for which a job has a login.
type Registry struct {
	// Host is HOST or HOST:PORT.
	Host string
	// Plain says that it is reached without TLS.
	Plain bool
	// User and Token are the login; without Token there is none.
	User, Token string
	// Advice is what helps if the registry refuses them; "" for what is true of
	// every registry.
	Advice string
}

// Has reports whether a cache, written as for --cache, lies in the registry. One
// that would be reached without TLS lies elsewhere, unless Plain is set.
func (r Registry) Has(cache string) bool {
	rest, plain := strings.CutPrefix(cache, "http://")
	if plain && !r.Plain {
		return false
	}
	host, _, ok := strings.Cut(strings.TrimPrefix(rest, "https://"), "/")
	return ok && r.Host != "" && strings.EqualFold(host, r.Host)
}
