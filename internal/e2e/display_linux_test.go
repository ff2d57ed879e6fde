package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/terminaltest"
	"github.com/org/nixoci-action/report"
)

// gatedFlake is a flake whose slow package is built once a file is there. What
// its bad one prints attacks the terminal and the runner.
func (w *world) gatedFlake() (ref, gate string) {
	gate = filepath.Join(w.Dir, "gate")
	return w.flake(fmt.Sprintf(`{ outputs = { self }: let
  make = name: script: derivation { inherit name; system = "%[1]s"; builder = "/bin/sh"; args = [ "-c" "export PATH=/usr/bin:/bin\n${script}" ]; };
in { packages.%[1]s = {
  slow = make "slow-1.0" "echo checking for gcc... yes; until [ -e %[2]s ]; do sleep 0.05; done; echo > $out";
  bad = make "bad-2.0" "for i in 1 2 3; do echo line $i; done; echo '::set-output name=x::y'; echo '::stop-commands::x'; printf '\\033[2J\\033]0;title\\007\\033[?25lodd'; exit 3";
}; }; }`, system, gate)), gate
}

// sees waits until the terminal has lines one after the other that begin so.
func (w *world) sees(screen *terminaltest.Screen, starts ...string) {
	w.Helper()
	for deadline := time.Now().Add(limit / 3); ; time.Sleep(10 * time.Millisecond) {
		lines := screen.Lines()
		for i := range lines {
			if i+len(starts) <= len(lines) && slices.EqualFunc(lines[i:i+len(starts)], starts, strings.HasPrefix) {
				return
			}
		}
		if time.Now().After(deadline) {
			w.Fatalf("the terminal never had %q:\n%s", starts, screen)
		}
	}
}

// On a terminal a region says what is built, however narrow that is. The log of
// what failed comes in the end. An interruption leaves the terminal as it was.
func TestTerminal(t *testing.T) {
	t.Parallel()
	for _, interrupted := range []bool{false, true} {
		w := newWorld(t)
		ref, gate := w.gatedFlake()
		terminal, screen, resize := terminaltest.Open(t, 30, 15)
		cmd := w.command("publish", "--cache", "oci:"+filepath.Join(w.Dir, "cache"), "--upstream", "none", "--flake", ref)
		cmd.Env = append(cmd.Env, "TERM=xterm", "CI=", "NO_COLOR=1")
		cmd.Stdout, cmd.Stderr = terminal, terminal
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		w.sees(screen, "  slow-1.0  ", "built 0 of 2, 1 failed")
		resize(20, 15)
		w.sees(screen, "  slow-1.0  ", "built 0 of 2")
		resize(100, 30)
		w.sees(screen, "  slow-1.0  ", "built 0 of 2, 1 failed, 1 building, 2 outputs evaluated")
		if strings.Contains(screen.String(), "line 1") {
			t.Error("the log of what failed is printed while something is built")
		}
		if interrupted {
			_ = cmd.Process.Signal(syscall.SIGINT)
		} else {
			nixtest.Write(t, w.Dir, filepath.Base(gate), "")
		}
		_ = cmd.Wait()
		if interrupted { // before 2.34 Nix has not said which one has failed
			w.sees(screen, "stopping; interrupt again")
			w.sees(screen, "error: interrupted")
		} else {
			w.sees(screen, "failed bad-2.0 after ")
			w.sees(screen, "log of bad-2.0:", "line 1", "line 2", "line 3", ": :set-output name=x::y", ": :stop-commands::x", "odd")
			w.sees(screen, "error: 1 output failed: ")
		}
		all := screen.String()
		if strings.Contains(all, "1 building") || strings.Contains(all, "  slow-1.0  ") || len(screen.Odd())+screen.Styles() > 0 || !screen.AtMargin() {
			t.Errorf("interrupted %t: odd sequences %q, %d styles, at the margin %t, and what is left is\n%s", interrupted, screen.Odd(), screen.Styles(), screen.AtMargin(), all)
		}
	}
}

// With --log each line of a builder is printed at once, in a job as elsewhere, and
// none of them is a command of a workflow.
func TestStreamedLogs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref, gate := w.gatedFlake()
	nixtest.Write(t, w.Dir, filepath.Base(gate), "")
	cmd := w.command("publish", "--json", "--log", "--cache", "oci:"+filepath.Join(w.Dir, "cache"), "--upstream", "none", "--flake", ref)
	cmd.Env = append(cmd.Env, "GITHUB_ACTIONS=true", "NO_COLOR=1")
	r := w.finish(cmd)
	for _, want := range []string{"\nslow-1.0> checking for gcc... yes\n", "\nbad-2.0> line 1\n", "\nbad-2.0> : :set-output name=x::y\n", "\nbuilt slow-1.0 in ", "\nfailed bad-2.0 after "} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("no %q in\n%s", want, r.stderr)
		}
	}
	for line := range strings.Lines(r.stderr) {
		if strings.HasPrefix(line, "::") && !strings.HasPrefix(line, "::error::1 output failed") || strings.Contains(line, "\x1b") {
			t.Errorf("got the command %q", line)
		}
	}
	if i := slices.IndexFunc(r.Outputs, func(o report.Output) bool { return o.FailedDrv != "" }); i < 0 || !strings.HasSuffix(r.Outputs[i].Log, "line 3\n: :set-output name=x::y\n: :stop-commands::x\nodd") {
		t.Errorf("got outputs %+v", r.Outputs)
	}
}
