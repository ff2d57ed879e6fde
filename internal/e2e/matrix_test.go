package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/matrix"
)

// matrixFlake has, for two systems, base ← top, alone, and one name that needs
// quotes. Its salt makes all paths new; what alone does is given.
func matrixFlake(salt, alone string) string {
	return fmt.Sprintf(`{
  outputs = { self }:
    let
      each = f: { x86_64-linux = f "x86_64-linux"; aarch64-linux = f "aarch64-linux"; };
      mk = system: name: script: derivation {
        inherit name system;
        builder = "/bin/sh";
        args = [ "-c" "export PATH=/usr/bin:/bin\n${script}" ];
        salt = "%s";
      };
    in {
      packages = each (system: rec {
        base = mk system "base" "echo base of ${system} > $out";
        top = mk system "top" "echo ${base} > $out";
        default = top;
        "a.b [c]" = mk system "odd" "echo odd of ${system} > $out";
        alone = mk system "alone" "%s";
      });
      nixosConfigurations.arm.config.system.build.toplevel = mk "aarch64-linux" "nixos-system" "echo arm > $out";
    };
}
`, salt, alone)
}

const works = "echo alone > $out"

// twoSystems lets the world build for a second system.
func (w *world) twoSystems() {
	for i, v := range w.Vars {
		if strings.HasPrefix(v, "NIX_CONFIG=") {
			w.Vars[i] = v + "extra-platforms = aarch64-linux\n"
		}
	}
}

// plan has publish plan a matrix, and returns what it prints.
func (w *world) plan(cache string, args ...string) (jobs []matrix.Job, code int, stderr string) {
	w.Helper()
	cmd := w.command("publish", append([]string{"--cache", cache, "--upstream", "none", "--matrix", "plan", "--system", "x86_64-linux", "--system", "aarch64-linux"}, args...)...)
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	_ = cmd.Run()
	if out.Len() > 0 {
		var m matrix.Matrix
		if err := json.Unmarshal(out.Bytes(), &m); err != nil || bytes.Count(out.Bytes(), []byte("\n")) != 1 {
			w.Errorf("the matrix is no line of JSON: %v\n%s", err, out.String())
		}
		jobs = m.Include
	}
	return jobs, cmd.ProcessState.ExitCode(), log.String()
}

// part does one job of a matrix.
func (w *world) part(cache string, j matrix.Job, args ...string) result {
	w.Helper()
	text, err := json.Marshal(map[string]any{
		"name": j.Name, "system": j.System, "runner": j.Runner, "outputs": j.Outputs, "systems": j.Systems, "series": j.Series, "extra": []int{1},
	})
	if err != nil {
		w.Fatal(err)
	}
	return w.tryPublish(cache, append([]string{"--upstream", "none", "--sign-key-file", w.keyFile, "--part", string(text)}, args...)...)
}

func outputsOf(jobs []matrix.Job) (all []string) {
	for _, j := range jobs {
		all = append(all, strings.Split(j.Outputs, "\n")...)
	}
	return all
}

// A plan names what is missing and writes nothing; its jobs build just that, and
// the record publishes all of it without a build. Then nothing is left to do.
func TestMatrix(t *testing.T) {
	t.Parallel()
	caches(t, func(t *testing.T, cache string) {
		w := newWorld(t)
		w.twoSystems()
		flake := w.flake(matrixFlake(t.Name(), works))
		args := []string{"--flake", flake, "--sign-key-file", w.keyFile}
		whole := append([]string{"--matrix", "record", "--upstream", "none", "--system", "x86_64-linux", "--system", "aarch64-linux"}, args...)

		if r := w.publish(cache, "--flake", flake, "--include", "base"); len(r.statuses()["built"]) != 1 {
			t.Fatalf("got %+v", r)
		}
		jobs, code, stderr := w.plan(cache, args...)
		if code != 0 {
			t.Fatalf("the plan ended with %d\n%s", code, stderr)
		}
		got := outputsOf(jobs)
		slices.Sort(got)
		want := []string{
			"nixosConfigurations.arm", `packages.aarch64-linux."a.b [[]c]"`, "packages.aarch64-linux.alone", "packages.aarch64-linux.base", "packages.aarch64-linux.default",
			"packages.aarch64-linux.top", `packages.x86_64-linux."a.b [[]c]"`, "packages.x86_64-linux.alone", "packages.x86_64-linux.default", "packages.x86_64-linux.top",
		}
		if !slices.Equal(got, want) || len(jobs) != 8 {
			t.Fatalf("got the jobs %+v, want one each for %q, but top and default in one", jobs, want)
		}
		for _, j := range jobs {
			if runner := map[string]string{"x86_64-linux": "ubuntu-24.04", "aarch64-linux": "ubuntu-24.04-arm"}[j.System]; j.Runner != runner {
				t.Errorf("the job %s runs on %s, want %s", j.Name, j.Runner, runner)
			}
		}
		if n := len(publications(t, cache)); n != 1 {
			t.Errorf("the plan has written: %d publications", n)
		}

		// before its time, the record names what is missing, and builds nothing
		early := w.tryPublish(cache, whole...)
		if early.code == 0 || len(early.statuses()["failed"]) != 10 || !strings.Contains(early.stderr, `packages.aarch64-linux."a.b [c]" (not in the cache)`) || strings.Contains(early.stderr, "building '") {
			t.Errorf("an early record: got %d, %v\n%s", early.code, early.statuses(), early.stderr)
		}

		for _, j := range jobs {
			w.forget() // each job has a machine of its own
			r := w.part(cache, j, "--flake", flake, "--skip-cached")
			if built := r.statuses()["built"]; r.code != 0 || len(built) != len(strings.Split(j.Outputs, "\n")) {
				t.Errorf("job %s: got %d, built %v\n%s", j.Name, r.code, built, r.stderr)
			}
		}
		w.forget()
		record := w.tryPublish(cache, whole...)
		if record.code != 0 || len(record.statuses()["cached"]) != 11 || record.Uploaded.Paths != 0 || strings.Contains(record.stderr, "building '") {
			t.Fatalf("the record: got %d, %+v\n%s", record.code, record.statuses(), record.stderr)
		}
		w.absent(record.paths())
		pubs := publications(t, cache)
		last := pubs[len(pubs)-1]
		if last.Partial || last.Series != jobs[0].Series || len(last.Roots) != 11 {
			t.Errorf("got the record %+v, want a whole one in the series %q", last, jobs[0].Series)
		}
		for _, p := range pubs[len(pubs)-9 : len(pubs)-1] {
			if !p.Partial || p.Series != last.Series {
				t.Errorf("got the part %+v, want a partial publication of the series", p)
			}
		}
		w.fresh(cache, record.paths())

		if jobs, code, stderr := w.plan(cache, args...); code != 0 || jobs == nil || len(jobs) != 0 || !strings.Contains(stderr, "nothing has to be built") {
			t.Errorf("a second plan: got %d, %+v\n%s", code, jobs, stderr)
		}
		// the parts go, the whole stays
		if c := w.gc(cache, atOnce...); c.code != 0 || c.Removed.Paths != 0 || c.Kept.Paths != record.Closure.Paths {
			t.Errorf("got %d, %+v\n%s", c.code, c, c.stderr)
		}
	})
}

// An output that does not evaluate is named, and the others are planned. A job
// that fails leaves the whole publication before it as the newest.
func TestMatrixFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.twoSystems()
	cache := "oci:" + filepath.Join(w.Dir, "cache")
	whole := []string{"--matrix", "record", "--upstream", "none", "--sign-key-file", w.keyFile, "--system", "x86_64-linux", "--system", "aarch64-linux"}
	flake := w.flake(matrixFlake(t.Name(), works))
	good := w.publish(cache, "--flake", flake, "--system", "x86_64-linux", "--system", "aarch64-linux")
	if r := w.tryPublish(cache, append(whole, "--flake", flake)...); r.code != 0 {
		t.Fatal(r.stderr)
	}

	w.flake(matrixFlake(t.Name(), "exit 7"))
	jobs, _, stderr := w.plan(cache, "--flake", flake)
	if len(jobs) != 2 {
		t.Fatalf("got the jobs %+v, want alone for two systems\n%s", jobs, stderr)
	}
	if r := w.part(cache, jobs[0], "--flake", flake); r.code == 0 || len(r.statuses()["failed"]) != 1 {
		t.Errorf("a failing job: got %d, %+v", r.code, r.statuses())
	}
	if r := w.tryPublish(cache, append(whole, "--flake", flake)...); r.code == 0 || !strings.Contains(r.stderr, "packages.x86_64-linux.alone (not in the cache)") {
		t.Errorf("a record in spite of that: got %d\n%s", r.code, r.stderr)
	}
	if c := w.gc(cache, atOnce...); c.code != 0 || c.Kept.Paths != good.Closure.Paths {
		t.Errorf("got %d, %+v, want what was published before\n%s", c.code, c, c.stderr)
	}

	w.flake(strings.Replace(matrixFlake(t.Name(), "echo new > $out"), "default = top;", `default = abort "no"; last = throw "neither";`, 1))
	jobs, code, stderr := w.plan(cache, "--flake", flake)
	if got := outputsOf(jobs); code != 3 || !slices.Equal(got, []string{"packages.aarch64-linux.alone", "packages.x86_64-linux.alone"}) {
		t.Errorf("outputs that do not evaluate: got %d, %q\n%s", code, got, stderr)
	}
	for _, name := range []string{"packages.aarch64-linux.default (evaluation error)", "packages.x86_64-linux.last (evaluation error)"} {
		if !strings.Contains(stderr, name) {
			t.Errorf("%s is not named:\n%s", name, stderr)
		}
	}
	if _, code, stderr := w.plan(cache, "--flake", flake, "--system", "riscv64-linux"); code != 2 || !strings.Contains(stderr, "no runner is known for the system riscv64-linux") {
		t.Errorf("a system without a runner: got %d\n%s", code, stderr)
	}
}

// To plan needs no right to write, and neither does to build only. Where the cache
// may not be read, which a registry may say of one that is not there yet, all is
// planned or built.
func TestMatrixNeedsNoRights(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flake := w.flake(matrixFlake(t.Name(), works))
	var refuses atomic.Bool
	var writes atomic.Int32
	real := ggcr.New()
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			writes.Add(1)
		}
		if refuses.Load() {
			http.Error(rw, `{"errors": [{"code": "DENIED", "message": "not for you"}]}`, http.StatusForbidden)
			return
		}
		real.ServeHTTP(rw, r)
	}))
	t.Cleanup(s.Close)
	cache := strings.TrimPrefix(s.URL, "http://") + "/a/b"
	if r := w.tryPublish(cache, "--upstream", "none", "--flake", flake); r.code != 0 {
		t.Fatal(r.stderr)
	}
	before := writes.Load()
	jobs, code, stderr := w.plan(cache, "--flake", flake)
	if code != 0 || len(outputsOf(jobs)) != 6 || writes.Load() != before {
		t.Errorf("got %d, %q, and %d writes\n%s", code, outputsOf(jobs), writes.Load()-before, stderr)
	}
	refuses.Store(true)
	jobs, code, stderr = w.plan(cache, "--flake", flake)
	if code != 0 || len(outputsOf(jobs)) != 11 || !strings.Contains(stderr, "warning: the cache cannot be read") || writes.Load() != before {
		t.Errorf("refused: got %d, %q\n%s", code, outputsOf(jobs), stderr)
	}
	built := w.tryPublish(cache, "--upstream", "none", "--flake", flake, "--build-only", "--skip-cached")
	if built.code != 0 || !strings.Contains(built.stderr, "warning: the cache cannot be read") || writes.Load() != before {
		t.Errorf("building refused: got %d, and %d writes\n%s", built.code, writes.Load()-before, built.stderr)
	}
	s.Close()
	if jobs, code, stderr = w.plan(cache, "--flake", flake); code != 1 || jobs != nil {
		t.Errorf("without a registry: got %d, %+v\n%s", code, jobs, stderr)
	}
}

// onRunners maps the labels of a matrix's runners to this machine.
var onRunners = []string{"-P", "ubuntu-24.04=-self-hosted", "-P", "ubuntu-24.04-arm=-self-hosted"}

// meeting is a build that ends when its like for the other system runs at the
// same time.
func (w *world) meeting() string {
	return "touch " + w.Dir + "/met-${system}; n=0; until test -e " + w.Dir + "/met-x86_64-linux -a -e " + w.Dir + "/met-aarch64-linux; do n=\\$((n+1)); test \\$n -lt 900; sleep 0.1; done; echo alone of ${system} > $out"
}

// runsMatrix runs a workflow with three jobs: it fans out, all is in the cache
// afterwards, and a second run finds nothing to do.
func runsMatrix(t *testing.T, w *world, workflow string, args []string) {
	t.Helper()
	w.twoSystems()
	cache := inDistribution(t)
	w.inStore(cache)
	text := strings.ReplaceAll(matrixFlake(t.Name(), w.meeting()), `"alone" "`, `"alone" "set -e; `)
	nixtest.Write(t, w.Dir, "repo/flake.nix", text)
	args = append(append([]string{}, onRunners...), args...)
	first := w.act(workflow, args...)
	first.wants(0, "mode: matrix (the input matrix is plan)", "11 outputs to build in 9 jobs", "| <code>packages&#46;aarch64-linux&#46;alone</code> | aarch64-linux | ubuntu-24&#46;04-arm | 1 |",
		"mode: publish (the input part is set)", "mode: publish (the input matrix is record)", "11 outputs published")
	if t.Failed() {
		return
	}
	pubs := publications(t, cache)
	last := pubs[len(pubs)-1]
	if last.Partial || len(last.Roots) != 11 || len(last.Systems) != 2 {
		t.Errorf("got the record %+v, want 11 roots for 2 systems", last)
	}
	var paths []string
	for _, r := range last.Roots {
		paths = append(paths, filepath.Join(w.Store, r.Path))
	}
	substituter, _, _ := strings.Cut(w.startProxy(cache, 1), "\n")
	c := w.newClient("require-sigs = false\n" + substituter + "\n")
	if out, err := c.nix(append([]string{"build", "--no-link"}, paths...)...); err != nil {
		t.Errorf("substituting: %v\n%s", err, out)
	}
	t.Cleanup(func() { makeWritable(c.root) })

	w.forget()
	second := w.act(workflow, args...)
	second.wants(0, "nothing has to be built", "11 outputs published")
	second.lacks("building '", "copying path '", "the input part is set")

	// one job fails: the others publish, the whole is not recorded
	nixtest.Write(t, w.Dir, "repo/flake.nix", strings.Replace(matrixFlake(t.Name()+"2", works), "echo odd of ${system} > $out", "exit 7", 1))
	before := publications(t, cache)
	third := w.act(workflow, args...)
	third.wants(1, "11 outputs to build in 9 jobs", "1 output published", "build failed")
	third.lacks("the input matrix is record")
	partial := 0
	for _, p := range publications(t, cache)[len(before):] {
		if !p.Partial {
			t.Errorf("though a job has failed, there is the record %+v", p)
		}
		partial++
	}
	if partial < 5 {
		t.Errorf("got %d parts, want those of the jobs that did not fail", partial)
	}

	// one output does not evaluate: it is named, the others are built
	nixtest.Write(t, w.Dir, "repo/flake.nix", strings.Replace(matrixFlake(t.Name()+"3", works), "default = top;", `default = throw "not this one";`, 1))
	before = publications(t, cache)
	fourth := w.act(workflow, args...)
	fourth.wants(1, "9 outputs to build in 9 jobs", "2 failed", "not this one", "the input part is set", "1 output published")
	fourth.lacks("the input matrix is record")
	if n := len(publications(t, cache)) - len(before); n != 9 {
		t.Errorf("got %d new publications, want those of 9 jobs", n)
	}
}

// The workflow of the documentation, as it stands there.
func TestMatrixInActions(t *testing.T) {
	t.Parallel()
	runsMatrix(t, newWorld(t), documented(t, "docs/ci.md", "## Many machines"), nil)
}

func TestMatrixWorkflow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text, args := w.workflow("matrix.yml")
	runsMatrix(t, w, text, args)
}
