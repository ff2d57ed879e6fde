package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/report"
)

// slowFlake has two outputs that are built at once, and one that is built when
// the file gate is there, with something that nothing refers to afterwards. Each
// build leaves a line in the file builds.
func slowFlake(salt, gate, builds string) string {
	return fmt.Sprintf(`{ outputs = { self }: let
  mk = name: script: derivation { inherit name; system = "%s"; salt = "%s"; builder = "/bin/sh"; args = [ "-ec" "export PATH=/usr/bin:/bin\necho $name >> %s\n${script}" ]; };
  compiler = mk "compiler" "head -c 100000 /dev/urandom > $out";
in { packages.%[1]s = {
  fast1 = mk "fast1" "echo $salt > $out";
  fast2 = mk "fast2" "head -c 2000000 /dev/urandom > $out";
  slow = mk "slow" "until [ -e %[4]s ]; do sleep 0.05; done; test -e ${compiler}; echo slow $salt > $out";
}; }; }`, system, salt, builds, gate)
}

// background is a publish that goes on while the test does something else.
type background struct {
	w              *world
	cmd            *exec.Cmd
	stdout, stderr syncBuffer
	ended          chan error
}

func (w *world) start(stdin io.Reader, cache string, args ...string) *background {
	w.Helper()
	b := &background{w: w, ended: make(chan error, 1)}
	b.cmd = w.command("publish", append([]string{"--json", "--cache", cache, "--upstream", "none", "--sign-key-file", w.keyFile}, args...)...)
	b.cmd.Stdin, b.cmd.Stdout, b.cmd.Stderr = stdin, &b.stdout, &b.stderr
	if err := b.cmd.Start(); err != nil {
		w.Fatal(err)
	}
	go func() { b.ended <- b.cmd.Wait() }()
	w.Cleanup(func() { _ = b.cmd.Process.Kill() })
	return b
}

// end waits for the end, and returns what was reported.
func (b *background) end() (r result) {
	b.w.Helper()
	select {
	case <-b.ended:
	case <-time.After(limit):
		b.w.Fatalf("publish does not end:\n%s", b.stderr.String())
	}
	r.code, r.stderr = b.cmd.ProcessState.ExitCode(), b.stderr.String()
	if text := b.stdout.String(); text != "" {
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			b.w.Fatalf("the result is no JSON: %v\n%s", err, text)
		}
	}
	return r
}

// waitForNames waits until the cache has paths with these names, and returns
// them.
func (b *background) waitForNames(cache string, names ...string) (paths []string) {
	b.w.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		paths = b.w.inCache(cache, names...)
		if len(paths) == len(names) {
			return paths
		}
		if time.Now().After(deadline) {
			b.w.Fatalf("the cache has %q, want %q:\n%s", paths, names, b.stderr.String())
		}
	}
}

// inCache returns the store paths with these names that the cache has.
func (w *world) inCache(cache string, names ...string) (paths []string) {
	w.Helper()
	repo, err := registry.Open(cache, registry.Options{})
	if err != nil {
		w.Fatal(err)
	}
	s, err := index.Open(repo, index.Options{}).Sweep(context.Background())
	if err != nil {
		return nil // not there yet
	}
	for e := range s.All {
		if slices.Contains(names, e.Path.Name) {
			paths = append(paths, e.Path.String())
		}
	}
	return paths
}

// What is built is in the cache while the rest builds. A job that is killed then
// loses nothing of it: another machine gets it, and the next run neither builds
// nor uploads it again.
func TestKilledWhileBuilding(t *testing.T) {
	t.Parallel()
	for name, kill := range map[string]syscall.Signal{"lost": syscall.SIGKILL, "stopped": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			cache := inDistribution(t)
			builds := filepath.Join(w.Dir, "builds")
			flake := w.flake(slowFlake(t.Name(), filepath.Join(w.Dir, "gate"), builds))
			b := w.start(nil, cache, "--build-deps", "on", "--flake", flake)
			there := b.waitForNames(cache, "fast1", "fast2", "compiler")
			if err := b.cmd.Process.Signal(kill); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			first := b.end()
			if kill == syscall.SIGTERM {
				if first.code != 130 || time.Since(begun) > 20*time.Second {
					t.Errorf("it ended with %d after %v:\n%s", first.code, time.Since(begun), first.stderr)
				}
				for _, o := range first.Outputs {
					want := report.OutputBuilt
					if strings.HasSuffix(o.Attr, ".slow") {
						want = report.OutputNotBuilt
					}
					if o.Status != want {
						t.Errorf("%s is %s: %s", o.Attr, o.Status, o.Reason)
					}
				}
			}
			w.newClient(w.proxy(cache)).substitute(there...)

			nixtest.Write(t, w.Dir, "gate", "")
			second := w.publish(cache, "--flake", flake)
			if second.Uploaded.Paths != 1 || second.InCache.Paths != 2 {
				t.Errorf("the next run: %d uploaded, %d in the cache", second.Uploaded.Paths, second.InCache.Paths)
			}
			w.newClient(w.proxy(cache)).substitute(second.paths()...)
		})
	}
}

// What is only needed to build is left out, unless it is asked for.
func TestBuildDeps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nixtest.Write(t, w.Dir, "gate", "")
	for _, choice := range []string{"on", "off", "auto"} {
		cache := "oci:" + t.TempDir()
		flake := w.flake(slowFlake(t.Name()+choice, filepath.Join(w.Dir, "gate"), filepath.Join(w.Dir, "builds")))
		r := w.publish(cache, "--build-deps", choice, "--flake", flake)
		want := map[string]int{"on": 1}[choice] // this is no CI job
		if got := w.inCache(cache, "compiler"); len(got) != want || r.Closure.Paths != 3 || r.Committed != 3+want {
			t.Errorf("%s: the cache has %q; %d paths of %d are committed", choice, got, r.Committed, r.Closure.Paths)
		}
	}
}

// The first path is in the cache while the last is still to be read.
func TestPathsAreReadOneByOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := inDistribution(t)
	paths := w.add("one", "1", "2", "3")
	in, out := io.Pipe()
	b := w.start(in, cache, "-")
	for i := range paths {
		if _, err := io.WriteString(out, paths[i]+"\n"); err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			b.waitForNames(cache, paths[i][strings.LastIndexByte(paths[i], '/')+34:])
		}
	}
	out.Close()
	if r := b.end(); r.code != 0 || r.Uploaded.Paths != 3 || r.Committed != 3 {
		t.Errorf("got %d, %d uploaded, %d committed:\n%s", r.code, r.Uploaded.Paths, r.Committed, r.stderr)
	}
	w.newClient(w.proxy(cache)).substitute(paths...)
}
