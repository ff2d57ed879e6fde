package e2e

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/report"
)

// The workflow of the README, as it stands there, does the main job. On a new
// machine the second run builds nothing and downloads nothing.
func TestActionPublishes(t *testing.T) {
	t.Parallel()
	workflow := documented(t, "README.md", "# nixoci-action")
	w := newWorld(t)
	w.released(filepath.Join(w.Dir, "action"))
	w.inStore(inDistribution(t))
	nixtest.Write(t, w.Dir, "repo/flake.nix", flakeText(t.Name(), ""))
	first := w.act(workflow)
	first.wants(0, "mode: publish (the input flake is set)", "building '", "## Nix cache <code>", "8 outputs published", "### Largest new paths")
	if first.output("published") != "8" || first.output("failed") != "0" || first.output("uploaded-paths") == "0" {
		t.Error("the outputs do not tell that all is published")
	}
	var outputs []report.Output
	if err := json.Unmarshal([]byte(first.output("outputs")), &outputs); err != nil || len(outputs) != 8 || len(outputs[0].Paths) == 0 {
		t.Errorf("the output outputs: got %v, %+v", err, outputs)
	}
	w.noProxy(first)

	w.forget()
	second := w.act(workflow)
	second.wants(0, "8 outputs published")
	second.lacks("building '", "copying path '", "downloading https")
	w.absent(outputs[0].Paths)
	if second.output("uploaded-paths") != "0" || second.output("cached-paths") != "8" {
		t.Error("the second job uploaded something")
	}
	if n := w.downloads(); n != 1 {
		t.Errorf("got %d downloads of the release, want 1", n)
	}
}

// inStore lets the cache be one for the store of this world, which is not
// /nix/store: a job's first publish does that otherwise. It becomes the jobs'
// default cache.
func (w *world) inStore(cache string) {
	w.Helper()
	flake := filepath.Join(w.Dir, "first")
	nixtest.Write(w, flake, "flake.nix", strings.Replace(flakeText(w.Name()+" first", ""), "packages.${system} =", "packages.other =", 1))
	if r := w.tryPublish(cache, "--upstream", "none", "--flake", flake, "--include", "checks.*"); r.code != 0 {
		w.Fatalf("publish ended with %d: %s", r.code, r.stderr)
	}
	w.jobEnv = append(w.jobEnv, "NIXOCI_CACHE="+cache, "NIXOCI_UPSTREAM=none")
}

// noProxy checks that the job's proxy has ended.
func (w *world) noProxy(j *job) {
	w.Helper()
	if resp, err := http.Get(j.output("substituter") + "/_status"); err == nil {
		resp.Body.Close()
		w.Error("the proxy still runs after the job")
	}
}

const cacheWorkflow = `
on: [push, pull_request]
jobs:
  build:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v7
      - uses: org/nixoci-action@v1
        with:
          signing-key: ${{ secrets.SIGNING_KEY }}
      - run: nix-store --realise $(nix --extra-experimental-features 'nix-command flakes' eval --raw .#app.drvPath)
      - run: exit 7
`

// A job that fails in the end publishes what it has built, signed, and the next
// one need not build it. The key is in no log.
func TestActionCaches(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.inStore(inDistribution(t))
	secret, err := os.ReadFile(w.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	nixtest.Write(t, w.Dir, "repo/flake.nix", flakeText(t.Name(), ""), "secrets", "SIGNING_KEY="+string(secret)+"\n")
	secrets := []string{"--secret-file", filepath.Join(w.Dir, "secrets")}
	first := w.act(cacheWorkflow, secrets...)
	first.wants(1, "mode: cache (without the input flake", "building '", "built in this job: ", "what this job has built is published")
	if first.output("uploaded-paths") == "0" || first.output("public-key") != w.publicKey {
		t.Errorf("got %s uploaded paths, and the key %s", first.output("uploaded-paths"), first.output("public-key"))
	}
	_, hidden, _ := strings.Cut(string(secret), ":")
	first.lacks(hidden)
	w.noProxy(first)

	w.forget()
	second := w.act(cacheWorkflow, secrets...)
	second.wants(1, "copying path '")
	second.lacks("building '")
	if second.output("uploaded-paths") != "0" {
		t.Error("the second job uploaded what it had from the cache")
	}
}

// What somebody else has chosen reads the cache, writes nothing, and is green:
// a pull request from a fork, and the events that run with the repository's own
// token and key.
func TestActionInForkReads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Join(w.Dir, "cache")
	w.inStore("oci:" + dir)
	nixtest.Write(t, w.Dir, "repo/flake.nix", flakeText(t.Name(), ""))
	if r := w.tryPublish("oci:"+dir, "--upstream", "none", "--flake", filepath.Join(w.Dir, "repo"), "--include", "packages.*.lib"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	before := contents(t, dir)
	secret, err := os.ReadFile(w.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	nixtest.Write(t, w.Dir, "secrets", "SIGNING_KEY="+string(secret)+"\n")
	for event, tc := range map[string]struct{ payload, reason string }{
		"pull_request":        {`{"pull_request": {"head": {"repo": {"full_name": "somebody/fork"}}}, "repository": {"full_name": "org/repo"}}`, "the pull request is from somebody/fork"},
		"pull_request_target": {`{"pull_request": {"number": 3, "head": {"repo": {"full_name": "somebody/fork"}}}, "repository": {"full_name": "org/repo"}}`, "the event pull_request_target may be about the code of somebody/fork"},
		"workflow_run":        {`{"workflow_run": {"event": "pull_request", "head_repository": {"full_name": "somebody/fork"}, "pull_requests": []}, "repository": {"full_name": "org/repo"}}`, "the event workflow_run may be about the code of somebody/fork"},
		"issue_comment":       {`{"issue": {"number": 3, "pull_request": {"url": "x"}}, "repository": {"full_name": "org/repo"}}`, "the event issue_comment may be about the code of whoever caused"},
	} {
		nixtest.Write(t, w.Dir, "event.json", tc.payload)
		w.forget()
		workflow := strings.NewReplacer("on: [push, pull_request]", "on: "+event, "exit 7", "true").Replace(cacheWorkflow)
		j := w.act(workflow, event, "--eventpath", filepath.Join(w.Dir, "event.json"), "--secret-file", filepath.Join(w.Dir, "secrets"))
		j.wants(0, "mode: read-only ("+tc.reason, "::notice", "building '")
		if strings.Count(j.log, "::notice") != 1 {
			t.Errorf("%s: there is more than one notice", event)
		}
		j.lacks("::warning", "::error")
		if contents(t, dir) != before {
			t.Errorf("%s: the cache was changed", event)
		}
		w.noProxy(j)
	}
	// a workflow that names the event publishes, and not as main
	nixtest.Write(t, w.Dir, "event.json", `{"pull_request": {"number": 3, "head": {"repo": {"full_name": "somebody/fork"}}}, "repository": {"full_name": "org/repo"}}`)
	w.forget()
	j := w.act(strings.NewReplacer("on: [push, pull_request]", "on: pull_request_target", "exit 7", "true", "signing-key:", "trust-event: pull_request_target\n          signing-key:").Replace(cacheWorkflow),
		"pull_request_target", "--eventpath", filepath.Join(w.Dir, "event.json"), "--secret-file", filepath.Join(w.Dir, "secrets"))
	j.wants(0, "mode: cache", "published")
	pubs := sweep(t, "oci:"+dir).Publications()
	if last := pubs[len(pubs)-1]; last.Ref != "refs/pull/3/merge" {
		t.Errorf("it is published for %q", last.Ref)
	}
}

// The flake of a fork's pull request is built, and nothing of it is published. A
// flake that does not evaluate is red.
func TestActionBuildsForks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Join(w.Dir, "cache")
	w.inStore("oci:" + dir)
	nixtest.Write(t, w.Dir, "event.json", `{"pull_request": {"head": {"repo": {"full_name": "somebody/fork"}}}, "repository": {"full_name": "org/repo"}}`)
	before := contents(t, dir)
	run := func(flake, with string) *job {
		t.Helper()
		nixtest.Write(t, w.Dir, "repo/flake.nix", flake)
		w.forget()
		j := w.act("on: pull_request\njobs:\n  build:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v7\n"+
			"      - uses: org/nixoci-action@v1\n        with: {flake: ., "+with+"}\n", "pull_request", "--eventpath", filepath.Join(w.Dir, "event.json"))
		if contents(t, dir) != before {
			t.Error("the cache was changed")
		}
		return j
	}
	const note = "Nothing is published: the pull request is from somebody/fork"
	j := run(flakeText(t.Name(), ""), "")
	j.wants(0, "mode: build (the pull request is from somebody/fork", "building '", "::notice", "✅ <b>8 outputs built</b>", note)
	j.lacks("::warning", "::error", "published</b>")
	if j.output("published") != "0" || j.output("failed") != "0" {
		t.Errorf("got %s published, %s failed", j.output("published"), j.output("failed"))
	}
	w.noProxy(j)
	w.addConf("experimental-features = nix-command flakes\naccept-flake-config = true\n")
	asking := strings.Replace(flakeText(t.Name(), ""), "{", `{ nixConfig.extra-substituters = [ "http://127.0.0.1:1" ];`, 1)
	run(asking, "accept-flake-config: true").wants(0, "mode: build", "the flake's nixConfig is not used (extra-substituters)")
	j = run(flakeText(t.Name(), "")+"}", "")
	j.wants(1, "mode: build", "::error file=flake.nix,line=22,col=1::", "❌ <b>nothing was built</b>", "syntax error", note)
	j.lacks("✅ <b>")
	j = run(strings.Replace(flakeText(t.Name(), ""), "default = app;", "default = throw \"it is broken\";", 1), "on-fork: build")
	j.wants(1, "❌ <b>1 output failed</b> · ✅ <b>7 outputs built</b>", "it is broken", note)
	j = run(flakeText(t.Name(), ""), "on-fork: read")
	j.wants(0, "mode: read-only", "the cache is only read", note)
	j.lacks("building '")
	j = run("nothing of this is looked at", "on-fork: skip")
	j.wants(0, "mode: skip", "nothing is done", note)
	j.lacks("building '", "substituter=")
}

// contents are the names of the files in a directory.
func contents(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("find", dir, "-type", "f").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// Failing builds are named with their logs, once for all that need them. The
// logs inject nothing.
func TestActionNamesFailures(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.inStore(inDistribution(t))
	nixtest.Write(t, w.Dir, "repo/flake.nix", `{
  outputs = { self }:
    let
      system = "x86_64-linux";
      mk = name: script: derivation { inherit name system; builder = "/bin/sh"; args = [ "-c" script ]; };
      bad = mk "dependency" "echo '::error::injected'; echo '</pre><b>injected</b> | [x](y)'; echo the compiler gives up; exit 3";
      silent = mk "silent" "exit 5";
    in {
      packages.${system} = {
        "a|b<i>\n::warning::injected" = mk "top" "echo ${bad} > $out";
        good = mk "good" "echo good > $out";
        needs = mk "needs" "echo ${bad} > $out";
        inherit silent;
      };
    };
}
`)
	workflow := func(onError string) string {
		return "on: push\njobs:\n  build:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v7\n" +
			"      - uses: org/nixoci-action@v1\n        with: {flake: ., on-error: " + onError + "}\n"
	}
	j := w.act(workflow("fail"))
	j.wants(1, "1 output published", "3 outputs failed", "::error title=", "last lines of its log", "&#60;/pre&#62;&#60;b&#62;injected", "build failed, in silent: builder for '")
	annotations := strings.Count(j.log, "::error title=")
	if n := len(regexp.MustCompile(`(?m)::error title=.*the compiler gives up`).FindAllString(j.log, -1)); n != 1 || annotations != 2 {
		t.Errorf("got the log %d times in %d annotations", n, annotations)
	}
	for line := range strings.Lines(j.log) {
		_, text, _ := strings.Cut(line, "  | ")
		if strings.HasPrefix(strings.TrimSpace(text), "::error::injected") || strings.HasPrefix(strings.TrimSpace(text), "::warning::injected") ||
			strings.Contains(line, "🚧  ::error::injected") || strings.Contains(line, "::warning::injected") && !strings.Contains(line, "title=") && !strings.Contains(line, `\n::`) {
			t.Errorf("a workflow command was injected: %s", line)
		}
	}
	_, summary, _ := strings.Cut(j.log, "Summary - ")
	summary = summary[:strings.Index(summary, "[test.yml")]
	if strings.Contains(summary, "<b>injected") || strings.Count(summary, "the compiler gives up") != 1 {
		t.Errorf("HTML was injected into the summary, or a log is there twice:\n%s", summary)
	}
	if j.output("failed") != "3" || j.output("published") != "1" {
		t.Errorf("got %s failed and %s published", j.output("failed"), j.output("published"))
	}
	w.act(workflow("warn")).wants(0, "::warning title=")
}

// switchable is a registry that the test can take away, or whose token can
// expire: GET /_down and /_expired.
func switchable(t *testing.T) string {
	t.Helper()
	var down, expired atomic.Bool
	real := registry.New()
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/_down":
			down.Store(true)
		case r.URL.Path == "/_expired":
			expired.Store(true)
		case down.Load():
			panic(http.ErrAbortHandler)
		case expired.Load() && r.Method != http.MethodGet && r.Method != http.MethodHead:
			http.Error(rw, `{"errors": [{"code": "DENIED", "message": "token expired"}]}`, http.StatusForbidden)
		default:
			real.ServeHTTP(rw, r)
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// While the registry is away, or refuses, the job's own steps go on. That
// nothing is published is a warning if that is wanted, but a refusal is an error.
func TestActionOutlivesRegistry(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, path string
		code       int
	}{
		{"down", "/_down", 0},
		{"expired token", "/_expired", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			addr := switchable(t)
			w.inStore(addr + "/owner/cache")
			nixtest.Write(t, w.Dir, "repo/flake.nix", flakeText(t.Name(), ""))
			j := w.act(`
on: push
jobs:
  build:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v7
      - uses: org/nixoci-action@v1
        with: {on-error: warn}
      - run: node -e "fetch('http://` + addr + tc.path + `')"
      - run: nix-store --realise $(nix --extra-experimental-features 'nix-command flakes' eval --raw .#app.drvPath)
      - run: echo the build went on
`)
			j.wants(tc.code, "the build went on", "building '")
			if tc.code == 0 {
				j.wants(0, "::warning::")
				j.lacks("::error::")
			} else {
				j.wants(tc.code, "::error::", "token expired")
			}
			w.noProxy(j)
		})
	}
}

// A job that is killed leaves no configuration behind, and nothing that a later
// job on the same machine stumbles over.
func TestActionKilled(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("it finds the job's processes in /proc")
	}
	w := newWorld(t)
	w.inStore(inDistribution(t))
	nixtest.Write(t, w.Dir, "repo/flake.nix", flakeText(t.Name(), ""))
	before := contents(t, filepath.Join(w.Dir, "etc"))
	cmd := w.actCommand(strings.Replace(cacheWorkflow, "exit 7", "echo the job waits; exec sleep 600", 1))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log := ""
	for lines := bufio.NewScanner(out); lines.Scan(); log += lines.Text() + "\n" {
		if strings.Contains(lines.Text(), "| the job waits") {
			break
		}
	}
	if n := w.killAll(); n < 2 {
		t.Errorf("killed %d processes only:\n%s", n, log)
	}
	_ = cmd.Wait()
	if got := contents(t, filepath.Join(w.Dir, "etc")); got != before {
		t.Errorf("Nix's configuration: got %q, want %q", got, before)
	}
	if _, err := os.Stat(filepath.Join(w.Dir, "home/.config/nix")); err == nil {
		t.Error("the user has a configuration of Nix now")
	}
	next := w.act("on: push\njobs:\n  build:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v7\n" +
		"      - uses: org/nixoci-action@v1\n        with: {flake: .}\n")
	next.wants(0, "8 outputs published")
	next.lacks("::warning")
}

// killAll kills all processes of the world's user, as the end of a machine does,
// and returns their number.
func (w *world) killAll() int {
	w.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		w.Fatal(err)
	}
	n := 0
	for _, name := range all {
		env, err := os.ReadFile(name)
		if err != nil || !strings.Contains(string(env), "HOME="+w.Dir+"/home\x00") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && syscall.Kill(pid, syscall.SIGKILL) == nil {
			n++
		}
	}
	return n
}

// Without the right to write, a job ends before its work.
func TestActionRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	addr := switchable(t)
	w.inStore(addr + "/owner/cache")
	nixtest.Write(t, w.Dir, "repo/flake.nix", flakeText(t.Name(), ""))
	if resp, err := http.Get("http://" + addr + "/_expired"); err != nil {
		t.Fatal(err)
	} else {
		resp.Body.Close()
	}
	j := w.act(strings.Replace(cacheWorkflow, "        with:\n", "        with:\n          on-error: warn\n", 1))
	j.wants(1, "::error::", "token expired", "hint: log in", "❌ <b>nothing was published</b>", "> [!TIP]", "> log in")
	j.lacks("building '")
}

func TestActionCollects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := inDistribution(t)
	w.inStore(cache)
	workflow := "on: push\njobs:\n  gc:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v7\n" +
		"      - uses: org/nixoci-action@v1\n        with: {gc: true, dry-run: DRY}\n"
	nixtest.Write(t, w.Dir, "repo/x", "")
	w.act(strings.Replace(workflow, "DRY", "true", 1)).wants(0, "mode: gc (the input gc is set)", "dry run", "### Why", "| kept | 1 |")
	j := w.act(strings.Replace(workflow, "DRY", "false", 1))
	j.wants(0, "| kept | 1 |", "0 manifests deleted")
	j.lacks("dry run", "substituter=")
}
