package ci

import (
	"cmp"
	"net/url"
	"strings"

	"github.com/org/nixoci-action/internal/origin"
)

const (
	publicServer = "https://github.com"
	ghcrHost     = "ghcr.io"
)

// ghcr is GitHub's registry, to which a GITHUB_TOKEN belongs outside of CI, too.
func ghcr(getenv func(string) string) Registry {
	// any user will do
	return Registry{Host: ghcrHost, User: cmp.Or(getenv("GITHUB_ACTOR"), "token"), Token: getenv("GITHUB_TOKEN")}
}

// github reads GitHub's variables:
// https://docs.github.com/en/actions/reference/workflows-and-actions/variables
func github(getenv func(string) string) Job {
	j := actions(getenv)
	j.System, j.GitHubAPI = "GitHub Actions", getenv("GITHUB_API_URL")
	j.RunURL = runURL(getenv, "GITHUB_RUN_ID")
	own := ghcr(getenv)
	if server := serverURL(getenv); server != "" && server != publicServer {
		u, err := url.Parse(server)
		if err != nil || u.Host == "" {
			j.noCache = "GITHUB_SERVER_URL is no URL"
			return j
		}
		// GitHub Enterprise Server has its registry there, and so has ghe.com
		own.Host, own.Plain = "containers."+strings.ToLower(u.Host), u.Scheme == "http"
		own.Advice = "does the job have `permissions: packages: write`, and does the package (if it exists) give this repository write access?"
	}
	j.Registries = []Registry{own}
	j.setCache(own, getenv("GITHUB_REPOSITORY"))
	return j
}

// actions reads what GitHub, Gitea and Forgejo have in common.
func actions(getenv func(string) string) Job {
	return Job{
		Origin: repository(serverURL(getenv), getenv("GITHUB_REPOSITORY")),
		Ref:    getenv("GITHUB_REF"), Revision: getenv("GITHUB_SHA"),
		Workflow: getenv("GITHUB_WORKFLOW"), Name: getenv("GITHUB_JOB"), Workspace: getenv("GITHUB_WORKSPACE"),
	}
}

// setCache sets the default cache, that of a repository OWNER/NAME.
func (j *Job) setCache(own Registry, repository string) {
	if repository == "" {
		j.noCache = "GITHUB_REPOSITORY is not set"
		return
	}
	j.cache = own.Host + "/" + strings.ToLower(repository) + cacheName
	if own.Plain {
		j.cache = "http://" + j.cache
	}
}

func serverURL(getenv func(string) string) string {
	return strings.TrimRight(getenv("GITHUB_SERVER_URL"), "/")
}

// repository names a repository of a server; "" if one of them is not known.
func repository(server, path string) string {
	if path == "" {
		return ""
	}
	return origin.URL(server + "/" + path)
}

// runURL is the page of the run whose number a variable has.
func runURL(getenv func(string) string, variable string) string {
	if getenv(variable) == "" {
		return ""
	}
	return serverURL(getenv) + "/" + getenv("GITHUB_REPOSITORY") + "/actions/runs/" + getenv(variable)
}
