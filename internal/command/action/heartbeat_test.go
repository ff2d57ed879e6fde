package action

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/steplog"
	"github.com/org/nixoci-action/internal/ui"
)

// A build that prints nothing does not leave the log silent, neither in the
// step nor after the job.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	env := nixtest.New(t)
	s, out := newTestSession(t, "")
	s.program = filepath.Join(t.TempDir(), "nixoci")
	if text, err := exec.Command("go", "build", "-o", s.program, "../../../cmd/nixoci").CombinedOutput(); err != nil {
		t.Fatalf("building the program: %v\n%s", err, text)
	}
	nixtest.Write(t, env.Dir, "flake/flake.nix", `{
  outputs = { self }: {
    packages.x86_64-linux.sleeper = derivation { name = "sleeper-1.0"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "/bin/sleep 2; echo done > $out" ]; };
  };
}
`)
	s.env = append(env.Vars, "GITHUB_ACTIONS=true", "NIXOCI_UPSTREAM=none")
	s.cfg.text["flake"], s.cfg.text["cache"] = "path:"+filepath.Join(env.Dir, "flake"), "oci:"+filepath.Join(env.Dir, "cache")
	s.stderr = steplog.NewPulse(out, 100*time.Millisecond)
	s.msg = ui.New(s.stderr, s.getenv)
	begun := time.Now()
	stop := s.stderr.Beat()
	err := s.publish(t.Context())
	stop()
	if err != nil {
		t.Fatalf("publish: %v\n%s", err, out)
	}
	beats := regexp.MustCompile(`(?m)^still at work after \d.*; the last that Nix began, \d.* ago: building sleeper-1.0$`)
	if n := len(beats.FindAllString(out.String(), -1)); n < 3 {
		t.Errorf("got %d heartbeats in\n%s", n, out)
	}

	out.Reset()
	s.cfg.text["flake"] = ""
	s.stderr = steplog.NewPulse(out, time.Millisecond)
	s.msg = ui.New(s.stderr, s.getenv)
	saved, err := json.Marshal(state{Mode: modeCache, Dir: s.state.Dir, Started: begun})
	if err != nil {
		t.Fatal(err)
	}
	getenv := s.getenv
	s.getenv = func(name string) string {
		if name == "STATE_"+stateName {
			return string(saved)
		}
		return getenv(name)
	}
	if err := s.post(t.Context()); err != nil || !strings.Contains(out.String(), "built in this job: 1 path") || !strings.Contains(out.String(), "still at work after ") {
		t.Errorf("after the job: got %v\n%s", err, out)
	}
}
