package command

import (
	"bytes"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/docstest"
)

var update = flag.Bool("update", false, "write docs/flags.md")

const flagsHead = `<!-- Made by: go test ./internal/command -run TestFlagsPage -update -->
# Flags

Every flag has an environment variable: ` + "`NIXOCI_`" + ` and the flag's name in capitals, with underscores for
dashes. So ` + "`--exclude-path` is `NIXOCI_EXCLUDE_PATH`" + `. A flag wins over its variable. A flag that is
repeatable takes a list. In its variable the list has one item a line.

| exit status | |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | wrong usage or configuration |
| 3 | partly done: some outputs or paths failed, and the rest is published; or the index is pruned, but the registry refuses to delete, or has lost something |
| 130 | interrupted |

`

// docs/flags.md is made from the definitions of the flags.
func TestFlagsPage(t *testing.T) {
	var page bytes.Buffer
	page.WriteString(flagsHead)
	env := func(name string) string { return map[string]string{"HOME": "/home/u"}[name] }
	for i, c := range Nixoci.Commands {
		if c.Name == "action" {
			continue // its inputs are in docs/action.md
		}
		if i > 0 {
			page.WriteByte('\n')
		}
		if status := c.Run(t.Context(), []string{"--help=markdown"}, env, nil, &page, &page); status != cli.ExitDone {
			t.Fatalf("%s: got status %d", c.Name, status)
		}
	}
	const file = "../../docs/flags.md"
	if *update {
		if err := os.WriteFile(file, page.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, page.Bytes()) {
		t.Errorf("docs/flags.md is not what the flags say, %v; run: go test ./internal/command -run TestFlagsPage -update", err)
	}
	if strings.Contains(page.String(), "/home/u") {
		t.Error("the page has a default of this machine")
	}
}

// anchor is what GitHub makes of a heading.
func anchor(heading string) string {
	heading = regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`).ReplaceAllString(heading, "$1")
	heading = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(heading), "")
	return strings.ReplaceAll(heading, " ", "-")
}

// Every link to a page, or to a heading of one, leads there.
func TestLinks(t *testing.T) {
	all := docstest.Pages(t)
	anchors := map[string]map[string]bool{}
	for name, text := range all {
		text = regexp.MustCompile("(?ms)^```.*?^```").ReplaceAllString(text, "")
		all[name], anchors[name] = text, map[string]bool{}
		for line := range strings.Lines(text) {
			if level, heading, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.Trim(level, "#") == "" && level != "" {
				anchors[name][anchor(heading)] = true
			}
		}
	}
	n := 0
	for name, text := range all {
		for _, m := range regexp.MustCompile(`\]\(([^):]*)\)|<https://github\.com/org/nixoci-action(#[^>]*)>`).FindAllStringSubmatch(text, -1) {
			n++
			if m[2] != "" { // the README, from elsewhere
				m[1] = strings.Repeat("../", strings.Count(name, "/")) + "README.md" + m[2]
			}
			file, fragment, _ := strings.Cut(m[1], "#")
			target := name
			if file != "" {
				target = filepath.Join(filepath.Dir(name), file)
			}
			if _, err := os.Stat(filepath.Join("../..", target)); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			} else if fragment != "" && !anchors[target][fragment] {
				t.Errorf("%s links to %s, and there is no such heading", name, m[1])
			}
		}
	}
	if n < 50 {
		t.Errorf("found %d links only", n)
	}
}

// inUse finds the actions of others that a text uses, with their version: a major
// one, or a commit and in a comment the version that it has.
var inUse = regexp.MustCompile(`uses: *(?:https://github\.com/)?([\w-]+/[\w-]+)@(\S+)(?: # v(\d+)\.\d+\.\d+)?`)

// onlyInPages are the major versions of actions that no workflow of this project
// uses: the first that runners with Node.js 24 start.
var onlyInPages = map[string]string{"actions/upload-pages-artifact": "5", "actions/deploy-pages": "5"}

// The workflows that the documentation shows use the versions of this project's
// own workflows, which dependabot keeps current. Those are pinned to one commit.
func TestRecipes(t *testing.T) {
	workflows, err := filepath.Glob("../../.github/workflows/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	major, commit := maps.Clone(onlyInPages), map[string]string{}
	for _, name := range workflows {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range inUse.FindAllStringSubmatch(string(text), -1) {
			if m[1] == "org/nixoci-action" {
				continue
			}
			if !regexp.MustCompile(`^[0-9a-f]{40}$`).MatchString(m[2]) || m[3] == "" {
				t.Errorf("%s: %s is not pinned to a commit, with its version", name, m[0])
			}
			if was := commit[m[1]]; was != "" && was != m[2] {
				t.Errorf("%s: %s is another commit elsewhere", name, m[0])
			}
			major[m[1]], commit[m[1]] = m[3], m[2]
		}
	}
	n := 0
	for name, text := range docstest.Pages(t) {
		for _, m := range inUse.FindAllStringSubmatch(text, -1) {
			if m[1] == "org/nixoci-action" {
				continue
			}
			n++
			if m[2] != "v"+major[m[1]] {
				t.Errorf("%s shows %s@%s, want v%s", name, m[1], m[2], major[m[1]])
			}
		}
	}
	if len(commit) < 5 || n < 10 {
		t.Errorf("found %d actions in workflows, %d uses in the documentation", len(commit), n)
	}
}

// Every command line that the documentation shows is one that the program takes.
func TestDocumentedCommands(t *testing.T) {
	flags := map[string]string{} // what each command knows
	for _, c := range Nixoci.Commands {
		var words bytes.Buffer
		if status := c.Run(t.Context(), []string{"--help=flags"}, func(string) string { return "/x" }, nil, &words, &words); status != cli.ExitDone {
			t.Fatalf("%s: got status %d: %s", c.Name, status, &words)
		}
		flags[c.Name] = " " + strings.ReplaceAll(words.String(), "\n", " ")
	}
	for _, name := range []string{"completion", "help", "version"} {
		flags[name] = " --man "
	}
	n := 0
	for name, text := range docstest.Pages(t) {
		for _, m := range regexp.MustCompile("(?m)(?:nixoci|nixoci-action --|cmd/nixoci) ([a-z]+)((?: +[^|&#`;\n]*)?)").FindAllStringSubmatch(text, -1) {
			command, args := m[1], m[2]
			if !strings.Contains(m[0], " --") && flags[command] == "" {
				continue // prose
			}
			n++
			known, ok := flags[command]
			if !ok {
				t.Errorf("%s: there is no command in %q", name, m[0])
			}
			for _, f := range regexp.MustCompile(`(?:^| )(--[a-z][a-z-]*)`).FindAllStringSubmatch(args, -1) {
				if !strings.Contains(known, " "+f[1]+" ") {
					t.Errorf("%s: %s does not know %s", name, command, f[1])
				}
			}
		}
		// "publish --no-logs" and the like, in prose
		for _, m := range regexp.MustCompile("`(publish|proxy|gc|inspect) (--[a-z-]+)").FindAllStringSubmatch(text, -1) {
			n++
			if !strings.Contains(flags[m[1]], " "+m[2]+" ") {
				t.Errorf("%s: %s does not know %s", name, m[1], m[2])
			}
		}
	}
	if n < 20 {
		t.Errorf("found %d command lines only", n)
	}
}

// Every test and benchmark that the documentation names, or tells to run, is in the
// package that it names. Every promise of SECURITY.md has one.
func TestDocumentedTests(t *testing.T) {
	named := regexp.MustCompile("`([a-z0-9/]+)/((?:Test|Fuzz|Benchmark)\\w+)`")
	n := 0
	for name, text := range docstest.Pages(t) {
		for _, m := range regexp.MustCompile("go test ([^`|\n]*)").FindAllStringSubmatch(text, -1) {
			dir := regexp.MustCompile(`\./[a-z0-9/]+`).FindString(m[1])
			for _, f := range regexp.MustCompile(`-(?:run|bench) (\w+)`).FindAllStringSubmatch(m[1], -1) {
				if n++; f[1] == "xxx" { // no test
					continue
				}
				if !docstest.HasTest(t, dir, f[1]) {
					t.Errorf("%s: there is no %s in %s", name, f[1], dir)
				}
			}
		}
	}
	if n < 5 {
		t.Errorf("found %d commands only", n)
	}
	n = 0
	for name, text := range docstest.Pages(t) {
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			if n++; !docstest.HasTest(t, m[1], m[2]+`\(`) {
				t.Errorf("%s: there is no %s in %s", name, m[2], m[1])
			}
		}
		for _, m := range regexp.MustCompile("`(?:Test|Fuzz|Benchmark)[A-Z]\\w*`").FindAllString(text, -1) {
			t.Errorf("%s: %s does not name its folder", name, m)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\| ([^*|][^|]*) \|(.*)\|$`).FindAllStringSubmatch(docstest.Pages(t)["SECURITY.md"], -1) {
		if m[1] != "promise" && !named.MatchString(m[2]) {
			t.Errorf("SECURITY.md: no test holds %q", m[1])
		}
	}
	if n < 50 {
		t.Errorf("found %d tests only", n)
	}
}

// People finish a page that is short, and its lines fit their windows.
func TestReadme(t *testing.T) {
	if n := strings.Count(docstest.Pages(t)["README.md"], "\n"); n > 200 {
		t.Errorf("the README has %d lines; people finish 200", n)
	}
	code, target, span, heading := regexp.MustCompile("(?ms)^ *```.*?^ *```"), regexp.MustCompile(`\]\([^)]*\)`), regexp.MustCompile("`[^`]*`"), regexp.MustCompile(`^(#|\||!\[|    )`)
	for name, text := range docstest.Pages(t) {
		if name == "docs/flags.md" {
			continue // it is made
		}
		for line := range strings.Lines(target.ReplaceAllString(code.ReplaceAllString(text, ""), "]")) {
			line = strings.TrimSuffix(line, "\n")
			if n := len([]rune(line)); n > 100 && strings.Contains(strings.TrimLeft(span.ReplaceAllString(line, ""), " "), " ") && !heading.MatchString(line) {
				t.Errorf("%s: a line of %d characters: %.60s…", name, n, line)
			}
		}
	}
}
