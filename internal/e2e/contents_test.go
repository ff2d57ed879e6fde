package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
)

// derivation builds raw derivations with shell scripts and returns all their
// outputs.
func (w *world) build(nixText string) []string {
	w.Helper()
	drv := w.Env.Run(w.T, w.Dir, "nix-instantiate", "--expr", nixText)
	args := append([]string{"--realise"}, strings.Fields(drv)...)
	w.Env.Run(w.T, w.Dir, "nix-store", args...)
	return strings.Fields(w.Env.Run(w.T, w.Dir, "nix-store", append([]string{"--query", "--outputs"}, strings.Fields(drv)...)...))
}

// Every kind of contents comes out as it went in.
func TestContents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := inDistribution(t)
	paths := w.build(fmt.Sprintf(`let
  mk = name: script: more: derivation ({
    inherit name; system = "%s"; builder = "/bin/sh"; args = [ "-c" "export PATH=/usr/bin:/bin LC_ALL=C\n${script}" ];
  } // more);
in [
  (mk "empty-file" ": > $out" { })
  (mk "empty-dir" "mkdir $out" { })
  (mk "sparse" "truncate -s 300M $out" { })
  (mk "many" "mkdir $out; cd $out; seq 1 20000 | split -l 1 -a 4 -" { })
  (mk "names" ''mkdir $out; cd $out; touch -- "$(printf 'new\nline')" "$(printf 'inv\377alid')" ..x ... "sp ace" 'qu"ote' -dash'' { })
  (mk "links" "mkdir $out; ln -s loop $out/loop; ln -s ../../etc/passwd $out/out; ln -s . $out/here" { })
  (mk "executable" "echo '#!/bin/sh' > $out; chmod +x $out" { })
  (mk "itself" "mkdir $out; echo $out > $out/me" { })
  (mk "fixed" "printf hello > $out" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; })
  (mk "several" "echo $out > $dev; mkdir $out; mkdir $lib; echo $lib > $lib/lib; echo $lib > $out/out" { outputs = [ "out" "dev" "lib" ]; })
]`, system))
	if len(paths) != 12 {
		t.Fatalf("got %d outputs: %v", len(paths), paths)
	}
	r := w.publish(cache, paths...)
	if r.Uploaded.Paths != r.Closure.Paths {
		t.Errorf("got %+v", r)
	}
	w.newClient(w.proxy(cache)).substitute(paths...)
}

// A path whose contents are not what Nix recorded is refused by name, with all
// that refers to it; the others are published.
func TestCorruptedPath(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := inDistribution(t)
	flake := w.flake(flakeText(t.Name(), ""))
	w.Nix(t, flake, "build", "--no-link", "path:"+flake+"#app", "path:"+flake+"#multi")
	lib, _ := filepath.Glob(w.Store + "/*-lib")
	file := filepath.Join(lib[0], "lib")
	for _, f := range []string{lib[0], file} {
		if err := os.Chmod(f, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, []byte("not what was built"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := w.tryPublish(cache, "--upstream", "none", "--sign-key-file", w.keyFile, "--flake", flake)
	if r.code != 3 || !strings.Contains(r.stderr, lib[0]+" is corrupted") {
		t.Errorf("got %d\n%s", r.code, r.stderr)
	}
	bad := map[string]bool{}
	for _, f := range r.Failures {
		bad[f.Path[strings.LastIndexByte(f.Path, '-')+1:]] = true
	}
	if !bad["lib"] || !bad["app"] || bad["base"] || bad["multi"] {
		t.Errorf("got failures %v", r.Failures)
	}
	after := w.tryPublish(cache, "--upstream", "none", "--flake", flake, "--dry-run")
	for _, p := range after.Paths {
		name := p.Path[strings.LastIndexByte(p.Path, '-')+1:]
		if visible := p.Reason == "in cache"; visible == (name == "lib" || name == "app" || name == "system" || name == "shell") {
			t.Errorf("%s: %s", name, p.Reason)
		}
	}
}

// What an upstream cache has is not published, and a client that uses both
// gets everything. The upstream is a real binary cache that Nix wrote.
func TestUpstream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flake := w.flake(flakeText(t.Name(), ""))
	up := filepath.Join(w.Dir, "upstream")
	w.Nix(t, flake, "copy", "--to", "file://"+up+"?secret-key="+w.keyFile, "path:"+flake+"#lib")
	var heads atomic.Int64
	files := http.FileServer(http.Dir(up))
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodHead {
			heads.Add(1)
		}
		files.ServeHTTP(rw, req)
	}))
	defer srv.Close()
	cache := inDistribution(t)
	args := []string{"--upstream", srv.URL, "--sign-key-file", w.keyFile, "--flake", flake}
	r := w.tryPublish(cache, args...)
	if r.code != 0 || r.OnUpstream.Paths != 2 || r.Uploaded.Paths != r.Closure.Paths-2 {
		t.Fatalf("got %+v\n%s", r, r.stderr)
	}
	conf := w.proxy(cache)
	both := strings.Replace(conf, "\n", " "+srv.URL+"\n", 1)
	w.newClient(both).substitute(r.paths()...)

	// hits are remembered: nothing is asked again
	heads.Store(0)
	if r = w.tryPublish(cache, args...); r.code != 0 || r.Uploaded.Paths != 0 || heads.Load() != 0 {
		t.Errorf("second run: got %d uploads, %d requests upstream", r.Uploaded.Paths, heads.Load())
	}
	// without the upstream, what it had is published too
	if r = w.publish(cache, "--flake", flake); r.Uploaded.Paths != 2 {
		t.Errorf("without upstream: got %+v", r)
	}
	w.refresh(conf)
	w.newClient(conf).substitute(r.paths()...)
	// an upstream that is gone is "unknown", not "present"
	srv.Close()
	fresh := inDistribution(t)
	if err := os.RemoveAll(filepath.Join(w.Dir, "home", ".cache")); err != nil {
		t.Fatal(err)
	}
	r = w.tryPublish(fresh, args...)
	if r.code != 0 || r.Uploaded.Paths != r.Closure.Paths || !strings.Contains(r.stderr, "could not say") {
		t.Errorf("upstream gone: got %d, %+v\n%s", r.code, r.Uploaded, r.stderr)
	}
}

// The signing key reaches no log, no child and no builder.
func TestSecretsStayHere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key, err := os.ReadFile(w.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	flake := w.flake(fmt.Sprintf(`{ outputs = { self }: { packages.%[1]s.default = derivation {
  name = "spy"; system = "%[1]s"; builder = "/bin/sh"; salt = "%[2]s";
  fromEval = builtins.getEnv "NIX_SIGNING_KEY" + builtins.getEnv "GITHUB_TOKEN";
  args = [ "-c" "export PATH=/usr/bin:/bin; env > $out; cat /proc/*/environ >> $out 2>/dev/null || true; cat /proc/*/cmdline >> $out 2>/dev/null || true" ];
}; }; }`, system, t.Name()))
	w.Git(t, flake) // dirty work trees are evaluated impurely
	os.WriteFile(filepath.Join(flake, "dirty"), nil, 0o600)
	w.Env.Run(t, flake, "git", "add", "-A")
	cmd := w.command("publish", "--json", "--verbose", "--cache", "oci:"+t.TempDir(), "--upstream", "none", "--flake", flake)
	cmd.Env = append(cmd.Env, "NIX_SIGNING_KEY="+string(key), "GITHUB_TOKEN=ghp_verysecrettoken")
	r := w.finish(cmd)
	if len(r.paths()) != 1 {
		t.Fatalf("got %d\n%s", r.code, r.stderr)
	}
	built, err := os.ReadFile(r.paths()[0])
	if err != nil {
		t.Fatal(err)
	}
	_, secret, _ := strings.Cut(string(key), ":")
	if r.code != 0 || r.Uploaded.Paths != 1 {
		t.Errorf("got %d, %d uploaded\n%s", r.code, r.Uploaded.Paths, r.stderr)
	}
	// the builder is root, or may be the same user: it has seen our process, and
	// no secret
	if runtime.GOOS == "linux" && !strings.Contains(string(built), "/nixoci\x00publish\x00") {
		t.Error("the builder does not see the publisher's process, so this proves nothing")
	}
	for _, s := range []string{secret, "ghp_verysecrettoken"} {
		if strings.Contains(string(built), s) {
			t.Errorf("the builder found %.3s… in /proc", s)
		}
	}
	env, _, _ := strings.Cut(string(built), "\x00")
	for _, s := range []string{secret, "ghp_verysecrettoken"} {
		if strings.Contains(env, s) || strings.Contains(r.stderr, s) {
			t.Errorf("a secret is in the builder's environment or in the log")
		}
	}
}
