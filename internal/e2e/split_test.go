package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/report"
)

// buildUnsigned is the job without a key: it publishes, and leaves a report.
func (w *world) buildUnsigned(cache, flake string, args ...string) (result, string) {
	w.Helper()
	file := filepath.Join(w.Dir, "report.json")
	out, err := os.Create(file)
	if err != nil {
		w.Fatal(err)
	}
	defer out.Close()
	cmd := w.command("publish", append([]string{"--unsigned", "--json", "--cache", cache, "--upstream", "none", "--flake", flake, "--include", "packages.*.app"}, args...)...)
	r := w.finish(cmd)
	if r.code != 0 {
		w.Fatalf("the build ended with %d:\n%s", r.code, r.stderr)
	}
	text, err := json.Marshal(&r.Publish)
	if err == nil {
		_, err = out.Write(text)
	}
	if err != nil {
		w.Fatal(err)
	}
	return r, file
}

// trySign is the job with the key. It has neither Nix nor a flake.
func (w *world) trySign(cache string, args ...string) (code int, output string) {
	w.Helper()
	cmd := w.command("sign", append([]string{"--json", "--cache", cache, "--sign-key-file", w.keyFile}, args...)...)
	cmd.Env = append(cmd.Env, "PATH="+w.TempDir())
	out, _ := cmd.CombinedOutput()
	return cmd.ProcessState.ExitCode(), string(out)
}

// A job without the key builds and publishes, one with the key signs what the
// other has reported: then a client that trusts only the key takes it.
func TestTrustSplit(t *testing.T) {
	t.Parallel()
	caches(t, func(t *testing.T, cache string) {
		w := newWorld(t)
		flake := w.flake(flakeText(t.Name(), ""))
		secret, err := os.ReadFile(w.keyFile)
		if err != nil {
			t.Fatal(err)
		}
		cmd := w.command("publish", "--unsigned", "--json", "--cache", cache, "--upstream", "none", "--flake", flake, "--include", "packages.*.lib")
		cmd.Env = append(cmd.Env, "NIX_SIGNING_KEY="+string(secret))
		if r := w.finish(cmd); r.code != 0 || !strings.Contains(r.stderr, "NIX_SIGNING_KEY is set, and not used") {
			t.Fatalf("with a key in the environment: got %d\n%s", r.code, r.stderr)
		}
		lib := w.planned(flake, "lib")
		if e := w.entry(cache, lib); len(e.Signatures) > 0 {
			t.Fatalf("the job without the key has signed: %v", e.Signatures)
		}

		r, file := w.buildUnsigned(cache, flake)
		app := r.named("app")
		if out, err := w.strict(cache).nix("build", "--no-link", app); err == nil {
			t.Errorf("a client that trusts only the key took it before it was signed:\n%s", out)
		}
		if code, out := w.trySign(cache, "--report", file); code != 0 || !strings.Contains(out, app) {
			t.Fatalf("sign ended with %d:\n%s", code, out)
		}
		w.strict(cache).substitute(app, lib)
		if code, out := w.trySign(cache, "--report", file); code != 0 || !strings.Contains(out, "signed: 0 paths") {
			t.Errorf("signed again: %d\n%s", code, out)
		}
		// the next run of both, on a new machine, takes what is signed as cached
		if again, _ := w.buildUnsigned(cache, flake, "--skip-cached", "--trusted-key", w.publicKey); len(again.Fingerprints) != 0 || again.Uploaded.Paths != 0 {
			t.Errorf("the second build: %+v", again.Fingerprints)
		}
		// without the key it knows of nothing signed, and builds
		if again, _ := w.buildUnsigned(cache, flake, "--skip-cached"); len(again.Fingerprints) == 0 || again.Uploaded.Paths != 0 {
			t.Errorf("the build that trusts no key: %+v", again.Fingerprints)
		}
		if bad := w.tryPublish(cache, "--unsigned", "--sign-key-file", w.keyFile, "--flake", flake); bad.code != 2 {
			t.Errorf("--unsigned with a key: got %d\n%s", bad.code, bad.stderr)
		}
	})
}

// An attacker who may write to the registry changes it between the two jobs. He
// gets no signature, the rest is signed, and the next build puts it right.
func TestTrustSplitAttacked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := inDistribution(t)
	flake := w.flake(flakeText(t.Name(), ""))
	r, file := w.buildUnsigned(cache, flake)
	app, lib := r.named("app"), w.planned(flake, "lib")
	a := w.attacker(cache)
	evil := a.evil(app, "echo poison")
	unreported := a.evil("/"+strings.Trim(w.Store, "/")+"/11111111111111111111111111111111-sudo", "echo sudo")
	a.write(a.sign(evil), a.sign(unreported))
	code, out := w.trySign(cache, "--report", file)
	if code != 3 || !strings.Contains(out, "not signed: "+app) || !strings.Contains(out, "hint: ") {
		t.Errorf("got %d\n%s", code, out)
	}
	for _, path := range []string{app, unreported.Path.String()} {
		if w.signed(w.entry(cache, path)) {
			t.Errorf("%s of the attacker is signed", path)
		}
	}
	if !w.signed(w.entry(cache, lib)) {
		t.Error("what is as reported is not signed")
	}
	if out, err := w.strict(cache).nix("build", "--no-link", app); err == nil {
		t.Errorf("a client that trusts only the key took it:\n%s", out)
	}
	again, file := w.buildUnsigned(cache, flake, "--skip-cached", "--trusted-key", w.publicKey)
	if !slices.ContainsFunc(again.Outputs, func(o report.Output) bool { return len(o.Paths) > 0 && o.Paths[0] == app }) {
		t.Errorf("the attacker's program counts as cached: %+v", again.Outputs)
	}
	if code, out := w.trySign(cache, "--report", file); code != 0 {
		t.Errorf("got %d\n%s", code, out)
	}
	w.strict(cache).substitute(app, lib)
}

// Realisations of content-addressed outputs are signed as well, those of the
// report only.
func TestTrustSplitRealisations(t *testing.T) {
	t.Parallel()
	const sudo = "11111111111111111111111111111111-sudo.drv"
	w := newWorld(t)
	w.addConf("extra-experimental-features = ca-derivations\n")
	cache := "oci:" + filepath.Join(w.Dir, "cache")
	r, file := w.buildUnsigned(cache, w.flake(extrasFlake("one")), "--include", "packages.*.ca")
	app := r.named("ca-app")
	a := w.attacker(cache)
	e := w.entry(cache, app)
	e.Realise(format.Realisation{Drv: sudo, Output: "out"})
	a.write(e)
	if code, out := w.trySign(cache, "--report", file); code != 0 {
		t.Fatalf("got %d\n%s", code, out)
	}
	if signed, of := w.realised(cache, app, sudo); of || signed != 2 {
		t.Errorf("got %d realisations signed, want 2; the attacker's: %v", signed, of)
	}
}

// The workflow of docs/ci.md: the job that has the key gets the other's report.
func TestTrustSplitInActions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := inDistribution(t)
	w.inStore(cache)
	secret, err := os.ReadFile(w.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	nixtest.Write(t, w.Dir, "repo/flake.nix", flakeText(t.Name(), ""), "secrets", "SIGNING_KEY="+string(secret)+"\n")
	j := w.act(`
on: push
jobs:
  build:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v7
      - uses: org/nixoci-action@v1
        id: cache
        with: {flake: ., include: packages.*.app, unsigned: true, trusted-keys: "`+strings.TrimSpace(w.publicKey)+`"}
      - run: cp "${{ steps.cache.outputs.report }}" "`+w.Dir+`/kept.json"
  sign:
    needs: build
    runs-on: ubuntu-latest
    steps:
      - uses: org/nixoci-action@v1
        with: {sign: "`+w.Dir+`/kept.json", signing-key: "${{ secrets.SIGNING_KEY }}"}
`, "--secret-file", filepath.Join(w.Dir, "secrets"))
	j.wants(0, "mode: publish", "mode: sign", "signed: ")
	j.lacks("::warning", "::error")
	w.strict(cache).substitute(w.planned(filepath.Join(w.Dir, "repo"), "app"))
}
