package action

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/ui"
)

// edit makes a line that a command prints fit a job: it names inputs instead of
// flags, and what is wrong with a file points to it.
func (s *session) edit(line string) string {
	kind, text, ok := strings.Cut(strings.TrimPrefix(line, "::"), "::")
	switch {
	case strings.HasPrefix(line, "hint: "), strings.HasPrefix(line, "error: "), strings.HasPrefix(line, "warning: "):
		return inInputs(line)
	case !ok || !strings.HasPrefix(line, "::") || kind != "error" && kind != "warning":
		return line
	}
	if at := s.place(strings.ReplaceAll(text, "%0A", "\n")); at.File != "" {
		kind += " file=" + property.Replace(ui.Line(at.File)) + ",line=" + strconv.Itoa(at.Line) + ",col=" + strconv.Itoa(at.Col)
	}
	return "::" + kind + "::" + inInputs(text)
}

// property escapes a property of an annotation.
var property = strings.NewReplacer("%", "%25", ":", "%3A", ",", "%2C")

// flags are the flags by which commands know what the action calls otherwise.
var flags = func() map[string]string {
	m := map[string]string{
		"--json": "the output report", "--sign-key-file": "signing-key", "--retention": "retention-days",
		cli.Name + " help": "the inputs in docs/action.md, or the help of",
	}
	for _, f := range inputs {
		if name, ok := strings.CutPrefix(f.variable, cli.EnvName("")); ok {
			m["--"+strings.ToLower(strings.ReplaceAll(name, "_", "-"))] = f.name
		}
	}
	return m
}()

var aFlag = regexp.MustCompile(`--[a-z][a-z-]*[a-z]\b|\b` + cli.Name + ` help\b`)

// inInputs names inputs instead of flags.
func inInputs(text string) string {
	return aFlag.ReplaceAllStringFunc(text, func(flag string) string {
		if name, ok := flags[flag]; ok {
			return name
		}
		return flag
	})
}

// at finds places in Nix's messages.
var at = regexp.MustCompile(`(?m)\bat ([/«].*?):(\d{1,9}):(\d{1,9}):?\s*$`)

// inStore is a file of a source that Nix has copied to its store.
var inStore = regexp.MustCompile(`^/.+?/[0-9a-z]{32}-[^/]+/(.+)$`)

// place is the first place in a message that is in the checkout. A file in the
// store counts as the one in the checkout that has the same contents: then the
// line is the same, too.
func (s *session) place(message string) ui.Place {
	top := s.cfg.job.Workspace
	if top == "" {
		return ui.Place{}
	}
	for _, m := range at.FindAllStringSubmatch(message, 100) {
		name, ok := filepath.Rel(top, m[1])
		if in := inStore.FindStringSubmatch(m[1]); in != nil {
			for _, dir := range []string{top, s.flakeDir()} {
				copied := filepath.Join(dir, in[1])
				if want := readSource(m[1]); want != nil && bytes.Equal(want, readSource(copied)) {
					name, ok = filepath.Rel(top, copied)
					break
				}
			}
		}
		if ok == nil && filepath.IsLocal(name) {
			line, _ := strconv.Atoi(m[2])
			col, _ := strconv.Atoi(m[3])
			return ui.Place{File: name, Line: line, Col: col}
		}
	}
	return ui.Place{}
}

// flakeDir is where the flake is, if that is a folder.
func (s *session) flakeDir() string {
	dir, _, _ := strings.Cut(strings.TrimPrefix(s.cfg.text["flake"], "path:"), "?")
	if filepath.IsAbs(dir) {
		return dir
	}
	return filepath.Join(s.cfg.job.Workspace, dir)
}

// maxSource bounds a file of which two copies are compared, in bytes.
const maxSource = 1 << 20

// readSource reads a file; nil if it is none that can be compared.
func readSource(name string) []byte {
	st, err := os.Stat(name)
	if err != nil || !st.Mode().IsRegular() {
		return nil
	}
	text, err := readFile(name, maxSource)
	if err != nil {
		return nil
	}
	return text
}
