package discover

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/nix/nixtest"
)

// at makes outputs arrive all at once.
func at(outputs []Output) <-chan []Output {
	c := make(chan []Output, 1)
	c <- outputs
	close(c)
	return c
}

// The failing build stops nothing but what depends on it.
func TestBuildKeepsGoing(t *testing.T) {
	e := nixtest.New(t)
	dir := filepath.Join(e.Dir, "flake")
	nixtest.Write(t, dir, "flake.nix", flake(`
		packages.x86_64-linux = rec {
			a = good "a";
			bad = make "bad" { args = [ "-c" "echo this goes wrong; exit 7" ]; };
			onBad = make "on-bad" { inherit bad; };
			z = make "z" { inherit a; outputs = [ "out" "doc" ]; };
		};
		devShells.x86_64-linux.shell = make "shell" { inherit (self.packages.x86_64-linux) a; args = [ "-c" "echo not meant to be built; exit 1" ]; };
		devShells.x86_64-linux.onBadShell = make "on-bad-shell" { inherit (self.packages.x86_64-linux) a bad; };
	`))
	r := discoverIn(t, e, dir, nil)
	var log bytes.Buffer
	client := nix.New(nix.Options{Env: e.Vars, Stderr: &log})

	built, err := Build(t.Context(), client, at(r.Outputs), BuildOptions{})
	var failed *nix.CommandError
	if !errors.As(err, &failed) || failed.Message == "" {
		t.Errorf("got %v, want Nix's error", err)
	}
	if !strings.Contains(log.String(), "this goes wrong") {
		t.Errorf("the log does not say what the builder said: %s", log.String())
	}
	if len(built) != len(r.Outputs) {
		t.Fatalf("got %d results for %d outputs", len(built), len(r.Outputs))
	}
	got := map[string][2]int{}
	for _, b := range built {
		got[b.Attr[2]] = [2]int{len(b.Valid), len(b.Missing)}
		if (b.Err == nil) != (len(b.Missing) == 0) || (b.Unbuilt != nil) != (b.Name == "shell") {
			t.Errorf("%s: got %v, unbuilt %v", b.Attr, b.Err, b.Unbuilt)
		}
	}
	// the shell itself fails, what "nix develop" needs is there
	for name, want := range map[string][2]int{"a": {1, 0}, "bad": {0, 1}, "onBad": {0, 1}, "z": {2, 0}, "shell": {1, 0}, "onBadShell": {1, 2}} {
		if got[name] != want {
			t.Errorf("%s: got %v valid and missing, want %v", name, got[name], want)
		}
	}

	// what is built is not given to Nix again
	good := slices.DeleteFunc(r.Outputs, func(o Output) bool { return o.Name != "a" && o.Name != "z" })
	log.Reset()
	if _, err := Build(t.Context(), client, at(good), BuildOptions{}); err != nil || log.Len() > 0 {
		t.Errorf("the second time: got %v and the log %q, want nothing", err, log.String())
	}
}

// stoppers is a flake with outputs that no machine builds, deep in others too,
// with builds that fail, and with 60 that are fine.
func stoppers(t *testing.T, e *nixtest.Env, more string) (dir string) {
	t.Helper()
	dir = filepath.Join(e.Dir, "flake")
	nixtest.Write(t, dir, "flake.nix", flake(`
		packages.x86_64-linux = let
			arm = make "firmware" { system = "aarch64-linux"; };
			feature = make "feature" { requiredSystemFeatures = [ "antigravity" ]; };
			bad = make "bad" { args = [ "-c" "echo this goes wrong; exit 7" ]; };
			deep = make "deep" { middle = make "middle" { inherit arm; }; };
		in {
			inherit feature bad;
			image1 = make "image1" { inherit deep; };
			image2 = make "image2" { inherit deep; };
			lab = make "lab" { inherit feature; };
			onBad = make "on-bad" { inherit bad; };
		} // builtins.listToAttrs (builtins.genList (i: { name = "good${toString i}"; value = good "good${toString i}"; }) 60);
		`+more))
	return dir
}

// runs counts how often Nix is told to build.
type runs struct {
	slog.Handler
	n atomic.Int32
}

func (r *runs) Enabled(context.Context, slog.Level) bool { return true }

func (r *runs) Handle(_ context.Context, record slog.Record) error {
	record.Attrs(func(a slog.Attr) bool {
		if a.Key == "command" && a.Value.String() == "nix-store --realise" {
			r.n.Add(1)
		}
		return true
	})
	return nil
}

// What cannot be built on this machine stops nothing but what needs it. Before
// 2.34 Nix itself ends then.
func TestBuildGoesAround(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		e := v.New(t)
		r := discoverIn(t, e, stoppers(t, e, ""), nil)
		var count runs
		client := nix.New(nix.Options{Env: e.Vars, Stderr: nixtest.Log(t), Logger: slog.New(&count)})
		built, err := Build(t.Context(), client, at(r.Outputs), BuildOptions{})
		if err == nil || len(built) != 66 {
			t.Fatalf("got %d, %v", len(built), err)
		}
		why := map[string]string{"image1": "aarch64-linux", "image2": "aarch64-linux", "feature": "antigravity", "lab": "antigravity", "bad": "7", "onBad": "bad"}
		for _, b := range built {
			name := b.Attr[2]
			want, fails := why[name]
			if fails != (len(b.Missing) == 1) || fails != (b.Err != nil) {
				t.Errorf("%s: %q is missing, %v", name, b.Missing, b.Err)
			} else if fails && (!errors.As(b.Err, new(*nix.CommandError)) || !strings.Contains(b.Err.Error(), want)) {
				t.Errorf("%s: got %v, which does not say %s", name, b.Err, want)
			}
			if failed := name == "bad" || name == "onBad"; failed && nix.Untried(b.Err) {
				t.Errorf("%s: got %v, as if it had not been tried", name, b.Err)
			}
		}
		// all, the rest twice, and three for each two that need the same
		if n := count.n.Load(); n > 9 {
			t.Errorf("Nix was told to build %d times", n)
		}
	})
}

// Many outputs for a foreign system cost two runs each, and the others none: not
// even where none of them needs another.
func TestBuildManyForeign(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		e := v.New(t)
		dir := stoppers(t, e, `packages.aarch64-linux = builtins.listToAttrs (builtins.genList (i: { name = "arm${toString i}"; value = make "arm${toString i}" { system = "aarch64-linux"; }; }) 20);
			checks.x86_64-linux.slow = make "slow" { args = [ "-c" "sleep 1; echo > $out" ]; };`)
		r := discoverIn(t, e, dir, func(o *Options) {
			o.Systems, o.Include = []string{"x86_64-linux", "aarch64-linux"}, []string{"good*", "arm*", "slow"}
		})
		var count runs
		client := nix.New(nix.Options{Env: e.Vars, Stderr: nixtest.Log(t), Logger: slog.New(&count)})
		built, err := Build(t.Context(), client, at(r.Outputs), BuildOptions{})
		if err == nil || len(built) != 81 {
			t.Fatalf("got %d, %v", len(built), err)
		}
		for _, b := range built {
			if foreign := b.System == "aarch64-linux"; foreign != (len(b.Missing) == 1) || foreign && !strings.Contains(b.Err.Error(), "aarch64-linux") {
				t.Errorf("%s: %q is missing, %v", b.Attr, b.Missing, b.Err)
			}
		}
		if n := count.n.Load(); n > 2+2*20 {
			t.Errorf("Nix was told to build %d times", n)
		}
	})
}

// An interruption ends the search as well as the builds.
func TestBuildGoesAroundInterrupted(t *testing.T) {
	t.Parallel()
	e := nixtest.New(t)
	mark := filepath.Join(e.Dir, "mark")
	dir := stoppers(t, e, `checks.x86_64-linux.slow = make "slow" { args = [ "-c" "echo x > `+mark+`; sleep 300" ]; };`)
	r := discoverIn(t, e, dir, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var count runs
	client := nix.New(nix.Options{Env: e.Vars, Logger: slog.New(&count)})
	go func() {
		for begun := time.Now(); ctx.Err() == nil; {
			// In a later run than the one that found out. But that one sometimes
			// waits for the slow build, which Nix has started and fails to kill.
			if _, err := os.Stat(mark); err == nil && (count.n.Load() > 0 || time.Since(begun) > 20*time.Second) {
				cancel()
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	start := time.Now()
	built, err := Build(ctx, client, at(r.Outputs), BuildOptions{MaxJobs: 2})
	if !errors.Is(err, context.Canceled) || len(built) != len(r.Outputs) {
		t.Errorf("got %d, %v", len(built), err)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("took %v", took)
	}
	if n := count.n.Load(); n > 9 {
		t.Errorf("Nix was told to build %d times", n)
	}
}

// A content-addressed derivation has its paths once it is built, and is missing
// by its own name if it cannot be.
func TestBuildFloating(t *testing.T) {
	e := nixtest.New(t)
	for i, v := range e.Vars {
		if strings.HasPrefix(v, "NIX_CONFIG=") {
			e.Vars[i] += "extra-experimental-features = ca-derivations\n"
		}
	}
	dir := filepath.Join(e.Dir, "flake")
	const floating = `__contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";`
	nixtest.Write(t, dir, "flake.nix", flake(`
		packages.x86_64-linux.plain = good "plain";
		packages.x86_64-linux.ca = make "ca" { `+floating+` outputs = [ "out" "dev" ]; args = [ "-c" "echo x > $out; echo y > $dev" ]; };
		packages.x86_64-linux.bad = make "bad" { `+floating+` args = [ "-c" "exit 1" ]; };
	`))
	client := newClient(t, e)
	skipped, err := discoverWith(t.Context(), client, Options{Flake: dir, Systems: []string{"x86_64-linux"}})
	if err != nil || len(skipped.Outputs) != 1 || len(skipped.Skipped) != 2 || skipped.Skipped[0].Reason != UnknownPath {
		t.Fatalf("by default: got %+v, %v", skipped, err)
	}
	r, err := discoverWith(t.Context(), client, Options{Flake: dir, Systems: []string{"x86_64-linux"}, Floating: true})
	if err != nil || len(r.Outputs) != 3 || len(r.Skipped) != 0 {
		t.Fatalf("got %+v, %v", r, err)
	}
	for _, o := range r.Outputs {
		if paths := o.Paths(); o.Name == "plain" != (len(paths) == 1) || slices.Contains(paths, "") {
			t.Errorf("before the build %s has the paths %q", o.Name, paths)
		}
	}
	built, err := Build(t.Context(), client, at(r.Outputs), BuildOptions{})
	if !errors.As(err, new(*nix.CommandError)) {
		t.Errorf("got %v, want Nix's error", err)
	}
	for _, b := range built {
		want := map[string][3]int{"plain": {1, 0, 0}, "ca": {2, 0, 2}, "bad": {0, 1, 0}}[b.Name]
		if got := [3]int{len(b.Valid), len(b.Missing), len(b.Realised)}; got != want {
			t.Errorf("%s: got %v valid, missing and realised, want %v: %+v", b.Name, got, want, b)
		}
		if b.Name == "bad" && (len(b.Missing) != 1 || b.Missing[0] != b.DrvPath+"!out") {
			t.Errorf("missing is %q", b.Missing)
		}
		for _, realised := range b.Realised {
			if b.Outputs[realised.Output] != realised.Path {
				t.Errorf("output %s is %s and %s", realised.Output, b.Outputs[realised.Output], realised.Path)
			}
		}
	}
	for _, o := range r.Outputs {
		if o.Name == "ca" && o.Outputs["out"] != "" {
			t.Error("the build has changed what was given to it")
		}
	}
}

// After an interruption, what was built by then is known.
func TestBuildInterrupted(t *testing.T) {
	e := nixtest.New(t)
	dir := filepath.Join(e.Dir, "flake")
	mark := filepath.Join(e.Dir, "mark")
	nixtest.Write(t, dir, "flake.nix", flake(`
		packages.x86_64-linux.fast = good "fast";
		packages.x86_64-linux.slow = make "slow" { fast = self.packages.x86_64-linux.fast; args = [ "-c" "echo x > `+mark+`; sleep 300" ]; };
	`))
	r := discoverIn(t, e, dir, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(mark); err == nil {
				cancel()
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	start := time.Now()
	built, err := Build(ctx, newClient(t, e), at(r.Outputs), BuildOptions{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("took %v", took)
	}
	if len(built) != 2 || len(built[0].Missing) != 0 || len(built[1].Missing) != 1 {
		t.Errorf("got %+v, want the fast one to be there", built)
	}
}

// An evaluation that does not end is given up, with what is known by then.
func TestEvaluationHasADeadline(t *testing.T) {
	e := nixtest.New(t)
	dir := filepath.Join(e.Dir, "flake")
	nixtest.Write(t, dir, "flake.nix", flake(`
		packages.x86_64-linux = { a = good "a"; forever = import (make "forever" { args = [ "-c" "sleep 300" ]; }); };
	`))
	start := time.Now()
	r, err := discoverWith(t.Context(), newClient(t, e), Options{Flake: dir, Systems: []string{"x86_64-linux"}, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "outputs", attrs(r.Outputs), []string{"packages.x86_64-linux.a"})
	equal(t, "skipped", skipped(r), []string{"packages.x86_64-linux.forever: not evaluated"})
	if pids := pidsIn(t, e.Dir); len(pids) > 0 {
		t.Errorf("processes %v are left", pids)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("took %v", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	if _, err := discoverWith(ctx, newClient(t, e), Options{Flake: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v, want %v", err, context.Canceled)
	}
	if pids := pidsIn(t, e.Dir); len(pids) > 0 {
		t.Errorf("cancelled: processes %v are left", pids)
	}
}

// pidsIn returns the processes whose environment names a folder.
func pidsIn(t *testing.T, dir string) (pids []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), dir) {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}

// Everything in the example is found, builds and runs.
func TestExampleFlake(t *testing.T) {
	e := nixtest.New(t)
	dir := filepath.Join(e.Dir, "config")
	if err := os.CopyFS(dir, os.DirFS("../config")); err != nil {
		t.Fatal(err)
	}
	e.Git(t, dir)
	r := discoverIn(t, e, dir, nil)
	for _, k := range []Kind{Packages, Checks, DevShells, Apps, Formatter, NixOS} {
		if !slices.ContainsFunc(r.Outputs, func(o Output) bool { return o.Kind == k }) {
			t.Errorf("it has no %s", k)
		}
	}
	for _, s := range r.Skipped {
		if s.Reason != OtherSystem || s.System != "aarch64-linux" {
			t.Errorf("skipped %s: %s, %s", s.Attr, s.Reason, s.Message)
		}
	}
	if _, err := Build(t.Context(), newClient(t, e), at(r.Outputs), BuildOptions{}); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(r.Outputs, func(o Output) bool { return o.Name == "hello" })
	if i < 0 {
		t.Fatal("it has no package hello")
	}
	if got := e.Run(t, e.Dir, r.Outputs[i].Outputs["out"]+"/bin/hello"); !strings.HasPrefix(got, "Hello from an OCI registry!\n") {
		t.Errorf("hello says %q", got)
	}
	arm := discoverIn(t, e, dir, func(o *Options) { o.Systems = []string{"aarch64-linux"} })
	if len(arm.Outputs) != len(r.Outputs) {
		t.Errorf("for aarch64-linux: got %q, want as many as for x86_64-linux", attrs(arm.Outputs))
	}
}
