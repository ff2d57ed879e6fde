package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registrytest"
)

// flakeText is a flake without inputs: base ← lib ← app, multi with two
// outputs, a shell, a check and a system. Its salt makes all paths new; tweak
// changes app alone and what refers to it.
func flakeText(salt, tweak string) string {
	return fmt.Sprintf(`{
  outputs = { self }:
    let
      system = builtins.head (builtins.attrNames { %s = 1; });
      mk = name: script: more: derivation ({
        inherit name system;
        builder = "/bin/sh";
        args = [ "-c" "export PATH=/usr/bin:/bin\n${script}" ];
        salt = "%s";
      } // more);
      base = mk "base" "mkdir $out; echo base $salt > $out/base; seq 1 3000 > $out/numbers" { };
      lib = mk "lib" "mkdir $out; echo ${base} > $out/lib" { };
      app = mk "app" "mkdir -p $out/bin; printf '#!/bin/sh\ncat ${lib}/lib %%s\n' '%s' > $out/bin/app; chmod +x $out/bin/app" { };
      multi = mk "multi" "mkdir $out $dev; echo $dev > $out/dev; echo header > $dev/header" { outputs = [ "out" "dev" ]; };
    in {
      packages.${system} = { inherit base lib app multi; default = app; };
      devShells.${system}.default = mk "shell" "echo ${lib} > $out" { buildInputs = [ multi.dev ]; };
      checks.${system}.works = mk "check" "test -d ${app}; echo ok > $out" { };
      nixosConfigurations.host.config.system.build.toplevel = mk "nixos-system" "mkdir $out; echo ${app} ${multi} > $out/contents" { };
    };
}
`, system, salt, tweak)
}

const system = "x86_64-linux"

func (w *world) flake(text string) string {
	dir := filepath.Join(w.Dir, "flake")
	nixtest.Write(w, dir, "flake.nix", text)
	return dir
}

// The main job: a flake goes in, and a machine with an empty store gets all of
// it out, with signatures required.
func TestPublishAndSubstitute(t *testing.T) {
	t.Parallel()
	caches(t, func(t *testing.T, cache string) {
		w := newWorld(t)
		flake := w.flake(flakeText(t.Name(), ""))
		first := w.publish(cache, "--flake", flake)
		if first.Status != "done" || first.Uploaded.Paths != first.Closure.Paths || first.Committed != first.Closure.Paths || first.Closure.Paths < 8 {
			t.Fatalf("first publish: got %+v", first)
		}
		conf := w.proxy(cache)
		if !strings.Contains(conf, "extra-trusted-public-keys = "+w.publicKey+"\n") {
			t.Errorf("the proxy printed %q, want the key %s", conf, w.publicKey)
		}
		w.newClient(conf).substitute(first.paths()...)

		again := w.publish(cache, "--flake", flake)
		if again.Uploaded.Paths != 0 || again.InCache.Paths != again.Closure.Paths || again.Committed != 0 {
			t.Errorf("second publish: got %+v", again)
		}

		w.flake(flakeText(t.Name(), "changed"))
		changed := w.publish(cache, "--flake", flake)
		var names []string
		for _, p := range changed.Paths {
			names = append(names, p.Path[strings.LastIndexByte(p.Path, '-')+1:])
		}
		// the check's contents stay the same under its new path, so its NAR is
		// there already
		if got := strings.Join(names, " "); changed.Uploaded.Paths != 2 || changed.Reused.Paths != 1 || !strings.Contains(got, "app") || !strings.Contains(got, "system") {
			t.Errorf("one changed package: got %d uploaded (%s), %d reused", changed.Uploaded.Paths, got, changed.Reused.Paths)
		}
		w.newClient(w.proxy(cache)).substitute(changed.paths()...)

		if n, want := changed.Stored.Paths, first.Committed+changed.Committed; n != want || changed.Stored.FileSize <= first.Stored.FileSize {
			t.Errorf("stored: got %d paths, want %d; %d bytes after %d", n, want, changed.Stored.FileSize, first.Stored.FileSize)
		}
		h := changed.History
		if len(h) != 2 || h[0].Paths != first.Closure.Paths || h[1].Paths != changed.Closure.Paths || h[1].NarSize != changed.Closure.NarSize || !h[0].Time.Before(h[1].Time) {
			t.Errorf("history: got %+v", h)
		}
	})
}

// A key that the client does not trust is no key.
func TestSignaturesAreChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := "oci:" + t.TempDir()
	r := w.publish(cache, "--flake", w.flake(flakeText(t.Name(), "")))
	conf := w.proxy(cache)
	substituter, _, _ := strings.Cut(conf, "\n")
	c := w.newClient(substituter + "\n")
	if out, err := c.nix("build", "--no-link", r.paths()[0]); err == nil {
		t.Errorf("a client without the key substituted:\n%s", out)
	}
	if left, _ := filepath.Glob(c.place("*-*")); len(left) > 0 {
		t.Errorf("the client has %v", left)
	}
}

// Paths that were published without a signature get one with the next publish
// that has a key, without an upload; a second key is added to the first.
func TestSigningLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := inDistribution(t)
	flake := w.flake(flakeText(t.Name(), ""))
	unsigned := w.tryPublish(cache, "--upstream", "none", "--flake", flake)
	if unsigned.code != 0 {
		t.Fatalf("got %d\n%s", unsigned.code, unsigned.stderr)
	}
	if want := fmt.Sprintf("not signed: %d paths; no key was given. ", unsigned.Closure.Paths); !strings.Contains(unsigned.stderr, want) {
		t.Errorf("got %s\nwant %q in it", unsigned.stderr, want)
	}
	second := filepath.Join(w.Dir, "second-key")
	w.Env.Run(t, w.Dir, "nix-store", "--generate-binary-cache-key", "e2e-2", second, second+".pub")
	for _, extra := range [][]string{nil, {"--sign-key-file", second}} {
		r := w.publish(cache, append(extra, "--flake", flake)...)
		if r.Uploaded.Paths != 0 || r.Repeated != r.Closure.Paths || r.Committed != r.Closure.Paths {
			t.Errorf("signing later: got %+v", r)
		}
		if want := fmt.Sprintf("signed: %d paths that the cache had already", r.Closure.Paths); r.Signed != r.Closure.Paths || !strings.Contains(r.stderr, want) || strings.Contains(r.stderr, "not signed") {
			t.Errorf("got %s\nwant %q in it", r.stderr, want)
		}
		if again := w.publish(cache, append(extra, "--flake", flake)...); again.Repeated != 0 || again.Signed != 0 || strings.Contains(again.stderr, "signed: ") {
			t.Errorf("signed already: got %+v", again)
		}
	}
	pub, err := os.ReadFile(second + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	conf := w.proxy(cache)
	substituter, _, _ := strings.Cut(conf, "\n")
	for _, key := range []string{w.publicKey, string(pub)} {
		if !strings.Contains(conf, key) {
			t.Errorf("the proxy does not name %s: %s", key, conf)
		}
		w.newClient(substituter + "\nextra-trusted-public-keys = " + key + "\n").substitute(unsigned.paths()...)
	}
}

// Everything is referenced by a tagged manifest, so a collector takes nothing
// that counts.
func TestRegistryGarbageCollection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := registrytest.NewDistribution(t)
	cache := d.Addr + "/a/b"
	r := w.publish(cache, "--flake", w.flake(flakeText(t.Name(), "")))
	w.flake(flakeText(t.Name(), "changed"))
	s := w.publish(cache, "--flake", filepath.Join(w.Dir, "flake"))
	if out := d.Collect(t); !strings.Contains(out, "eligible for deletion") {
		t.Fatalf("the collector did not run:\n%s", out)
	}
	c := w.newClient(w.proxy(cache))
	c.substitute(r.paths()...)
	c.substitute(s.paths()...)
	if again := w.publish(cache, "--flake", filepath.Join(w.Dir, "flake")); again.Uploaded.Paths != 0 {
		t.Errorf("after the collection: got %+v", again)
	}
}

func TestExitStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := "oci:" + t.TempDir()
	none := []string{"--upstream", "none"}
	half := fmt.Sprintf(`{ outputs = { self }: { packages.%[1]s = {
  good = derivation { name = "good"; system = "%[1]s"; builder = "/bin/sh"; args = [ "-c" "echo %[2]s > $out" ]; };
  bad = derivation { name = "bad"; system = "%[1]s"; builder = "/bin/sh"; args = [ "-c" "echo this builder fails; exit 1" ]; };
  broken = throw "broken on purpose";
}; }; }`, system, t.Name())

	r := w.tryPublish(cache, append(none, "--flake", w.flake(half))...)
	if r.code != 3 || r.Status != "partly" || r.Committed != 1 {
		t.Errorf("partly: got %d, %+v", r.code, r)
	}
	for _, want := range []string{"this builder fails", "2 outputs failed", "packages." + system + ".bad", "broken on purpose"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("partly: %q is not in\n%s", want, r.stderr)
		}
	}
	if n := strings.Count(r.stderr, "packages."+system+".bad (build failed)"); n != 1 || strings.Contains(r.stderr, "failed (build failed)") {
		t.Errorf("the outputs that failed are named %d times in\n%s", n, r.stderr)
	}
	w.newClientUnsigned(cache).substitute(r.paths()...)

	r = w.tryPublish(cache, append(none, "--flake", filepath.Join(w.Dir, "flake"), "--include", "bad")...)
	if r.code != 1 || r.Status != "failed" {
		t.Errorf("failed: got %d, %s", r.code, r.stderr)
	}
	r = w.tryPublish(cache, "--no-such-flag")
	if r.code != 2 || !strings.Contains(r.stderr, "--no-such-flag") {
		t.Errorf("usage: got %d, %s", r.code, r.stderr)
	}
	r = w.tryPublish("not/a/registry", "--compression-level", "99")
	if r.code != 2 || !strings.Contains(r.stderr, "names no registry") || !strings.Contains(r.stderr, "99") {
		t.Errorf("two mistakes: got %d, %s", r.code, r.stderr)
	}
}

// newClientUnsigned is a client of a cache without keys.
func (w *world) newClientUnsigned(cache string) *client {
	w.Helper()
	return w.newClient(w.startProxy(cache, 1) + "require-sigs = false\n")
}

func TestDryRunWritesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "cache")
	flake := w.flake(flakeText(t.Name(), ""))
	unbuilt := w.tryPublish("oci:"+dir, "--upstream", "none", "--flake", flake, "--dry-run")
	if unbuilt.code != 0 || len(unbuilt.Outputs) == 0 || unbuilt.Outputs[0].Status != "not built" {
		t.Errorf("nothing is built yet: got %d, %+v", unbuilt.code, unbuilt)
	}
	w.Nix(t, flake, "build", "--no-link", "path:"+flake+"#app")
	r := w.tryPublish("oci:"+dir, "--upstream", "none", "--flake", flake, "--dry-run", "--exclude-path", "lib")
	reasons := map[string]string{}
	for _, p := range r.Paths {
		reasons[p.Path[strings.LastIndexByte(p.Path, '-')+1:]] = p.Reason
	}
	if len(r.LeftOut) != 2 || !strings.HasPrefix(r.LeftOut[1].Reason, "needs ") {
		t.Errorf("left out: got %+v", r.LeftOut)
	}
	for _, o := range r.Outputs {
		if o.Attr == "packages."+system+".lib" && (o.Status != "left out" || o.Reason != "excluded by lib") {
			t.Errorf("left out: got %+v", o)
		}
		if o.Attr == "packages."+system+".base" && o.Status != "present" {
			t.Errorf("in the store, and not built by the dry run: got %+v", o)
		}
	}
	if r.code != 0 || reasons["base"] != "new" || reasons["lib"] != "excluded by lib" || !strings.HasPrefix(reasons["app"], "needs ") {
		t.Errorf("got %d, %v\n%s", r.code, reasons, r.stderr)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the dry run made the cache")
	}
	if left, _ := filepath.Glob(filepath.Join(w.Dir, "home", ".cache", "nixoci", "*")); len(left) > 0 {
		t.Errorf("the dry run wrote %v", left)
	}
}

// What is given by path is published without any evaluation.
func TestStorePaths(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := "oci:" + t.TempDir()
	nixtest.Write(t, w.Dir, "given/file", t.Name())
	path := w.Env.Run(t, w.Dir, "nix-store", "--add", filepath.Join(w.Dir, "given"))
	if err := os.Symlink(path, filepath.Join(w.Dir, "result")); err != nil {
		t.Fatal(err)
	}
	r := w.publish(cache, "./result")
	if r.Uploaded.Paths != 1 {
		t.Errorf("by a link: got %+v", r)
	}
	cmd := w.command("publish", "--json", "--cache", cache, "--upstream", "none", "-")
	cmd.Stdin = strings.NewReader(path + "\n\n")
	if r = w.finish(cmd); r.code != 0 || r.InCache.Paths != 1 {
		t.Errorf("from standard input: got %+v", r)
	}
	read := func(text string) result {
		cmd := w.command("publish", "--json", "--cache", cache, "--upstream", "none", "-")
		cmd.Stdin = strings.NewReader(text)
		return w.finish(cmd)
	}
	if r = read("\n"); r.code != 0 || !strings.Contains(r.stderr, "no store paths were given") {
		t.Errorf("from a command that printed no path: got %d, %s", r.code, r.stderr)
	}
	if r = read(""); r.code != 1 || !strings.Contains(r.stderr, "has the command before the pipe failed?") {
		t.Errorf("from a command that printed nothing: got %d, %s", r.code, r.stderr)
	}
	line := w.add("line", t.Name()+"1", t.Name()+"2")
	if r = read(strings.Join(line, " ") + "\n/etc/passwd\n"); r.code != 3 || r.Uploaded.Paths != 2 || !strings.Contains(r.stderr, `"/etc/passwd" is no store path`) {
		t.Errorf("two in one line, and what is none: got %d, %+v\n%s", r.code, r.Uploaded, r.stderr)
	}
	if r = w.tryPublish(cache, "/etc/passwd"); r.code != 2 {
		t.Errorf("no store path: got %d, %s", r.code, r.stderr)
	}
	if r = w.tryPublish(cache, w.Store+"/00000000000000000000000000000000-absent"); r.code != 1 || !strings.Contains(r.stderr, "00000000000000000000000000000000-absent") {
		t.Errorf("absent path: got %d, %s", r.code, r.stderr)
	}
	other := w.add("other", t.Name())[0]
	if r = w.tryPublish(cache, other, w.Store+"/00000000000000000000000000000000-absent", path); r.code != 3 || r.Uploaded.Paths != 1 || r.InCache.Paths != 1 || !strings.Contains(r.stderr, "00000000000000000000000000000000-absent is not in the local store") {
		t.Errorf("an absent path between two others: got %d, %+v\n%s", r.code, r, r.stderr)
	}
	w.newClient(w.proxy(cache)).substitute(path, other)
}

// appFlake has an app whose program is a file of the flake.
func appFlake(name, more string) string {
	return fmt.Sprintf(`{ outputs = { self }: {
  packages.%[1]s = {
    good = derivation { name = "good"; system = "%[1]s"; builder = "/bin/sh"; args = [ "-c" "echo %[2]s > $out" ]; };
    %[3]s
  };
  apps.%[1]s.deploy = { type = "app"; program = "${self}/deploy.sh"; };
}; }`, system, name, more)
}

// The next Nix keeps no source that it was not told to keep.
func TestPublishWithTheNextNix(t *testing.T) {
	t.Parallel()
	w := newWorldIn(t, nixtest.Next(t))
	dir := w.flake(appFlake(t.Name(), ""))
	nixtest.Write(t, dir, "deploy.sh", "echo deploy\n")
	w.Git(t, dir)
	cache := "oci:" + t.TempDir()
	r := w.publish(cache, "--flake", dir)
	if len(r.Outputs) != 2 || r.Outputs[0].Status != "built" || len(r.Outputs[0].Paths) != 1 || r.Outputs[1].Status != "built" {
		t.Fatalf("got %+v\n%s", r, r.stderr)
	}
	w.newClientUnsigned(cache).substitute(r.paths()...)
}

// What has gone from the store, and what this machine cannot build, cost nothing
// else.
func TestPublishTheRest(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		w := newWorldIn(t, v.New(t))
		// as if somebody had collected garbage between evaluation and build
		w.Wrap(t, "nix-store", `case "$1" in --check-validity)
			for p in "$NIX_STORE_DIR"/*-source; do "$real" --delete "$p" >/dev/null 2>&1; done ;; esac
			exec "$real" "$@"`)
		dir := w.flake(appFlake(t.Name(), `
			image = derivation { name = "image"; system = "`+system+`"; builder = "/bin/sh"; args = [ "-c" "echo > $out" ];
				firmware = derivation { name = "firmware"; system = "riscv32-none"; builder = "/bin/sh"; args = [ ]; }; };
			bad = derivation { name = "bad"; system = "`+system+`"; builder = "/bin/sh"; args = [ "-c" "echo this builder fails; exit 1" ]; };
			other = derivation { name = "other"; system = "`+system+`"; builder = "/bin/sh"; args = [ "-c" "echo `+t.Name()+` > $out" ]; };`))
		nixtest.Write(t, dir, "deploy.sh", "echo deploy\n")
		w.Git(t, dir)
		cache := "oci:" + t.TempDir()
		r := w.tryPublish(cache, "--upstream", "none", "--flake", dir)
		if r.code != 3 || r.Committed != 2 {
			t.Errorf("got %d, %d paths", r.code, r.Committed)
		}
		want := map[string][3]string{
			"apps." + system + ".deploy":    {"failed", "not in the local store", "-source is not in the local store"},
			"packages." + system + ".bad":   {"failed", "build failed", ""},
			"packages." + system + ".good":  {"built", "", ""},
			"packages." + system + ".image": {"failed", "build failed", "riscv32-none"},
			"packages." + system + ".other": {"built", "", ""},
		}
		for _, o := range r.Outputs {
			if w := want[o.Attr]; string(o.Status) != w[0] || o.Reason != w[1] || !strings.Contains(o.Message, w[2]) {
				t.Errorf("got %+v, want %q", o, w)
			}
		}
		if len(r.Outputs) != len(want) || !strings.Contains(r.stderr, "apps."+system+".deploy (not in the local store)") {
			t.Errorf("got %d outputs\n%s", len(r.Outputs), r.stderr)
		}
		w.newClientUnsigned(cache).substitute(r.paths()...)
	})
}
