// Package ui shows people what happens: messages, hints, stages, progress,
// tables, and the same in GitHub Actions' log. It knows none of the things it
// shows.
package ui

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sethvargo/go-githubactions"

	"github.com/org/nixoci-action/internal/hint"
)

// Messages prints for people, one line at a time. Everything it is given is
// passed through Text. Safe for concurrent use as far as its writer is.
type Messages struct {
	w      io.Writer
	action *githubactions.Action // nil outside GitHub Actions
}

// New prints to w, in the way that the environment asks for.
func New(w io.Writer, getenv func(string) string) *Messages {
	m := &Messages{w: w}
	if getenv("GITHUB_ACTIONS") == "true" {
		m.action = githubactions.New(githubactions.WithWriter(w), githubactions.WithGetenv(getenv))
	}
	return m
}

// Printf prints a line.
func (m *Messages) Printf(format string, args ...any) {
	fmt.Fprintln(m.w, Text(fmt.Sprintf(format, args...)))
}

// Error prints err, each part of a joined one in its own line, and its hint.
// In GitHub Actions the same becomes one annotation.
func (m *Messages) Error(err error) {
	m.print("error", err)
	if m.action != nil {
		m.action.Errorf("%s", annotation(err))
	}
}

// Warn is Error for what does not end the work.
func (m *Messages) Warn(err error) {
	m.print("warning", err)
	if m.action != nil {
		m.action.Warningf("%s", annotation(err))
	}
}

func (m *Messages) print(kind string, err error) {
	for _, e := range parts(err) {
		fmt.Fprintf(m.w, "%s: %s\n", kind, Text(e.Error()))
	}
	for _, h := range hints(err) {
		fmt.Fprintf(m.w, "hint: %s\n", Text(h))
	}
}

func annotation(err error) string {
	text := Text(err.Error())
	for _, h := range hints(err) {
		text += "\nhint: " + Text(h)
	}
	return text
}

// parts takes a joined error apart, through wrappers that leave its message
// as it is.
func parts(err error) []error {
	for e := err; e != nil && e.Error() == err.Error(); e = errors.Unwrap(e) {
		if j, ok := e.(interface{ Unwrap() []error }); ok && strings.Contains(e.Error(), "\n") {
			return j.Unwrap()
		}
	}
	return []error{err}
}

// hints are the hints of an error and of each part of a joined one, without
// repetition.
func hints(err error) []string {
	var all []string
	for _, e := range append([]error{err}, parts(err)...) {
		if h := hint.Of(e); h != "" && !slices.Contains(all, h) {
			all = append(all, h)
		}
	}
	return all
}

// Group starts a stage. In GitHub Actions the lines up to the end of the group
// can be folded; elsewhere the title is printed. The returned function ends the
// group.
func (m *Messages) Group(format string, args ...any) (end func()) {
	title := Line(fmt.Sprintf(format, args...))
	if m.action == nil {
		fmt.Fprintln(m.w, title)
		return func() {}
	}
	m.action.Group(title)
	return m.action.EndGroup
}
