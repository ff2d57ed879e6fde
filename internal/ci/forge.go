package ci

import (
	"cmp"
	"net/url"
	"strings"
)

// Gitea's and Forgejo's runners set GitHub's variables, and these. Forgejo's
// sets both.
const (
	giteaActions   = "GITEA_ACTIONS"
	forgejoActions = "FORGEJO_ACTIONS"
)

func isForge(getenv func(string) string) bool {
	return getenv(giteaActions) == "true" || getenv(forgejoActions) == "true"
}

// forge reads the variables of a Gitea or a Forgejo, whose registry is on the
// server itself: at its root, also where the rest is below a path.
func forge(getenv func(string) string) Job {
	j := actions(getenv)
	j.System = "Gitea Actions"
	// Gitea has the run's number in its URLs until 1.25, and its ID since 1.26
	j.RunURL = runURL(getenv, "GITHUB_RUN_ID")
	if getenv(forgejoActions) == "true" {
		j.System = "Forgejo Actions"
		j.RunURL = runURL(getenv, "GITHUB_RUN_NUMBER")
	}
	u, err := url.Parse(serverURL(getenv))
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		j.noCache = "GITHUB_SERVER_URL is no URL"
		return j
	}
	own := Registry{
		Host: strings.ToLower(u.Host), Plain: u.Scheme == "http",
		// they look at the password only, if it is a token
		User: cmp.Or(getenv("GITHUB_ACTOR"), "token"), Token: getenv("GITHUB_TOKEN"),
		Advice: "the token that a job gets from Gitea or Forgejo may not write packages: make an access token with the scope write:package " +
			"(in your settings, under Applications), of a user who may write packages of the cache's owner, and give it from a secret, as the " +
			"action's input `token` or as NIXOCI_USERNAME and NIXOCI_PASSWORD",
	}
	j.Registries = []Registry{own}
	j.setCache(own, getenv("GITHUB_REPOSITORY"))
	return j
}
