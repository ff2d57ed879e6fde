package ui

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/org/nixoci-action/internal/hint"
)

func env(pairs ...string) func(string) string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(k string) string { return m[k] }
}

var inActions = env("GITHUB_ACTIONS", "true", "CI", "true")

func TestError(t *testing.T) {
	plain := errors.New("reading x: EOF")
	hinted := hint.Wrap(fmt.Errorf("pushing: %w", errors.New("DENIED 100%\nsecond line")), `does the job have "packages: write"?`)
	tests := map[string]struct {
		err           error
		plain, action string
	}{
		"plain": {plain, "error: reading x: EOF\n", "error: reading x: EOF\n::error::reading x: EOF\n"},
		"hint, several lines": {hinted,
			"error: pushing: DENIED 100%\nsecond line\nhint: does the job have \"packages: write\"?\n",
			"error: pushing: DENIED 100%\nsecond line\nhint: does the job have \"packages: write\"?\n" +
				"::error::pushing: DENIED 100%25%0Asecond line%0Ahint: does the job have \"packages: write\"?\n"},
		"joined": {hint.Wrap(errors.Join(plain, hint.Wrap(errors.New("b"), "h2"), hint.Wrap(errors.New("c"), "h2")), "h1"),
			"error: reading x: EOF\nerror: b\nerror: c\nhint: h1\nhint: h2\n",
			"error: reading x: EOF\nerror: b\nerror: c\nhint: h1\nhint: h2\n" +
				"::error::reading x: EOF%0Aerror: b%0Aerror: c%0Ahint: h1%0Ahint: h2\n"},
		"injection": {errors.New("attribute \"\n::add-mask::x\""),
			"error: attribute \"\n: :add-mask::x\"\n",
			"error: attribute \"\n: :add-mask::x\"\n::error::attribute \"%0A: :add-mask::x\"\n"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			New(&out, env()).Error(tt.err)
			if out.String() != tt.plain {
				t.Errorf("got %q, want %q", out.String(), tt.plain)
			}
			out.Reset()
			New(&out, inActions).Error(tt.err)
			if out.String() != tt.action {
				t.Errorf("in Actions: got %q, want %q", out.String(), tt.action)
			}
		})
	}
}

func TestMessages(t *testing.T) {
	print := func(m *Messages) {
		end := m.Group("building %s", "a\n::x")
		m.Printf("%d built", 3)
		m.Mask("key:c2VjcmV0\n\nother:eA==\n")
		end()
		m.Warn(errors.New("slow"))
	}
	var out bytes.Buffer
	print(New(&out, env()))
	if want := "building a : :x\n3 built\nwarning: slow\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	out.Reset()
	print(New(&out, inActions))
	want := "::group::building a : :x\n3 built\n::add-mask::key:c2VjcmV0\n::add-mask::other:eA==\n::endgroup::\nwarning: slow\n::warning::slow\n"
	if out.String() != want {
		t.Errorf("in Actions: got %q, want %q", out.String(), want)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestMessagesToNowhere(t *testing.T) {
	m := New(broken{}, inActions)
	m.Error(errors.New("x")) // must not panic
	m.Group("x")()
	if _, err := m.Log().Write([]byte("x\n")); err != nil {
		t.Errorf("got %v: a program's log must not break the program", err)
	}
}

func TestSummary(t *testing.T) {
	name := filepath.Join(t.TempDir(), "summary")
	get := env("GITHUB_ACTIONS", "true", "GITHUB_STEP_SUMMARY", name)
	for _, s := range []string{"a", "b"} {
		if err := New(io.Discard, get).Summary(s); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(name); string(got) != "a\nb\n" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if err := New(io.Discard, env("GITHUB_ACTIONS", "true", "GITHUB_STEP_SUMMARY", t.TempDir())).Summary("a"); err == nil {
		t.Error("got no error from a summary that is a directory")
	}
	if err := New(io.Discard, env()).Summary("a"); err != nil {
		t.Errorf("outside Actions: got %v", err)
	}
}

func TestLog(t *testing.T) {
	for name, getenv := range map[string]func(string) string{"plain": env(), "in Actions": inActions} {
		var out bytes.Buffer
		w := New(&out, getenv).Log()
		for _, s := range []string{"building\n:", ":error::x\n", "50%\r::y\r\n\x1b[31mred\x1b[0m ##[z]\x1b[2J\n", "::end"} {
			if n, err := io.WriteString(w, s); n != len(s) || err != nil {
				t.Fatal(n, err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		want := "building\n: :error::x\n50%\n: :y\n\nred ## [z]\n: :end\n"
		if out.String() != want {
			t.Errorf("%s: got %q, want %q", name, out.String(), want)
		}
	}

	var out bytes.Buffer
	w := New(&out, inActions).Log()
	_, _ = w.Write(bytes.Repeat([]byte("x"), maxLogLine))
	if out.Len() != maxLogLine+1 {
		t.Errorf("got %d bytes of an endless line", out.Len())
	}
}
