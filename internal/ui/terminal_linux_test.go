package ui

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/terminaltest"
)

// eventually waits until a condition holds.
func eventually(t *testing.T, s *terminaltest.Screen, what string, holds func(lines []string) bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(s.Lines()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: the terminal has\n%s", what, s)
		}
	}
}

// A terminal of the system, the window of which changes.
func TestTerminal(t *testing.T) {
	t.Parallel()
	for name, getenv := range map[string]func(string) string{"colours": env(), "no colours": env("NO_COLOR", "1")} {
		terminal, screen, resize := terminaltest.Open(t, 30, 12)
		m := New(terminal, getenv)
		source := &fixed{rows: []Row{{{"a name", Plain}, {"  what it prints, 0123456789 and more", Dim}}, {{"built 1 of 2", Green}}}}
		end := m.Follow(source)
		m.Printf("a message")
		New(terminal, getenv).Printf("somebody else's")
		shows := func(rows ...string) func([]string) bool {
			want := append([]string{"a message", "somebody else's"}, rows...)
			return func(lines []string) bool { return slices.Equal(lines, want) }
		}
		eventually(t, screen, name, shows("a name  what it prints, 0123…", "built 1 of 2"))
		resize(20, 12)
		eventually(t, screen, name+", narrow", shows("a name  what it pr…", "built 1 of 2"))
		resize(80, 3)
		eventually(t, screen, name+", low", shows("built 1 of 2"))
		resize(80, 12)
		eventually(t, screen, name+", wide", shows("a name  what it prints, 0123456789 and more", "built 1 of 2"))
		end()
		eventually(t, screen, name+", ended", shows())
		if coloured := screen.Styles() > 0; coloured != (name == "colours") || len(screen.Odd()) > 0 || !screen.AtMargin() {
			t.Errorf("%s: %d changes of colour, odd sequences %q, at the margin %t", name, screen.Styles(), screen.Odd(), screen.AtMargin())
		}
	}
}

// Where a region cannot be drawn there is none, also on a terminal.
func TestNoRegion(t *testing.T) {
	t.Parallel()
	for _, getenv := range []func(string) string{env("TERM", "dumb"), env("CI", "true"), inActions} {
		terminal, screen, _ := terminaltest.Open(t, 30, 12)
		m := New(terminal, getenv)
		end := m.Follow(&fixed{rows: rows("never shown")})
		end()
		m.Printf("the end")
		eventually(t, screen, "the end", func(lines []string) bool { return slices.Equal(lines, []string{"the end"}) })
	}
}

// Of a process that is killed the terminal keeps a region that looks like any
// output. The cursor is there, and the prompt has a line of its
// own.
func TestKilled(t *testing.T) {
	const name = "NIXOCI_TEST_TERMINAL"
	if os.Getenv(name) != "" { // this is the process
		m := New(os.Stderr, func(string) string { return "" })
		m.Follow(&fixed{rows: rows("a build", "numbers")})
		for i := 0; ; i++ {
			m.Printf("message %d", i)
			time.Sleep(time.Millisecond)
		}
	}
	terminal, screen, _ := terminaltest.Open(t, 30, 12)
	for range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), name+"=1")
		cmd.Stderr = terminal
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		before := len(screen.Lines())
		eventually(t, screen, "messages", func(lines []string) bool { return len(lines) > before+20 })
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
		const prompt = "the prompt"
		fmt.Fprintln(terminal, prompt)
		eventually(t, screen, "prompt", func(lines []string) bool { return lines[len(lines)-1] == prompt })
		lines := screen.Lines()
		if end := lines[len(lines)-3:]; !slices.Equal(end, []string{"a build", "numbers", prompt}) && !strings.HasPrefix(end[1], "message ") {
			t.Errorf("got %q at the end", end)
		}
		if odd := screen.Odd(); len(odd) > 0 || !screen.AtMargin() {
			t.Errorf("odd sequences %q, at the margin %t", odd, screen.AtMargin())
		}
	}
}
