package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registrytest"
)

// workflow returns one of this project's workflows, and the arguments with which
// act runs it.
func (w *world) workflow(name string) (text string, args []string) {
	w.Helper()
	b, err := os.ReadFile(filepath.Join("../../.github/workflows", name))
	if err != nil {
		w.Fatal(err)
	}
	args = []string{"-P", "ubuntu-24.04=-self-hosted"}
	install := regexp.MustCompile(`cachix/install-nix-action@[0-9a-f]{40}`)
	for _, action := range install.FindAllString(string(b), 1) {
		args = append(args, "--local-repository", action+"="+filepath.Join(w.Dir, "install"))
	}
	return string(b), args
}

const updateFlake = `{
  inputs.dep = { url = "git+file://%s"; flake = false; };
  outputs = { self, dep }: {
    packages.x86_64-linux.default = derivation {
      name = "from-input"; system = "x86_64-linux"; builder = "/bin/sh"; inherit dep;
      args = [ "-c" "echo $dep > $out" ];
    };
  };
}
`

// The workflow commits and pushes a lock file when an input is new, and nothing
// when none is; on request it opens a pull request instead.
func TestUpdateWorkflow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dep, origin, repo := filepath.Join(w.Dir, "dep"), filepath.Join(w.Dir, "origin.git"), filepath.Join(w.Dir, "repo")
	w.inStore(registrytest.NewDistribution(t).Addr + "/owner/repo/nix-cache")
	w.jobEnv = append(w.jobEnv, "NIX_CONFIG=system = x86_64-linux\nsandbox = false\nbuild-users-group =\nsubstituters =\nflake-registry =\nexperimental-features = nix-command flakes\n",
		"PATH="+filepath.Join(w.Dir, "stubs")+":"+os.Getenv("PATH"))
	nixtest.Write(t, w.Dir, "stubs/gh", "#!/bin/sh\necho \"$@\" >> "+w.Dir+"/gh.log\n[ \"$2\" != list ] || echo 0\n")
	if err := os.Chmod(filepath.Join(w.Dir, "stubs/gh"), 0o755); err != nil {
		t.Fatal(err)
	}
	nixtest.Write(t, dep, "text", "1")
	w.Git(t, dep)
	nixtest.Write(t, repo, "flake.nix", fmt.Sprintf(updateFlake, dep))
	text, args := w.workflow("update.yml")
	nixtest.Write(t, repo, ".github/workflows/test.yml", text)
	w.Git(t, repo)
	w.Env.Run(t, w.Dir, "git", "clone", "-q", "--bare", repo, origin)
	w.Env.Run(t, repo, "git", "remote", "add", "origin", origin)

	run := func(input string) *job {
		t.Helper()
		return w.act(text, append([]string{"workflow_dispatch", "--input", "pull-request=" + input}, args...)...)
	}
	checkout := func() {
		t.Helper()
		w.Env.Run(t, repo, "git", "fetch", "-q", "origin")
		w.Env.Run(t, repo, "git", "reset", "-q", "--hard", "origin/main")
	}
	log := func(branch string) string { return w.Env.Run(t, origin, "git", "log", "--format=%s", branch) }

	checkout()
	run("false").wants(0, "1 output published")
	if got := log("main"); !strings.HasPrefix(got, "flake.lock: Add\n") {
		t.Fatalf("the first run has pushed %q", got)
	}
	before := log("main")
	checkout()
	same := run("false")
	same.wants(0, "nothing is new", "1 output published")
	if got := log("main"); got != before {
		t.Errorf("though nothing is new, it has pushed %q", got)
	}

	nixtest.Write(t, dep, "text", "2")
	w.Git(t, dep)
	checkout()
	run("true").wants(0, "building '", "1 output published")
	if got := log("main"); got != before {
		t.Errorf("instead of a pull request, it has pushed %q", got)
	}
	if got := log("update-flake-lock/main"); !strings.HasPrefix(got, "flake.lock: Update\n") {
		t.Errorf("for the pull request it has pushed %q", got)
	}
	asked, err := os.ReadFile(filepath.Join(w.Dir, "gh.log"))
	if err != nil || !strings.Contains(string(asked), "pr create --head update-flake-lock/main --base main") {
		t.Errorf("got the calls %q of gh, %v", asked, err)
	}

	// Somebody pushes after the checkout.
	checkout()
	other := filepath.Join(w.Dir, "other")
	w.Env.Run(t, w.Dir, "git", "clone", "-q", origin, other)
	w.Env.Run(t, other, "git", "commit", "-q", "--allow-empty", "-m", "meanwhile")
	w.Env.Run(t, other, "git", "push", "-q", "origin", "HEAD:main")
	run("false").wants(0, "1 output published")
	if got := log("main"); !strings.HasPrefix(got, "flake.lock: Update\n") || !strings.Contains(got, "\nmeanwhile\n") {
		t.Errorf("after the push of somebody else, it has pushed %q", got)
	}

	// What does not build is not pushed.
	nixtest.Write(t, dep, "text", "3")
	w.Git(t, dep)
	checkout()
	broken := strings.Replace(fmt.Sprintf(updateFlake, dep), "echo $dep > $out", "exit 1", 1)
	nixtest.Write(t, repo, "flake.nix", broken)
	w.Env.Run(t, repo, "git", "commit", "-q", "-a", "-m", "break it")
	w.Env.Run(t, repo, "git", "push", "-q", "origin", "HEAD:main")
	run("false").wants(1, "from-input")
	if got := log("main"); !strings.HasPrefix(got, "break it\n") {
		t.Errorf("though the build failed, it has pushed %q", got)
	}
}

// What is published on a push, a collection by hand only looks at.
func TestPublishAndCollectWorkflows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.inStore("oci:" + filepath.Join(w.Dir, "cache"))
	repo := filepath.Join(w.Dir, "repo")
	nixtest.Write(t, repo, "flake.nix", flakeText(t.Name(), ""))
	text, args := w.workflow("publish.yml")
	w.act(text, append(args, "push")...).wants(0, "mode: publish", "8 outputs published")

	text, args = w.workflow("gc.yml")
	w.act(text, append(args, "workflow_dispatch", "--input", "dry-run=true")...).wants(0, "mode: gc", "dry run")
	scheduled := w.act(text, append(args, "schedule")...)
	scheduled.wants(0, "mode: gc")
	scheduled.lacks("dry run")
}

// A new repository gets the workflows and a flake that Nix can read. To evaluate
// it needs nixpkgs, which is not here.
func TestTemplate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	source, repo := filepath.Join(w.Dir, "source"), filepath.Join(w.Dir, "repo")
	if err := os.CopyFS(filepath.Join(source, "template"), os.DirFS("../../template")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"flake.nix", "flake.lock"} { // locked, it needs no nixpkgs
		text, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		nixtest.Write(t, source, name, string(text))
	}
	w.Git(t, source)
	nixtest.Write(t, repo, "README.md", "what GitHub has put there")
	w.Git(t, repo)
	w.Nix(t, repo, "flake", "init", "-t", source)
	for _, name := range []string{"publish.yml", "update.yml", "gc.yml"} {
		if got, err := os.ReadFile(filepath.Join(repo, ".github/workflows", name)); err != nil || len(got) == 0 {
			t.Errorf("got %d bytes of %s, %v", len(got), name, err)
		}
	}
	w.Env.Run(t, repo, "nix-instantiate", "--parse", "flake.nix")
}
