package action

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/ui"
)

// Silence is told of once for each interval, with the stage and what Nix is at.
func TestPulse(t *testing.T) {
	t.Parallel()
	const drv = "/nix/store/00000000000000000000000000000000-hello-1.0.drv"
	for _, tc := range []struct{ printed, want string }{
		{"", "still at work after 30 s"},
		{"a line\n", "still at work after 30 s"},
		{"::group::building 100%25 of it\n", "still building 100% of it after 30 s"},
		{"::group::x\nbuilding '" + drv + "'...\n", "still x after 30 s; the last that Nix began, 30 s ago: building hello-1.0"},
		{"::group::x\nbuilding '" + drv + "' on 'ssh://builder'...\nlog\n", "still x after 30 s; the last that Nix began, 30 s ago: building hello-1.0"},
		{"copying path '/nix/store/00000000000000000000000000000000-hello-1.0' from 'http://127.0.0.1:1'...\n", "still at work after 30 s; the last that Nix began, 30 s ago: copying path hello-1.0"},
		{"::group::x\nbuilding '" + drv + "'...\n::endgroup::\n", "still at work after 30 s"},
		{"building '/nix/store/00000000000000000000000000000000-a b.drv'...\nbuilding '::error::x'\n", "still at work after 30 s"},
	} {
		var out bytes.Buffer
		p := newPulse(&out, 30*time.Second)
		_, _ = p.Write([]byte(tc.printed))
		now := p.last.Add(30 * time.Second)
		p.tick(now.Add(-time.Second))
		if out.String() != tc.printed {
			t.Errorf("after %q: too early: %q", tc.printed, out.String())
		}
		p.tick(now)
		p.tick(now.Add(29 * time.Second))
		if got := strings.TrimPrefix(out.String(), tc.printed); got != tc.want+"\n" {
			t.Errorf("after %q: got %q, want %q", tc.printed, got, tc.want)
		}
	}
}

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
	s.stderr.every = 100 * time.Millisecond
	s.msg = ui.New(s.stderr, s.getenv)
	begun := time.Now()
	stop := s.stderr.beat()
	err := s.publish(t.Context())
	stop()
	if err != nil {
		t.Fatalf("publish: %v\n%s", err, out)
	}
	beats := regexp.MustCompile(`(?m)^still building 1 output after \d.*; the last that Nix began, \d.* ago: building sleeper-1.0$`)
	if n := len(beats.FindAllString(out.String(), -1)); n < 3 {
		t.Errorf("got %d heartbeats in\n%s", n, out)
	}

	out.Reset()
	s.cfg.text["flake"], s.stderr.every = "", time.Millisecond
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
