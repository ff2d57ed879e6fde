package steplog

import (
	"bytes"
	"strings"
	"testing"
	"time"
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
		p := NewPulse(&out, 30*time.Second)
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

func TestRelay(t *testing.T) {
	t.Parallel()
	for warn, want := range map[bool]string{
		true:  "one\ntwo\n::warning::bad\n::warning title=x::worse\n",
		false: "one\ntwo\n::error::bad\n::error title=x::worse\n",
	} {
		var out bytes.Buffer
		r := NewRelay(&out, nil)
		for _, part := range []string{"on", "e\n::err", "or::bad\ntwo\n", "::error title=x::worse"} {
			_, _ = r.Write([]byte(part))
		}
		r.Finish(warn)
		if out.String() != want {
			t.Errorf("warn %t: got %q, want %q", warn, out.String(), want)
		}
	}
}
