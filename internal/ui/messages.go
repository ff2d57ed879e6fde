// Package ui shows people what happens: messages, hints, stages, progress and
// tables, and the same in GitHub Actions' log. It knows none of the things that
// it shows.
package ui

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/sethvargo/go-githubactions"
	"golang.org/x/term"

	"github.com/org/nixoci-action/internal/hint"
)

// Messages prints for people. What it is given goes through Text first. Safe
// for concurrent use.
type Messages struct {
	screen   *screen
	action   *githubactions.Action // nil outside GitHub Actions
	getenv   func(string) string
	terminal bool
}

// New prints to w, usually standard error, in the way that w and the
// environment ask for: a bar only on a terminal, workflow commands only in
// GitHub Actions. There are no colours, so there is none to turn off.
func New(w io.Writer, getenv func(string) string) *Messages {
	m := &Messages{screen: &screen{w: w}, getenv: getenv}
	if getenv("GITHUB_ACTIONS") == "true" {
		m.action = githubactions.New(githubactions.WithWriter(m.screen), githubactions.WithGetenv(getenv))
		return m
	}
	f, ok := w.(*os.File)
	m.terminal = ok && getenv("TERM") != "dumb" && getenv("CI") == "" && term.IsTerminal(int(f.Fd()))
	return m
}

// Printf prints a line.
func (m *Messages) Printf(format string, args ...any) {
	m.println(Text(fmt.Sprintf(format, args...)))
}

func (m *Messages) println(line string) { _, _ = m.screen.Write([]byte(line + "\n")) }

// Error prints err, each part of a joined one in its own line, and its hint.
// In GitHub Actions the same becomes one annotation.
func (m *Messages) Error(err error) {
	lines := describe("error", err)
	m.println(strings.Join(lines, "\n"))
	if m.action != nil {
		m.action.Errorf("%s", strings.TrimPrefix(strings.Join(lines, "\n"), "error: "))
	}
}

// Warn is Error for what does not end the work.
func (m *Messages) Warn(err error) {
	lines := describe("warning", err)
	m.println(strings.Join(lines, "\n"))
	if m.action != nil {
		m.action.Warningf("%s", strings.TrimPrefix(strings.Join(lines, "\n"), "warning: "))
	}
}

// Notice prints what is neither an error nor a warning, but worth knowing. In
// GitHub Actions it becomes an annotation.
func (m *Messages) Notice(text string) {
	m.println(Text(text))
	if m.action != nil {
		m.action.Noticef("%s", Text(text))
	}
}

// Place is a place in a file, which is relative to the checkout. Without File it
// is none.
type Place struct {
	File      string
	Line, Col int
}

// Annotate adds an annotation with a title to the run in GitHub Actions, a
// warning or an error. Elsewhere it does nothing: what it says was printed.
func (m *Messages) Annotate(warn bool, at Place, title, text string) {
	if m.action == nil {
		return
	}
	fields := map[string]string{"title": Line(title)}
	if at.File != "" {
		fields["file"], fields["line"], fields["col"] = Line(at.File), strconv.Itoa(at.Line), strconv.Itoa(at.Col)
	}
	a := m.action.WithFieldsMap(fields)
	if warn {
		a.Warningf("%s", Text(text))
	} else {
		a.Errorf("%s", Text(text))
	}
}

func describe(kind string, err error) []string {
	var lines []string
	for _, e := range hint.Parts(err) {
		lines = append(lines, kind+": "+Text(e.Error()))
	}
	for _, h := range hint.All(err) {
		lines = append(lines, "hint: "+Text(h))
	}
	return lines
}

// Group starts a stage and prints its title. In GitHub Actions the lines up to
// its end can be folded. The returned function ends it; groups do not nest.
func (m *Messages) Group(format string, args ...any) (end func()) {
	title := Line(fmt.Sprintf(format, args...))
	if m.action == nil {
		m.println(title)
		return func() {}
	}
	m.action.Group(title)
	return m.action.EndGroup
}

// Mask has GitHub Actions hide a secret in the log from here on. Elsewhere it
// does nothing: it would print the secret.
func (m *Messages) Mask(secret string) {
	if m.action == nil {
		return
	}
	for line := range strings.Lines(secret) {
		if line = strings.TrimSpace(line); line != "" {
			m.action.AddMask(line)
		}
	}
}

// Summary appends Markdown to the job's summary in GitHub Actions; elsewhere
// it does nothing. The caller escapes untrusted text.
func (m *Messages) Summary(markdown string) error {
	name := m.getenv("GITHUB_STEP_SUMMARY")
	if m.action == nil || name == "" {
		return nil
	}
	// not AddStepSummary, which panics where the file cannot be written
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("writing the job summary: %w", err)
	}
	_, err = f.WriteString(markdown + "\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing the job summary: %w", err)
	}
	return nil
}
