package action

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	const (
		fork    = `{"pull_request": {"head": {"repo": {"full_name": "x/fork"}}}, "repository": {"full_name": "o/r"}}`
		same    = `{"pull_request": {"head": {"repo": {"full_name": "O/R"}}}, "repository": {"full_name": "o/r"}}`
		deleted = `{"pull_request": {"head": {"repo": null}}, "repository": {"full_name": "o/r"}}`
		agit    = `{"pull_request": {"head": {"label": "", "ref": "refs/pull/3/head", "repo_id": 1, "repo": {"full_name": "o/r"}}}, "repository": {"full_name": "o/r"}}`
		token   = "INPUT_TOKEN=t"
		gitea   = "GITEA_ACTIONS=true"
		server  = "GITHUB_SERVER_URL=https://git.example.org"
		pull    = "GITHUB_REF=refs/pull/3/head"
		local   = "INPUT_CACHE=localhost:1/x"
		flake   = "INPUT_FLAKE=."
	)
	t.Setenv("DOCKER_CONFIG", t.TempDir()) // nobody is logged in
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("GITHUB_TOKEN", "")
	for _, tc := range []struct {
		name, event, payload string
		inputs               []string
		want                 mode
		reason               string
	}{
		{"nothing", "push", "{}", []string{token}, modeCache, "without the input flake"},
		{"a flake", "push", "{}", []string{token, flake}, modePublish, "flake is set"},
		{"gc", "push", "{}", []string{token, flake, "INPUT_GC=true"}, modeGC, "gc is set"},
		{"a matrix", "push", "{}", []string{token, flake, "INPUT_MATRIX=plan"}, modeMatrix, "matrix is plan"},
		{"a matrix in a fork", "pull_request", fork, []string{flake, "INPUT_MATRIX=plan"}, modeMatrix, "matrix is plan"},
		{"a part", "push", "{}", []string{token, flake, "INPUT_PART={}"}, modePublish, "part is set"},
		{"a part in a fork", "pull_request", fork, []string{token, flake, "INPUT_PART={}"}, modeReadOnly, "x/fork"},
		{"the whole", "push", "{}", []string{token, flake, "INPUT_MATRIX=record"}, modePublish, "matrix is record"},
		{"no token", "push", "{}", []string{flake}, modeReadOnly, "no token for ghcr.io"},
		{"no token needed", "push", "{}", []string{flake, local}, modePublish, "flake"},
		{"a secret that is missing", "push", "{}", []string{local, "INPUT_USERNAME=me"}, modeReadOnly, "no token"},
		{"fork", "pull_request", fork, []string{token, flake}, modeReadOnly, "x/fork"},
		{"fork and a login", "pull_request", fork, []string{token, local, "INPUT_USERNAME=me"}, modeReadOnly, "x/fork"},
		{"deleted fork", "pull_request_review", deleted, []string{token}, modeReadOnly, "a deleted repository"},
		{"own branch", "pull_request", same, []string{token, flake}, modePublish, "flake"},
		{"Gitea, own branch", "pull_request", same, []string{gitea, server, pull, token, flake}, modePublish, "flake"},
		{"Gitea, fork", "pull_request", fork, []string{gitea, server, pull, token, flake}, modeReadOnly, "x/fork"},
		{"Gitea, fork in a called workflow", "workflow_call", fork, []string{gitea, server, pull, token, flake}, modeReadOnly, "x/fork"},
		{"Gitea, target in a called workflow", "workflow_call", fork, []string{gitea, server, "GITHUB_REF=refs/heads/main", token, flake}, modePublish, "flake"},
		{"AGit", "pull_request", agit, []string{gitea, server, pull, token, flake}, modeReadOnly, "AGit"},
		{"Gitea, no token", "push", "{}", []string{gitea, server, flake}, modeReadOnly, "no token for git.example.org"},
		{"Forgejo, the job's token", "push", "{}", []string{gitea, "FORGEJO_ACTIONS=true", "GITHUB_TOKEN=t", server, flake}, modePublish, "flake"},
		{"Gitea, a GitHub token is none", "push", "{}", []string{gitea, server, "INPUT_CACHE=ghcr.io/o/r", token, flake}, modePublish, "flake"},
		{"target", "pull_request_target", fork, []string{token, flake}, modePublish, "flake"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "event.json")
			if err := os.WriteFile(file, []byte(tc.payload), 0o600); err != nil {
				t.Fatal(err)
			}
			pairs := []string{"GITHUB_ACTIONS", "true", "GITHUB_REPOSITORY", "o/r", "GITHUB_EVENT_NAME", tc.event, "GITHUB_EVENT_PATH", file, "HOME", "/h"}
			for _, i := range tc.inputs {
				k, v, _ := strings.Cut(i, "=")
				pairs = append(pairs, k, v)
			}
			c, err := parseConfig(env(pairs...))
			if err != nil {
				t.Fatal(err)
			}
			got, reason, err := choose(c, env(pairs...))
			if err != nil || got != tc.want || !strings.Contains(reason, tc.reason) {
				t.Errorf("got %s (%s), %v; want %s (%s)", got, reason, err, tc.want, tc.reason)
			}
		})
	}
	// what the pull request is from cannot be read: never "not a fork"
	if _, _, err := choose(config{text: map[string]string{}}, env("GITHUB_EVENT_NAME", "pull_request", "GITHUB_EVENT_PATH", "/nonexistent")); err == nil {
		t.Error("no event: got no error")
	}
}
