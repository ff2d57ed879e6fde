package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/org/nixoci-action/report"
)

// collection is what gc reported.
type collection struct {
	report.GC

	code           int
	stdout, stderr string
}

// gc runs gc.
func (w *world) gc(cache string, args ...string) collection {
	w.Helper()
	cmd := w.command("gc", append([]string{"--cache", cache}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	timer := time.AfterFunc(limit, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
	defer timer.Stop()
	err := cmd.Wait()
	c := collection{stdout: stdout.String(), stderr: stderr.String()}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		c.code = exit.ExitCode()
	} else if err != nil {
		w.Fatal(err)
	}
	if slices.Contains(args, "--json") {
		if err := json.Unmarshal(stdout.Bytes(), &c); err != nil && c.code != 2 {
			w.Fatalf("the result is no JSON: %v\n%s\n%s", err, stdout.String(), stderr.String())
		}
	}
	return c
}

// removed are the names of the paths that a plan removes.
func (c collection) removed() string {
	var names []string
	for _, p := range c.Paths {
		if !p.Keep {
			_, name, _ := strings.Cut(filepath.Base(p.Path), "-")
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func (c collection) reason(name string) string {
	for _, p := range c.Paths {
		if strings.HasSuffix(p.Path, "-"+name) {
			return p.Reason
		}
	}
	return "absent"
}

// atOnce has gc forget at once what is not to be kept for ever.
var atOnce = []string{"--json", "--retention", "0s", "--delay", "0s"}

// What a newer publication has replaced goes, what is pinned or in the flake
// stays, and clients get all that stays.
func TestCollect(t *testing.T) {
	t.Parallel()
	caches(t, func(t *testing.T, cache string) {
		w := newWorld(t)
		first, second := flakeText(t.Name(), ""), flakeText(t.Name(), "changed")
		old := w.publish(cache, "--flake", w.flake(first), "--pin", "production")
		flake := w.flake(second)
		current := w.publish(cache, "--flake", flake)

		// by default nothing is old enough
		if c := w.gc(cache, "--json", "--dry-run"); c.code != 0 || c.Removed.Paths != 0 || c.Result != nil {
			t.Errorf("with the defaults: got %d, %+v\n%s", c.code, c, c.stderr)
		}
		pinned := w.gc(cache, append(atOnce, "--dry-run")...)
		if pinned.code != 0 || pinned.Removed.Paths != 0 || len(pinned.Pins) != 1 || pinned.Pins[0].Name != "production" {
			t.Errorf("pinned: got %d, %+v\n%s", pinned.code, pinned, pinned.stderr)
		}
		if c := w.gc(cache, append(atOnce, "--unpin", "prodution")...); c.code != 2 || !strings.Contains(c.stderr, "the pins are production") {
			t.Errorf("an unknown pin: got %d\n%s", c.code, c.stderr)
		}
		if c := w.gc(cache, append(atOnce, "--dry-run", "--unpin", "production")...); c.removed() != "app check nixos-system" {
			t.Errorf("unpinned: got %q removed\n%s", c.removed(), c.stderr)
		}
		text := w.gc(cache, "--dry-run", "--retention", "0s", "--delay", "0s", "--unpin", "production")
		if text.code != 0 || !strings.Contains(text.stdout, "to remove: 3 of ") || !strings.Contains(text.stdout, ":"+flake) || !strings.Contains(text.stderr, "nothing else uses the cache") {
			t.Errorf("the plan for people: got %d\n%s\n%s", text.code, text.stdout, text.stderr)
		}

		c := w.gc(cache, append(atOnce, "--unpin", "production")...)
		if c.code != 0 || c.Status != "done" || c.Result == nil || c.Result.Removed.Paths != 3 || c.Result.Deleted == 0 {
			t.Fatalf("got %d, %+v\n%s", c.code, c, c.stderr)
		}
		if again := w.gc(cache, append(atOnce, "--dry-run")...); again.Removed.Paths != 0 || again.Kept.Paths != c.Result.Kept.Paths || len(again.Pins) != 0 {
			t.Errorf("again: got %+v", again)
		}
		client := w.newClient(w.proxy(cache))
		client.substitute(current.paths()...)
		for _, p := range old.paths() {
			if slices.Contains(current.paths(), p) {
				continue
			}
			if out, err := client.nix("build", "--no-link", p); err == nil {
				t.Errorf("the client still gets %s\n%s", p, out)
			}
		}
	})
}

// A flake keeps what it has, whatever the publications say; and what it cannot
// evaluate, as it was published.
func TestCollectWithFlake(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := "oci:" + filepath.Join(t.TempDir(), "cache")
	first, second := flakeText(t.Name(), ""), flakeText(t.Name(), "changed")
	flake := w.flake(first)
	w.publish(cache, "--flake", flake)
	w.flake(second)
	w.publish(cache, "--flake", flake)

	w.flake(first)
	plan := append(atOnce, "--dry-run", "--keep-last", "0", "--flake", flake)
	c := w.gc(cache, plan...)
	if c.code != 0 || c.removed() != "app check nixos-system" || c.reason("base") != "output of the flake" {
		t.Errorf("got %d, %q removed, base: %s\n%s", c.code, c.removed(), c.reason("base"), c.stderr)
	}
	w.flake(strings.Replace(first, `app = mk "app"`, `app = throw "broken"; app2 = mk "app"`, 1))
	c = w.gc(cache, plan...)
	if c.code != 0 || len(c.Unknown) == 0 || !strings.Contains(c.stderr, "paths are not known") || strings.Contains(c.removed(), "app") {
		t.Errorf("an attribute that throws: got %d, %q removed\n%s", c.code, c.removed(), c.stderr)
	}
	w.flake("{ outputs = ")
	before := publications(t, cache)
	c = w.gc(cache, append(atOnce, "--keep-last", "0", "--flake", flake)...)
	if after := publications(t, cache); c.code != 1 || c.Result != nil || len(after) != len(before) {
		t.Errorf("a flake that is none: got %d, %+v\n%s", c.code, c, c.stderr)
	}
}

// Where there is no cache, gc says so, and makes none.
func TestCollectEmpty(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "cache")
	if c := w.gc("oci:"+dir, "--json"); c.code != 0 || c.Status != "done" || !strings.Contains(c.stderr, "warning: there is no cache oci:"+dir+"\nhint: ") {
		t.Errorf("got %d, %+v\n%s", c.code, c, c.stderr)
	}
	if left, _ := filepath.Glob(dir + "*"); left != nil {
		t.Errorf("gc has made %v", left)
	}
}
