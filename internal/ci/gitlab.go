package ci

import "strings"

// gitlab reads GitLab's variables:
// https://docs.gitlab.com/ci/variables/predefined_variables/
func gitlab(getenv func(string) string) Job {
	j := Job{
		Origin: repository(strings.TrimRight(getenv("CI_SERVER_URL"), "/"), getenv("CI_PROJECT_PATH")),
		System: "GitLab CI", Revision: getenv("CI_COMMIT_SHA"), RunURL: getenv("CI_JOB_URL"),
		Name: getenv("CI_JOB_NAME"), Workspace: getenv("CI_PROJECT_DIR"),
	}
	switch name := getenv("CI_COMMIT_REF_NAME"); {
	case getenv("CI_MERGE_REQUEST_IID") != "":
		// also for merged results and merge trains, which have other references
		j.Ref = "refs/merge-requests/" + getenv("CI_MERGE_REQUEST_IID") + "/head"
	case getenv("CI_COMMIT_TAG") != "":
		j.Ref = "refs/tags/" + getenv("CI_COMMIT_TAG")
	case name != "":
		j.Ref = "refs/heads/" + name
	}
	image := getenv("CI_REGISTRY_IMAGE")
	host, _, ok := strings.Cut(image, "/")
	if !ok {
		j.noCache = "CI_REGISTRY_IMAGE is not set; is the project's container registry enabled?"
		j.Registries = []Registry{ghcr(getenv)}
		return j
	}
	own := Registry{
		Host: host, User: getenv("CI_REGISTRY_USER"), Token: getenv("CI_REGISTRY_PASSWORD"),
		Advice: "CI_REGISTRY_PASSWORD is valid for this project's registry, while the job runs, and not in a job of a fork; for anything " +
			"else give NIXOCI_USERNAME and NIXOCI_PASSWORD, for example of a deploy token with the scopes read_registry and write_registry",
	}
	j.cache = strings.ToLower(image) + cacheName
	j.Registries = []Registry{own, ghcr(getenv)}
	return j
}
