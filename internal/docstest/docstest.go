// Package docstest reads the documentation for tests. Its user is a package two
// folders below the module's root.
package docstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Pages are the README and all other pages, by their names below the root.
func Pages(tb testing.TB) map[string]string {
	tb.Helper()
	out, err := exec.Command("git", "-C", "../..", "ls-files", "--cached", "--others", "--exclude-standard", "*.md").Output()
	if err != nil {
		tb.Fatalf("git ls-files: %v", err)
	}
	pages := map[string]string{}
	for name := range strings.FieldsSeq(string(out)) {
		text, err := os.ReadFile(filepath.Join("../..", name))
		if os.IsNotExist(err) {
			continue // deleted, and not yet committed
		} else if err != nil {
			tb.Fatal(err)
		}
		pages[name] = string(text)
	}
	if len(pages) < 12 {
		tb.Fatalf("found %d pages only", len(pages))
	}
	return pages
}

var (
	// a fenced block, its language and text; an indented line; code in a sentence
	code = regexp.MustCompile("(?ms)^( *)```([a-z]*)\n(.*?)^ *```$|^ {4}([a-z][^\n]*)$|`([^`]+)`")
	// what a job of a workflow runs: a step of GitHub's, all of GitLab's
	step    = regexp.MustCompile(`(?m)^ +(?:- )?run: (.*)$|^ +script:\n((?: +- .*\n)+)`)
	item    = regexp.MustCompile(`(?m)^ +- `)
	comment = regexp.MustCompile(`(?m) {2,}# .*$`)
	// code in a sentence that is a whole command, not the name of one
	whole = regexp.MustCompile(`^(?:make [a-z]|(?:nixoci [a-z]+|go (?:test|run)|curl|nix-build|nix run|nix flake init|nix store copy-log) [^\[ ]+)[^\[]*$`)
)

// Commands are the command lines that a page shows, in its order, without
// comments. What a shell takes as one command is one.
func Commands(tb testing.TB, page string) []string {
	tb.Helper()
	var commands []string
	for _, m := range code.FindAllStringSubmatch(page, -1) {
		indent, language, block, indented, span := m[1], m[2], m[3], m[4], strings.Join(strings.Fields(m[5]), " ")
		switch {
		case language == "yaml":
			for _, s := range step.FindAllStringSubmatch(block, -1) {
				commands = append(commands, split(tb, s[1]+item.ReplaceAllString(s[2], ""))...)
			}
		case language == "sh":
			block = strings.ReplaceAll("\n"+comment.ReplaceAllString(block, ""), "\n"+indent, "\n")
			commands = append(commands, split(tb, block)...)
		case language == "console" || language == "bash" || language == "shell":
			tb.Errorf("a block of commands is %q, and \"sh\" elsewhere: %s", language, block)
		case indented != "":
			commands = append(commands, comment.ReplaceAllString(indented, ""))
		case whole.MatchString(span):
			commands = append(commands, span)
		}
	}
	return commands
}

// split divides a script into its commands.
func split(tb testing.TB, script string) (commands []string) {
	tb.Helper()
	command := ""
	for line := range strings.Lines(script) {
		command += line
		if strings.HasSuffix(line, "\\\n") || exec.Command("sh", "-n", "-c", command).Run() != nil {
			continue
		}
		if command = strings.TrimSpace(command); command != "" {
			commands = append(commands, command)
		}
		command = ""
	}
	if command != "" {
		tb.Errorf("a shell does not understand %s", command)
	}
	return commands
}

// HasTest tells whether a package has a test or benchmark whose name begins so.
func HasTest(tb testing.TB, dir, name string) bool {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && regexp.MustCompile(`(?m)^func \w*`+name).Match(text) {
			return true
		}
	}
	return false
}
