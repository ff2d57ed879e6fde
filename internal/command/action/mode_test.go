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
		robot   = "GITHUB_ACTOR=dependabot[bot]"
	)
	run := func(event, head string) string {
		return `{"workflow_run": {"event": "` + event + `", "head_repository": ` + head + `, "pull_requests": []}, "repository": {"full_name": "o/r"}}`
	}
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
		{"a part in a fork", "pull_request", fork, []string{token, flake, "INPUT_PART={}"}, modeBuild, "x/fork"},
		{"the whole", "push", "{}", []string{token, flake, "INPUT_MATRIX=record"}, modePublish, "matrix is record"},
		{"no token", "push", "{}", []string{flake}, "", "no token for ghcr.io"},
		{"no token needed", "push", "{}", []string{flake, local}, modePublish, "flake"},
		{"a secret that is missing", "push", "{}", []string{local, "INPUT_USERNAME=me"}, "", "a username, but no token"},
		{"a secret that is missing, own branch", "pull_request", same, []string{local, flake, "INPUT_USERNAME=me"}, "", "a username, but no token"},
		{"a secret that is missing, gc", "schedule", "{}", []string{local, "INPUT_USERNAME=me", "INPUT_GC=true"}, "", "a username, but no token"},
		{"a secret that is missing in a dry run", "push", "{}", []string{local, flake, "INPUT_USERNAME=me", "INPUT_DRY-RUN=true"}, modePublish, "flake"},
		{"a secret that is missing, a fork", "pull_request", fork, []string{local, flake, "INPUT_USERNAME=me"}, modeBuild, "x/fork"},
		{"Dependabot without the secret", "pull_request", same, []string{robot, local, flake, "INPUT_USERNAME=me"}, modeBuild, "Dependabot's jobs get no secrets"},
		{"Dependabot's push without the secret", "push", "{}", []string{robot, local, "INPUT_USERNAME=me"}, modeReadOnly, "Dependabot"},
		{"Dependabot and the job's token", "pull_request", same, []string{robot, token, flake}, modePublish, "flake"},
		{"Dependabot, gc", "push", "{}", []string{robot, local, "INPUT_USERNAME=me", "INPUT_GC=true"}, modeReadOnly, "Dependabot"},
		{"fork", "pull_request", fork, []string{token, flake}, modeBuild, "x/fork"},
		{"fork, cache mode", "pull_request", fork, []string{token}, modeReadOnly, "x/fork"},
		{"fork, read", "pull_request", fork, []string{token, flake, "INPUT_ON-FORK=read"}, modeReadOnly, "x/fork"},
		{"fork, skip", "pull_request", fork, []string{token, flake, "INPUT_ON-FORK=skip"}, modeSkip, "x/fork"},
		{"fork, skip a plan", "pull_request", fork, []string{token, flake, "INPUT_ON-FORK=skip", "INPUT_MATRIX=plan"}, modeSkip, "x/fork"},
		{"fork, the whole of a matrix", "pull_request", fork, []string{token, flake, "INPUT_MATRIX=record"}, modeReadOnly, "x/fork"},
		{"fork, signing", "pull_request", fork, []string{token, flake, "INPUT_SIGN=report.json"}, modeReadOnly, "x/fork"},
		{"fork, gc", "pull_request", fork, []string{token, flake, "INPUT_GC=true"}, modeReadOnly, "x/fork"},
		{"own branch, skip", "pull_request", same, []string{token, flake, "INPUT_ON-FORK=skip"}, modePublish, "flake"},
		{"target, skip", "pull_request_target", fork, []string{token, flake, "INPUT_ON-FORK=skip"}, modeSkip, "x/fork"},
		{"fork and a login", "pull_request", fork, []string{token, local, flake, "INPUT_USERNAME=me"}, modeBuild, "x/fork"},
		{"deleted fork", "pull_request_review", deleted, []string{token}, modeReadOnly, "a deleted repository"},
		{"own branch", "pull_request", same, []string{token, flake}, modePublish, "flake"},
		{"Gitea, own branch", "pull_request", same, []string{gitea, server, pull, token, flake}, modePublish, "flake"},
		{"Gitea, fork", "pull_request", fork, []string{gitea, server, pull, token, flake}, modeBuild, "x/fork"},
		{"Gitea, fork in a called workflow", "workflow_call", fork, []string{gitea, server, pull, token, flake}, modeBuild, "x/fork"},
		{"Gitea, target in a called workflow", "workflow_call", fork, []string{gitea, server, "GITHUB_REF=refs/heads/main", token, flake}, modeReadOnly, "x/fork"},
		{"AGit", "pull_request", agit, []string{gitea, server, pull, token, flake}, modeBuild, "AGit"},
		{"Gitea, no token", "push", "{}", []string{gitea, server, flake}, "", "no token for git.example.org"},
		{"Forgejo, the job's token", "push", "{}", []string{gitea, "FORGEJO_ACTIONS=true", "GITHUB_TOKEN=t", server, flake}, modePublish, "flake"},
		{"Gitea, a GitHub token is none", "push", "{}", []string{gitea, server, "INPUT_CACHE=ghcr.io/o/r", token, flake}, modePublish, "flake"},
		{"Gitea, a push in a called workflow", "workflow_call", "{}", []string{gitea, server, "GITHUB_REF=refs/heads/main", token, flake}, modePublish, "flake"},
		{"Gitea, a comment", "pull_request_comment", `{"issue": {"number": 3}, "is_pull": true}`, []string{gitea, server, token, flake}, modeReadOnly, "pull_request_comment"},
		{"target", "pull_request_target", fork, []string{token, flake}, modeReadOnly, "see the input trust-event"},
		{"target, own branch", "pull_request_target", same, []string{token, flake}, modePublish, "flake"},
		{"target, cache mode", "pull_request_target", fork, []string{token}, modeReadOnly, "x/fork"},
		{"target, a part", "pull_request_target", fork, []string{token, flake, "INPUT_PART={}"}, modeReadOnly, "x/fork"},
		{"target, a plan", "pull_request_target", fork, []string{token, flake, "INPUT_MATRIX=plan"}, modeMatrix, "plan"},
		{"target, gc", "pull_request_target", fork, []string{token, flake, "INPUT_GC=true"}, modeReadOnly, "x/fork"},
		{"target, gc in a dry run", "pull_request_target", fork, []string{token, "INPUT_GC=true", "INPUT_DRY-RUN=true"}, modeGC, "gc"},
		{"target, trusted", "pull_request_target", fork, []string{token, flake, "INPUT_TRUST-EVENT=workflow_run pull_request_target"}, modePublish, "flake"},
		{"target, another is trusted", "pull_request_target", fork, []string{token, flake, "INPUT_TRUST-EVENT=workflow_run"}, modeReadOnly, "x/fork"},
		{"target, trusted by a word", "pull_request_target", fork, []string{token, flake, "INPUT_TRUST-EVENT=true"}, modeReadOnly, "x/fork"},
		{"run of a fork", "workflow_run", run("pull_request", `{"full_name": "x/fork"}`), []string{token, flake}, modeReadOnly, "x/fork"},
		{"run of a fork's default branch", "workflow_run", run("push", `{"full_name": "x/fork"}`), []string{token, flake}, modeReadOnly, "x/fork"},
		{"run of a deleted fork", "workflow_run", run("pull_request", "null"), []string{token, flake}, modeReadOnly, "a deleted repository"},
		{"run of a comment", "workflow_run", run("issue_comment", `{"full_name": "o/r"}`), []string{token, flake}, modeReadOnly, "whoever caused the event issue_comment"},
		{"run of a target", "workflow_run", run("pull_request_target", `{"full_name": "o/r"}`), []string{token, flake}, modeReadOnly, "pull_request_target"},
		{"run of nobody knows what", "workflow_run", run("", `{"full_name": "o/r"}`), []string{token, flake}, modeReadOnly, "unknown"},
		{"run of a push", "workflow_run", run("push", `{"full_name": "O/r"}`), []string{token, flake}, modePublish, "flake"},
		{"run of an own branch", "workflow_run", run("pull_request", `{"full_name": "o/r"}`), []string{token, flake}, modePublish, "flake"},
		{"run, trusted", "workflow_run", run("pull_request", `{"full_name": "x/fork"}`), []string{token, flake, "INPUT_TRUST-EVENT=workflow_run"}, modePublish, "flake"},
		{"comment on a pull request", "issue_comment", `{"issue": {"number": 3, "pull_request": {"url": "x"}}, "repository": {"full_name": "o/r"}}`, []string{token, flake}, modeReadOnly, "issue_comment"},
		{"issue", "issues", `{"issue": {"number": 3}}`, []string{token, flake}, modeReadOnly, "issues"},
		{"discussion", "discussion_comment", "{}", []string{token, flake}, modeReadOnly, "discussion_comment"},
		{"an event of tomorrow", "tomorrow", "{}", []string{token, flake}, modeReadOnly, "tomorrow"},
		{"a pull request without one", "pull_request", "{}", []string{token, flake}, modeBuild, "whoever"},
		{"signing", "push", "{}", []string{token, "INPUT_SIGN=report.json"}, modeSign, "sign is set"},
		{"signing for a fork", "workflow_run", run("pull_request", `{"full_name": "x/fork"}`), []string{token, "INPUT_SIGN=report.json"}, modeReadOnly, "x/fork"},
		{"clock", "schedule", "{}", []string{token, flake}, modePublish, "flake"},
		{"by hand", "workflow_dispatch", "{}", []string{token, flake}, modePublish, "flake"},
		{"merge queue", "merge_group", "{}", []string{token, flake}, modePublish, "flake"},
		{"release", "release", "{}", []string{token, flake}, modePublish, "flake"},
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
			if tc.want == "" {
				if err == nil || !strings.Contains(err.Error(), tc.reason) {
					t.Errorf("got %s (%s), %v; want the error %q", got, reason, err, tc.reason)
				}
				return
			}
			if err != nil || got != tc.want || !strings.Contains(reason, tc.reason) {
				t.Errorf("got %s (%s), %v; want %s (%s)", got, reason, err, tc.want, tc.reason)
			}
		})
	}
	// what the pull request is from cannot be read: never "not a fork"
	for _, name := range []string{"pull_request", "pull_request_target", "workflow_run", "an event of tomorrow"} {
		if _, err := parseConfig(env("GITHUB_EVENT_NAME", name, "GITHUB_EVENT_PATH", "/nonexistent", "INPUT_CACHE", "localhost:1/x")); err == nil || !strings.Contains(err.Error(), "reading the event") {
			t.Errorf("no event: got %v", err)
		}
	}
	if _, err := parseConfig(env("INPUT_CACHE", "localhost:1/x", "INPUT_ON-FORK", "publish")); err == nil || !strings.Contains(err.Error(), "input on-fork") {
		t.Errorf("on-fork: publish: got %v", err)
	}
	for _, name := range []string{"push", "pull_request", "true"} {
		_, err := parseConfig(env("INPUT_CACHE", "localhost:1/x", "INPUT_TRUST-EVENT", name))
		if wrong := name != "true"; (err != nil) != wrong {
			t.Errorf("trust-event: %s: got %v", name, err)
		}
	}
}

// What is published about a pull request never counts as the branch that the pull
// request is for.
func TestPullRequestIsNotMain(t *testing.T) {
	for name, tc := range map[string]struct{ event, payload, ref, want string }{
		"target":        {"pull_request_target", `{"pull_request": {"number": 7, "head": {"repo": {"full_name": "x/fork"}}}}`, "refs/heads/main", "refs/pull/7/merge"},
		"own branch":    {"pull_request_target", `{"pull_request": {"number": 8, "head": {"repo": {"full_name": "o/r"}}}}`, "refs/heads/main", "refs/pull/8/merge"},
		"run of a fork": {"workflow_run", `{"workflow_run": {"event": "pull_request", "head_repository": {"full_name": "x/fork"}, "pull_requests": []}}`, "refs/heads/main", "refs/pull/0/merge"},
		"run":           {"workflow_run", `{"workflow_run": {"event": "pull_request", "head_repository": {"full_name": "o/r"}, "pull_requests": [{"number": 9}]}}`, "refs/heads/main", "refs/pull/9/merge"},
		"run of a push": {"workflow_run", `{"workflow_run": {"event": "push", "head_repository": {"full_name": "o/r"}}}`, "refs/heads/main", ""},
		"comment":       {"issue_comment", `{"issue": {"number": 5, "pull_request": {}}}`, "refs/heads/main", "refs/pull/5/merge"},
		"pull request":  {"pull_request", `{"pull_request": {"number": 7, "head": {"repo": {"full_name": "o/r"}}}}`, "refs/pull/7/merge", ""},
		"push":          {"push", `{}`, "refs/heads/main", ""},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "event.json")
			if err := os.WriteFile(file, []byte(tc.payload), 0o600); err != nil {
				t.Fatal(err)
			}
			vars := []string{"GITHUB_ACTIONS", "true", "GITHUB_REPOSITORY", "o/r", "GITHUB_REF", tc.ref, "GITHUB_EVENT_NAME", tc.event, "GITHUB_EVENT_PATH", file}
			c, err := parseConfig(env(vars...))
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, kv := range c.environ(publishCommand, nil) {
				if ref, ok := strings.CutPrefix(kv, "GITHUB_REF="); ok {
					got = ref
				}
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
