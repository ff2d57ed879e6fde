package discover

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/nix/nixtest"
)

// recorder gathers what Valid is told.
type recorder struct {
	mu    sync.Mutex
	paths []string
}

func (r *recorder) valid(paths []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paths = append(r.paths, paths...)
}

func (r *recorder) has(path string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.paths, path)
}

// gated is a derivation whose build ends when a file is there.
func gated(name, file string) string {
	return `make "` + name + `" { args = [ "-c" "echo > ` + file + `.begun; until [ -e ` + file + ` ]; do sleep 0.05; done; echo > $out" ]; }`
}

// waitFor fails the test if something does not come true.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for begun := time.Now(); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > 2*time.Minute {
			t.Errorf("not within two minutes: %s", what)
			return
		}
	}
}

func fileThere(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// What is built is told while the rest builds: outputs, and what they need.
func TestBuildTellsWhatIsValid(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		e := v.New(t)
		gate := filepath.Join(e.Dir, "gate")
		dir := filepath.Join(e.Dir, "flake")
		nixtest.Write(t, dir, "flake.nix", flake(`
			packages.x86_64-linux = let dep = make "dep" { outputs = [ "out" "dev" ]; args = [ "-c" "echo > $out; echo > $dev" ]; }; in {
				fast = good "fast";
				bad = make "bad" { args = [ "-c" "exit 1" ]; };
				slow = make "slow" { inherit dep; args = [ "-c" "until [ -e `+gate+` ]; do sleep 0.05; done; echo > $out" ]; };
			};`))
		r := discoverIn(t, e, dir, nil)
		path := map[string]string{}
		for _, o := range r.Outputs {
			path[o.Name] = o.Outputs["out"]
		}
		var told recorder
		var done []string
		go func() {
			waitFor(t, "the fast one and what the slow one needs are told", func() bool {
				told.mu.Lock()
				defer told.mu.Unlock()
				return slices.Contains(told.paths, path["fast"]) && len(told.paths) == 3
			})
			if told.has(path["slow"]) {
				t.Error("what is not built was told")
			}
			nixtest.Write(t, e.Dir, "gate", "")
		}()
		built, err := Build(t.Context(), newClient(t, e), at(r.Outputs), BuildOptions{MaxJobs: 2, Valid: told.valid, Built: func(drv string) { done = append(done, drv[strings.LastIndexByte(drv, '-')+1:]) }})
		if err == nil || len(built) != 3 || !told.has(path["slow"]) || told.has(path["bad"]) || len(told.paths) != 4 {
			t.Errorf("got %d, %v, and was told %q", len(built), err, told.paths)
		}
		slices.Sort(done)
		equal(t, "builds", done, []string{"dep.drv", "fast.drv", "slow.drv"})
		// the second time everything is there at once, and what is not asked for is not told
		told = recorder{}
		if _, err := Build(t.Context(), newClient(t, e), at(r.Outputs), BuildOptions{Valid: told.valid}); err == nil || len(told.paths) != 2 {
			t.Errorf("the second time: got %v and %q", err, told.paths)
		}
	})
}

// What arrives while something is built is built at the same time, as far as Nix
// may run more.
func TestBuildWhileMoreArrives(t *testing.T) {
	t.Parallel()
	e := nixtest.New(t)
	dir := filepath.Join(e.Dir, "flake")
	gate := func(name string) string { return filepath.Join(e.Dir, name) }
	nixtest.Write(t, dir, "flake.nix", flake(`packages.x86_64-linux = { a = `+gated("a", gate("a"))+`; b = `+gated("b", gate("b"))+`; c = `+gated("c", gate("c"))+`; };`))
	r := discoverIn(t, e, dir, nil)
	if len(r.Outputs) != 3 {
		t.Fatalf("got %v", r)
	}
	arriving := make(chan []Output)
	go func() {
		defer close(arriving)
		for i, name := range []string{"a", "b", "c"} {
			arriving <- r.Outputs[i : i+1]
			if name != "c" {
				waitFor(t, name+" is built", func() bool { return fileThere(gate(name) + ".begun") })
			}
		}
		time.Sleep(300 * time.Millisecond)
		if fileThere(gate("c") + ".begun") {
			t.Error("three builds run at once, and Nix may run two")
		}
		nixtest.Write(t, e.Dir, "a", "")
		waitFor(t, "c is built in place of a", func() bool { return fileThere(gate("c") + ".begun") })
		nixtest.Write(t, e.Dir, "b", "")
		nixtest.Write(t, e.Dir, "c", "")
	}()
	var mu sync.Mutex
	var began []string
	processes := 0
	built, err := Build(t.Context(), newClient(t, e), arriving, BuildOptions{MaxJobs: 2, Follow: func() (func(nix.BuildEvent), func()) {
		mu.Lock()
		defer mu.Unlock()
		processes++
		event := func(ev nix.BuildEvent) {
			mu.Lock()
			defer mu.Unlock()
			if ev.Kind == nix.BuildStarted {
				began = append(began, ev.Drv)
			}
		}
		return event, func() {
			mu.Lock()
			defer mu.Unlock()
			processes--
		}
	}})
	if err != nil || len(built) != 3 || len(began) != 3 || processes != 0 {
		t.Errorf("got %d, %v, %q began, and %d processes have not ended", len(built), err, began, processes)
	}
}

// A build of which nothing can be found out costs the others nothing.
func TestUnknownBuildsAreLeft(t *testing.T) {
	t.Parallel()
	e := nixtest.New(t)
	dir := filepath.Join(e.Dir, "flake")
	nixtest.Write(t, dir, "flake.nix", flake(`packages.x86_64-linux.a = good "a";`))
	r := discoverIn(t, e, dir, nil)
	if _, err := Build(t.Context(), newClient(t, e), at(r.Outputs), BuildOptions{}); err != nil {
		t.Fatal(err)
	}
	var told recorder
	b := newBuilder(newClient(t, e), BuildOptions{Valid: told.valid})
	for _, drv := range []string{"", e.Store + "/00000000000000000000000000000000-gone.drv"} {
		b.event(&process{}, nix.BuildEvent{Kind: nix.BuildStarted, Drv: drv})
		b.check(t.Context())
	}
	b.event(&process{}, nix.BuildEvent{Kind: nix.BuildStarted, Drv: r.Outputs[0].DrvPath})
	b.check(t.Context())
	if len(b.begun) > 0 || !slices.Equal(told.paths, r.Outputs[0].Paths()) {
		t.Errorf("left are %v, told %q", b.begun, told.paths)
	}
}
