package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
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

// What must not be published, and is only needed to build, is left out with a
// warning: all that was asked for is there.
func TestBuildDepWithSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := "oci:" + t.TempDir()
	key, err := os.ReadFile(w.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	// what refers to it is left out as well
	flake := w.flake(fmt.Sprintf(`{ outputs = { self }: let
  mk = name: script: derivation { inherit name; system = "%s"; builder = "/bin/sh"; args = [ "-ec" "export PATH=/usr/bin:/bin\n${script}" ]; };
  token = mk "token" "cat %s > $out";
  compiler = mk "compiler" "echo ${token} > $out";
in { packages.%[1]s = { app = mk "app" "test -e ${compiler}; echo > $out"; throws = throw "the key is %[3]s"; }; }; }`, system, w.keyFile, strings.TrimSpace(string(key))))
	r := w.tryPublish(cache, "--upstream", "none", "--sign-key-file", w.keyFile, "--build-deps", "on", "--include", "app", "--flake", "path:"+flake)
	if r.code != 0 || r.Committed != 1 || len(r.Failures) > 0 || len(w.inCache(cache, "token", "compiler")) > 0 {
		t.Errorf("got %d, %d committed, failures %v:\n%s", r.code, r.Committed, r.Failures, r.stderr)
	}
	if !strings.Contains(r.stderr, "others were only built with") || !strings.Contains(r.stderr, "contains") {
		t.Errorf("nothing is said of the secret:\n%s", r.stderr)
	}
	w.newClient(w.proxy(cache)).substitute(r.paths()...)

	// nor is a secret in the report
	r = w.tryPublish(cache, "--upstream", "none", "--sign-key-file", w.keyFile, "--build-deps", "off", "--flake", "path:"+flake)
	for _, o := range r.Outputs {
		if strings.HasSuffix(o.Attr, ".throws") && (!strings.Contains(o.Message, "the key is ***") || o.Status != report.OutputFailed) {
			t.Errorf("got %+v", o)
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

// A job that is killed at any moment is gone on with by the next one, which has
// an empty store: it builds again no more than what was under way, and what had
// ended in the minute before. Nothing that the cache has is built again.
func TestKilledBuildGoesOn(t *testing.T) {
	t.Parallel()
	rounds, builds, each := 2, 8, 1.0
	if *torture {
		rounds, builds, each = 20, 60, 5.0
	}
	const jobs = 2
	random := rand.New(rand.NewPCG(rand.Uint64(), 1))
	w := newWorld(t)
	cache := inDistribution(t)
	w.publish(cache, w.add("first", "there is a cache")...)
	conf := w.proxy(cache)
	w.addConf(fmt.Sprintf("max-jobs = %d\nnarinfo-cache-negative-ttl = 0\n", jobs) + conf)
	log := filepath.Join(w.Dir, "builds")
	for round := range rounds {
		if err := os.WriteFile(log, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		// each build needs the one two before it, so that some are only built with
		flake := w.flake(fmt.Sprintf(`{ outputs = { self }: let
  mk = i: derivation { name = "b${toString i}"; system = "%s"; salt = "%s-%d"; builder = "/bin/sh"; before = if i < 2 then "" else toString (builtins.stringLength (mk (i - 2)).outPath) + builtins.substring 0 0 (mk (i - 2)).outPath;
    args = [ "-ec" "export PATH=/usr/bin:/bin\nsleep %f; head -c 300000 /dev/urandom > $out; echo $name $(date +%%s.%%N) >> %s" ]; };
in { packages.%[1]s.last = mk %[6]d; packages.%[1]s.other = mk %[7]d; }; }`, system, t.Name(), round, each, log, builds-1, builds-2))
		b := w.start(nil, cache, "--build-deps", "on", "--flake", flake)
		// a moment after so many are there
		var names []string
		for i := range builds {
			names = append(names, fmt.Sprintf("b%d", i))
		}
		enough := 1 + random.IntN(builds/2)
		for deadline := time.Now().Add(limit); len(w.inCache(cache, names...)) < round*builds+enough; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the cache has %q:\n%s", w.inCache(cache, names...), b.stderr.String())
			}
		}
		time.Sleep(time.Duration(random.Float64() * 2 * each * float64(time.Second)))
		there := w.inCache(cache, names...)
		_ = b.cmd.Process.Kill()
		killed := time.Now()
		<-b.ended
		before := buildTimes(t, log)
		w.forget()
		w.refresh(conf)
		w.publish(cache, "--build-deps", "on", "--flake", flake)
		all := buildTimes(t, log)
		again, old := 0, 0
		for name, ended := range before {
			if len(all[name]) > 1 {
				again++
				if killed.Sub(ended[0]) > time.Minute {
					old++
				}
			}
		}
		for _, path := range there {
			if name := path[strings.LastIndexByte(path, '-')+1:]; len(all[name]) > 1 {
				t.Errorf("the cache had %s, and it was built again", path)
			}
		}
		t.Logf("round %d: of %d builds that had ended, %d are built again, %d of these are older than a minute", round, len(before), again, old)
		if len(all) != builds {
			t.Errorf("%d of %d builds are made", len(all), builds)
		}
		if old > 0 {
			t.Errorf("%d builds are made again that had ended a minute before", old)
		}
		w.forget()
	}
}

// buildTimes reads when which builds have ended.
func buildTimes(t *testing.T, log string) map[string][]time.Time {
	t.Helper()
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	times := map[string][]time.Time{}
	for line := range strings.Lines(string(text)) {
		name, at, _ := strings.Cut(strings.TrimSpace(line), " ")
		seconds, err := strconv.ParseFloat(at, 64)
		if err != nil {
			t.Fatal(err)
		}
		times[name] = append(times[name], time.UnixMilli(int64(seconds*1000)))
	}
	return times
}
