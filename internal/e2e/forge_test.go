package e2e

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registrytest"
)

// forge is a runner of a Gitea or a Forgejo. The program is act, from which both
// are descended; imitated are the variables that they set, their events, and
// their registry.
type forge struct {
	*world
	*registrytest.Forge
	vars map[string]string
}

const forgeRepository = "Own/Repo"

// newForge makes one whose cache knows the world's store already.
func newForge(t *testing.T, name string) *forge {
	w := newWorld(t)
	f := &forge{world: w, Forge: registrytest.NewForge(t), vars: map[string]string{
		"GITEA_ACTIONS": "true", "GITHUB_REPOSITORY": forgeRepository, "GITHUB_RUN_ID": "812", "GITHUB_RUN_NUMBER": "34", "GITHUB_REF": "refs/heads/main", "GITHUB_REF_NAME": "main",
	}}
	f.vars["GITHUB_SERVER_URL"] = f.URL
	if name == "forgejo" {
		maps.Copy(f.vars, map[string]string{"FORGEJO_ACTIONS": "true", "GITHUB_SERVER_URL": f.URL, "FORGEJO_TOKEN": f.JobToken, "GITHUB_TOKEN": f.JobToken})
	}
	f.vars["GITHUB_API_URL"] = f.URL + "/api/v1"
	nixtest.Write(t, w.Dir, "login/config.json", `{"auths": {"`+f.Addr+`": {"username": "me", "password": "`+f.Token+`"}}}`)
	plain := w.Vars
	w.Vars = append(slices.Clone(plain), "DOCKER_CONFIG="+filepath.Join(w.Dir, "login"))
	w.inStore(f.Cache(forgeRepository))
	w.Vars = plain
	w.jobEnv = slices.DeleteFunc(w.jobEnv, func(kv string) bool { return strings.HasPrefix(kv, "NIXOCI_CACHE=") })
	nixtest.Write(t, w.Dir, "repo/flake.nix", flakeText(t.Name(), ""), "secrets", "PACKAGES_TOKEN="+f.Token+"\nGITHUB_TOKEN="+f.JobToken+"\n",
		"fork-secrets", "GITHUB_TOKEN="+f.JobToken+"\n")
	return f
}

// run runs the workflow as this forge's runner would.
func (f *forge) run(workflow, secrets string, vars map[string]string, args ...string) *job {
	f.Helper()
	all := maps.Clone(f.vars)
	maps.Copy(all, vars)
	args = append(args, "--secret-file", filepath.Join(f.Dir, secrets), "--actor", "somebody")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		args = append(args, "--env", name+"="+all[name])
	}
	j := f.act(workflow, args...)
	j.lacks(f.Token, f.JobToken)
	return j
}

// recorded are the cache's publications.
func (f *forge) recorded() []format.Publication {
	f.Helper()
	return publications(f.T, strings.Replace(f.Cache(forgeRepository), f.Addr, f.Storage.Addr, 1))
}

// event is a pull request's payload, with the fields that matter, as Gitea and
// Forgejo name them.
func (f *forge) event(head, ref string) string {
	f.Helper()
	text, err := json.Marshal(map[string]any{
		"action": "opened", "number": 3,
		"pull_request": map[string]any{
			"number": 3,
			"base":   map[string]any{"label": "main", "ref": "main", "repo_id": 1, "repo": map[string]any{"id": 1, "full_name": forgeRepository}},
			"head":   map[string]any{"label": ref, "ref": ref, "repo_id": 2, "repo": map[string]any{"id": 2, "full_name": head}},
		},
		"repository": map[string]any{"id": 1, "full_name": forgeRepository},
	})
	if err != nil {
		f.Fatal(err)
	}
	nixtest.Write(f, f.Dir, "event.json", string(text))
	return filepath.Join(f.Dir, "event.json")
}

// documented is the first workflow below a heading of a page.
func documented(t *testing.T, page, heading string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", page))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), heading+"\n")
	_, rest, _ = strings.Cut(rest, "```yaml\n")
	workflow, _, ok := strings.Cut(rest, "```\n")
	if !ok {
		t.Fatalf("%s has no workflow below %q", page, heading)
	}
	return workflow
}

// The documented workflow publishes to the forge's own registry; a second run on a
// new machine builds nothing, and gc frees with the registry's own DELETE.
func TestForgePublishes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"gitea", "forgejo"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newForge(t, name)
			workflow := strings.ReplaceAll(documented(t, "docs/ci.md", "## Gitea and Forgejo"), "uses: https://github.com/", "uses: ") // act has no addresses there
			first := f.run(workflow, "secrets", nil)
			first.wants(0, "mode: publish (the input flake is set)", "building '", "8 outputs published")
			if got := first.output("cache"); strings.TrimPrefix(got, "http://") != f.Cache(forgeRepository) {
				t.Errorf("got the cache %s", got)
			}
			f.noProxy(first)

			f.forget()
			second := f.run(workflow, "secrets", nil)
			second.wants(0, "8 outputs published")
			second.lacks("building '", "copying path '")
			if second.output("uploaded-paths") != "0" {
				t.Error("the second job uploaded something")
			}

			pubs := f.recorded()
			last := pubs[len(pubs)-1]
			run := map[string]string{"gitea": "812", "forgejo": "34"}[name]
			if last.Ref != "refs/heads/main" || last.RunURL != f.URL+"/"+forgeRepository+"/actions/runs/"+run || last.Revision == "" {
				t.Errorf("got the publication %+v", last)
			}
			if r := f.Requests(); !slices.Contains(r, "GET /v2/token as somebody 200") {
				t.Errorf("nobody has logged in as the actor: %q", r)
			}

			f.prune(t)
		})
	}
}

// prune collects the cache twice, a day apart: the second time it deletes.
func (f *forge) prune(t *testing.T) {
	t.Helper()
	login := []string{"--retention", "0s", "--pr-retention", "0s", "--keep-last", "0", "--delay", "0s"}
	f.Vars = append(f.Vars, "GITHUB_ACTIONS=true", "GITHUB_TOKEN="+f.Token, "GITHUB_ACTOR=me")
	for k, v := range f.vars {
		if k != "GITHUB_TOKEN" {
			f.Vars = append(f.Vars, k+"="+v)
		}
	}
	for range 2 {
		if c := f.gc("http://"+f.Cache(forgeRepository), login...); c.code != 0 {
			t.Fatalf("gc ended with %d:\n%s%s", c.code, c.stdout, c.stderr)
		}
	}
	deleted := 0
	for _, r := range f.Requests() {
		if strings.HasPrefix(r, "DELETE /v2/own/repo/nix-cache/manifests/sha256:") && strings.HasSuffix(r, " 202") {
			deleted++
		}
		if strings.Contains(r, "/api/v1") {
			t.Errorf("gc asked the forge's API: %s", r)
		}
	}
	if deleted == 0 {
		t.Errorf("nothing was deleted: %q", f.Requests())
	}
}

// What a job's own token may not do is said at once, and what to do.
func TestForgeTokenIsRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"gitea", "forgejo"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newForge(t, name)
			j := f.run("on: push\njobs:\n  build:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v7\n      - uses: org/nixoci-action@v1\n        with: {flake: .}\n", "secrets", nil)
			j.wants(1, "::error::", "401", "hint: the token that a job gets from Gitea or Forgejo may not write packages", "write:package")
			j.lacks("building '")
			for _, r := range f.Requests() {
				if strings.HasSuffix(r, "201") && strings.Contains(r, "somebody") {
					t.Errorf("the registry took %s", r)
				}
			}
		})
	}
}

// Pull requests: those of the repository's own branches publish, those of forks
// and of AGit read in cache mode.
func TestForgePullRequests(t *testing.T) {
	t.Parallel()
	const workflow = `
on: [push, pull_request]
jobs:
  build:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v7
      - uses: org/nixoci-action@v1
        with:
          token: ${{ secrets.PACKAGES_TOKEN }}
      - run: nix-store --realise $(nix --extra-experimental-features 'nix-command flakes' eval --raw .#app.drvPath)
`
	for _, tc := range []struct{ name, head, ref, secrets, mode string }{
		{"own branch", forgeRepository, "feature", "secrets", "cache (without the input flake"},
		{"fork", "somebody/Repo", "feature", "fork-secrets", "read-only (the pull request is from somebody/Repo"},
		{"agit", forgeRepository, "refs/pull/3/head", "fork-secrets", "read-only (the pull request is from a push without a branch (AGit)"},
	} {
		for _, name := range []string{"gitea", "forgejo"} {
			t.Run(name+", "+tc.name, func(t *testing.T) {
				t.Parallel()
				f := newForge(t, name)
				before := len(f.recorded())
				j := f.run(workflow, tc.secrets, map[string]string{"GITHUB_REF": "refs/pull/3/head", "GITHUB_REF_NAME": "3/head"}, "pull_request", "--eventpath", f.event(tc.head, tc.ref))
				j.wants(0, "mode: "+tc.mode, "building '")
				pubs := f.recorded()
				f.noProxy(j)
				if tc.secrets == "secrets" {
					if n := len(pubs); n == before || pubs[n-1].Ref != "refs/pull/3/head" {
						t.Errorf("got the publications %+v", pubs)
					}
					return
				}
				if len(pubs) != before {
					t.Error("the cache was changed")
				}
				j.wants(0, "::notice")
				j.lacks("::warning", "::error")
			})
		}
	}
}
