// Package ui shows people what happens: messages, hints, stages, a status
// and tables, and the same in GitHub Actions' log. It knows none of the things that
// it shows.
package ui

import (
	"bytes"
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
	colours  bool
}

// New prints to w, usually standard error, in the way that w and the
// environment ask for: a status region only on a terminal, workflow commands
// only in GitHub Actions. There are colours in both, and elsewhere with
// CLICOLOR_FORCE, but none with NO_COLOR.
func New(w io.Writer, getenv func(string) string) *Messages {
	m := &Messages{screen: screenOf(w), getenv: getenv}
	if getenv("GITHUB_ACTIONS") == "true" {
		m.action = githubactions.New(githubactions.WithWriter(m.screen), githubactions.WithGetenv(getenv))
	} else if f, ok := w.(*os.File); ok {
		m.terminal = getenv("TERM") != "dumb" && getenv("CI") == "" && term.IsTerminal(int(f.Fd()))
	}
	force := getenv("CLICOLOR_FORCE")
	m.colours = getenv("NO_COLOR") == "" && (m.terminal || m.action != nil || force != "" && force != "0")
	if m.terminal {
		m.screen.mu.Lock()
		m.screen.colours, m.screen.reflows = m.colours, getenv("XTERM_VERSION") == "" // xterm cuts lines
		m.screen.mu.Unlock()
	}
	return m
}

// Terminal reports whether a status is a region at the bottom of a terminal.
func (m *Messages) Terminal() bool { return m.terminal }

// Print prints rows together, whole and in their styles.
func (m *Messages) Print(rows ...Row) {
	var b strings.Builder
	for _, r := range rows {
		b.WriteString(r.render(0, m.colours))
		b.WriteByte('\n')
	}
	_, _ = m.screen.Write([]byte(b.String()))
}

// Fold prints a title, and in GitHub Actions, where it can be folded away, the
// text below it. They stay together, so nothing else may have a group open.
func (m *Messages) Fold(title Row, text string) {
	if m.action == nil {
		m.Print(title)
		return
	}
	var b bytes.Buffer
	group := githubactions.New(githubactions.WithWriter(&b), githubactions.WithGetenv(m.getenv))
	group.Group(title.render(0, m.colours))
	b.WriteString(Text(text) + "\n")
	group.EndGroup()
	_, _ = m.screen.Write(b.Bytes())
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
	m.described("error: ", Red, lines)
	if m.action != nil {
		m.action.Errorf("%s", strings.TrimPrefix(strings.Join(lines, "\n"), "error: "))
	}
}

// Warn is Error for what does not end the work.
func (m *Messages) Warn(err error) {
	lines := describe("warning", err)
	m.described("warning: ", Yellow, lines)
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

// described prints lines, those of a kind with a colour. In GitHub Actions the
// annotation has it.
func (m *Messages) described(kind string, style Style, lines []string) {
	if !m.colours || m.action != nil {
		m.println(strings.Join(lines, "\n"))
		return
	}
	var rows []Row
	for _, line := range lines {
		if text, ok := strings.CutPrefix(line, kind); ok {
			rows = append(rows, Row{{kind, style}, {text, Plain}})
		} else {
			rows = append(rows, Row{{line, Plain}})
		}
	}
	m.Print(rows...)
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
