package ci

import (
	"reflect"
	"slices"
	"testing"

	"github.com/org/nixoci-action/internal/origin"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := len(pairs) - 2; i >= 0; i -= 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// with adds variables; the last of a name counts.
func with(base []string, pairs ...string) []string { return slices.Concat(base, pairs) }

// What the systems set is taken from their documentation, and from the source
// of Gitea's and Forgejo's runners.
var (
	onGitHub = []string{
		"CI", "true", "GITHUB_ACTIONS", "true", "GITHUB_SERVER_URL", "https://github.com", "GITHUB_API_URL", "https://api.github.com", "GITHUB_REPOSITORY", "Own/Repo",
		"GITHUB_REF", "refs/heads/main", "GITHUB_SHA", "abc", "GITHUB_WORKFLOW", "CI", "GITHUB_JOB", "build", "GITHUB_RUN_ID", "77", "GITHUB_RUN_NUMBER", "5",
		"GITHUB_WORKSPACE", "/w", "GITHUB_ACTOR", "me", "GITHUB_TOKEN", "t0ken",
	}
	onGitea   = with(onGitHub, "GITEA_ACTIONS", "true", "GITHUB_SERVER_URL", "https://Git.example.org/", "GITHUB_API_URL", "https://git.example.org/api/v1")
	onForgejo = with(onGitea, "FORGEJO_ACTIONS", "true", "GITHUB_SERVER_URL", "http://git.example.org:3000", "FORGEJO_TOKEN", "t0ken")
	onGitLab  = []string{
		"CI", "true", "GITLAB_CI", "true", "CI_SERVER_URL", "https://gitlab.example.org", "CI_PROJECT_PATH", "Group/Project", "CI_PROJECT_DIR", "/builds/p",
		"CI_REGISTRY", "registry.example.org:5050", "CI_REGISTRY_IMAGE", "registry.example.org:5050/group/project", "CI_REGISTRY_USER", "gitlab-ci-token",
		"CI_REGISTRY_PASSWORD", "t0ken", "CI_COMMIT_REF_NAME", "feature/x", "CI_COMMIT_SHA", "abc", "CI_JOB_NAME", "build 1/2",
		"CI_JOB_URL", "https://gitlab.example.org/Group/Project/-/jobs/9", "CI_PIPELINE_SOURCE", "push", "CI_COMMIT_BRANCH", "feature/x",
	}
)

func TestDetect(t *testing.T) {
	for _, tc := range []struct {
		name  string
		env   []string
		want  Job // without registries
		cache string
		hosts []string
	}{
		{name: "nowhere", env: []string{"GITHUB_REPOSITORY", "o/r", "CI", "true", "GITHUB_REF", "x"}, hosts: []string{"ghcr.io"}},
		{
			name: "GitHub", env: onGitHub, cache: "ghcr.io/own/repo/nix-cache", hosts: []string{"ghcr.io"},
			want: Job{Origin: "github.com/Own/Repo", System: "GitHub Actions", Ref: "refs/heads/main", Revision: "abc", RunURL: "https://github.com/Own/Repo/actions/runs/77", Workflow: "CI", Name: "build", Workspace: "/w", GitHubAPI: "https://api.github.com"},
		},
		{
			name: "GitHub Enterprise", env: with(onGitHub, "GITHUB_SERVER_URL", "https://ghe.example.org"), cache: "containers.ghe.example.org/own/repo/nix-cache", hosts: []string{"containers.ghe.example.org"},
			want: Job{Origin: "ghe.example.org/Own/Repo", System: "GitHub Actions", Ref: "refs/heads/main", Revision: "abc", RunURL: "https://ghe.example.org/Own/Repo/actions/runs/77", Workflow: "CI", Name: "build", Workspace: "/w", GitHubAPI: "https://api.github.com"},
		},
		{
			name: "Gitea", env: with(onGitea, "GITHUB_REF", "refs/pull/3/head"), cache: "git.example.org/own/repo/nix-cache", hosts: []string{"git.example.org"},
			want: Job{Origin: "git.example.org/Own/Repo", System: "Gitea Actions", Ref: "refs/pull/3/head", Revision: "abc", RunURL: "https://Git.example.org/Own/Repo/actions/runs/77", Workflow: "CI", Name: "build", Workspace: "/w"},
		},
		{
			name: "Gitea below a path", env: with(onGitea, "GITHUB_SERVER_URL", "https://example.org/git/"), cache: "example.org/own/repo/nix-cache", hosts: []string{"example.org"},
			want: Job{Origin: "example.org/git/Own/Repo", System: "Gitea Actions", Ref: "refs/heads/main", Revision: "abc", RunURL: "https://example.org/git/Own/Repo/actions/runs/77", Workflow: "CI", Name: "build", Workspace: "/w"},
		},
		{
			name: "Forgejo", env: onForgejo, cache: "http://git.example.org:3000/own/repo/nix-cache", hosts: []string{"git.example.org:3000"},
			want: Job{Origin: "git.example.org:3000/Own/Repo", System: "Forgejo Actions", Ref: "refs/heads/main", Revision: "abc", RunURL: "http://git.example.org:3000/Own/Repo/actions/runs/5", Workflow: "CI", Name: "build", Workspace: "/w"},
		},
		{
			name: "GitLab, branch", env: onGitLab, cache: "registry.example.org:5050/group/project/nix-cache", hosts: []string{"registry.example.org:5050", "ghcr.io"},
			want: Job{Origin: "gitlab.example.org/Group/Project", System: "GitLab CI", Ref: "refs/heads/feature/x", Revision: "abc", RunURL: "https://gitlab.example.org/Group/Project/-/jobs/9", Name: "build 1/2", Workspace: "/builds/p"},
		},
		{
			name: "GitLab, tag", env: with(onGitLab, "CI_COMMIT_REF_NAME", "v1", "CI_COMMIT_TAG", "v1", "CI_COMMIT_BRANCH", ""), cache: "registry.example.org:5050/group/project/nix-cache", hosts: []string{"registry.example.org:5050", "ghcr.io"},
			want: Job{Origin: "gitlab.example.org/Group/Project", System: "GitLab CI", Ref: "refs/tags/v1", Revision: "abc", RunURL: "https://gitlab.example.org/Group/Project/-/jobs/9", Name: "build 1/2", Workspace: "/builds/p"},
		},
		{
			name: "GitLab, merge request", env: with(onGitLab, "CI_PIPELINE_SOURCE", "merge_request_event", "CI_MERGE_REQUEST_IID", "12", "CI_COMMIT_BRANCH", "", "CI_MERGE_REQUEST_REF_PATH", "refs/merge-requests/12/merge"),
			cache: "registry.example.org:5050/group/project/nix-cache", hosts: []string{"registry.example.org:5050", "ghcr.io"},
			want: Job{Origin: "gitlab.example.org/Group/Project", System: "GitLab CI", Ref: "refs/merge-requests/12/head", Revision: "abc", RunURL: "https://gitlab.example.org/Group/Project/-/jobs/9", Name: "build 1/2", Workspace: "/builds/p"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Detect(env(tc.env...))
			cache, err := got.DefaultCache()
			if cache != tc.cache || err != nil {
				t.Errorf("cache: got %q, %v, want %q", cache, err, tc.cache)
			}
			var hosts []string
			for _, r := range got.Registries {
				hosts = append(hosts, r.Host)
			}
			if !reflect.DeepEqual(hosts, tc.hosts) {
				t.Errorf("registries: got %q, want %q", hosts, tc.hosts)
			}
			got.Registries, got.cache = nil, ""
			if !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
			// what older programs have recorded says the same
			if run := origin.Run(got.RunURL); run != got.Origin {
				t.Errorf("the run's page %s belongs to %q, want %q", got.RunURL, run, got.Origin)
			}
		})
	}
}

func TestNoDefaultCache(t *testing.T) {
	for name, e := range map[string][]string{
		"no repository":                  {"GITHUB_ACTIONS", "true"},
		"a server that is none":          with(onGitea, "GITHUB_SERVER_URL", "git.example.org"),
		"a GitHub that is none":          with(onGitHub, "GITHUB_SERVER_URL", "ghe.example.org"),
		"a project without a registry":   with(onGitLab, "CI_REGISTRY_IMAGE", ""),
		"a server that is not on HTTP":   with(onForgejo, "GITHUB_SERVER_URL", "ssh://git.example.org"),
		"a server that nobody has named": with(onForgejo, "GITHUB_SERVER_URL", ""),
	} {
		if cache, err := Detect(env(e...)).DefaultCache(); cache != "" || err == nil {
			t.Errorf("%s: got %q, %v", name, cache, err)
		}
	}
}

// A job's token goes to the registry of its own CI system only.
func TestOwn(t *testing.T) {
	plain := with(onGitea, "GITHUB_SERVER_URL", "http://git.example.org")
	for _, tc := range []struct {
		env   []string
		cache string
		want  string
	}{
		{onGitHub, "ghcr.io/o/r", "ghcr.io"},
		{onGitHub, "https://ghcr.io/o/r", "ghcr.io"},
		{onGitHub, "http://ghcr.io/o/r", ""},
		{onGitHub, "ghcr.io.example.org/o/r", ""},
		{onGitHub, "ghcr.io", ""},
		{onGitHub, "oci:/ghcr.io/x", ""},
		{nil, "ghcr.io/o/r", ""},
		{onGitea, "git.example.org/o/r", "git.example.org"},
		{onGitea, "git.example.org:3000/o/r", ""},
		{onGitea, "http://git.example.org/o/r", ""},
		{onGitea, "ghcr.io/o/r", ""},
		{plain, "http://git.example.org/o/r", "git.example.org"},
		{plain, "git.example.org/o/r", "git.example.org"},
		{onForgejo, "git.example.org/o/r", ""},
		{onGitLab, "registry.example.org:5050/other/project", "registry.example.org:5050"},
		{onGitLab, "ghcr.io/o/r", ""},
	} {
		got, ok := Detect(env(tc.env...)).Own(tc.cache)
		if got.Host != tc.want || ok != (tc.want != "") {
			t.Errorf("%s: got %q, %t, want %q", tc.cache, got.Host, ok, tc.want)
		}
	}
}

// The GitHub CLI's variable counts outside of CI, where the other is not set.
func TestGHToken(t *testing.T) {
	for _, tc := range []struct{ github, gh, want string }{{"", "b", "b"}, {"a", "b", "a"}, {"", "", ""}} {
		j := Detect(func(name string) string {
			return map[string]string{"GITHUB_TOKEN": tc.github, "GH_TOKEN": tc.gh}[name]
		})
		if got := j.Registries[0].Token; got != tc.want {
			t.Errorf("%+v: got %q", tc, got)
		}
	}
}
