package action

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

const actionPage = "../../../docs/action.md"

var update = flag.Bool("update", false, "write action.yml, and the tables in docs/action.md")

// quote writes a string for YAML.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func actionYAML() string {
	var b strings.Builder
	b.WriteString(`# Made from internal/command/action/field.go: go test ./internal/command/action -run TestDocs -update
name: Nix cache in an OCI registry
description: Builds a flake, or watches what a job builds, and publishes it as a Nix binary cache in an OCI registry such as ghcr.io
author: nixoci-action
branding:
  icon: package
  color: blue
inputs:
`)
	for _, f := range inputs {
		fmt.Fprintf(&b, "  %s:\n    description: %s\n    required: false\n    default: %s\n", f.name, quote(f.about), quote(f.fallback))
	}
	b.WriteString("outputs:\n")
	for _, f := range outputs {
		fmt.Fprintf(&b, "  %s:\n    description: %s\n", f.name, quote(f.about))
	}
	b.WriteString("runs:\n  using: node24\n  main: launch/main.js\n  post: launch/post.js\n  post-if: always()\n")
	return b.String()
}

func tables() string {
	var b strings.Builder
	b.WriteString("| input | default | |\n|---|---|---|\n")
	for _, f := range inputs {
		fallback := ""
		if f.fallback != "" {
			fallback = "`" + f.fallback + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.name, fallback, f.about)
	}
	b.WriteString("\n| output | |\n|---|---|\n")
	for _, f := range outputs {
		fmt.Fprintf(&b, "| `%s` | %s |\n", f.name, f.about)
	}
	return b.String()
}

// docs/action.md, action.yml and the code have the same inputs and outputs.
func TestDocs(t *testing.T) {
	const begin, end = "<!-- inputs and outputs: made by go test ./internal/command/action -run TestDocs -update -->\n", "<!-- end -->\n"
	page, err := os.ReadFile(actionPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("docs/action.md has no place for the tables")
	}
	for name, want := range map[string]string{
		actionPage:            before + begin + tables() + end + after,
		"../../../action.yml": actionYAML(),
	} {
		if *update {
			if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s is not what the tables in field.go say; run: go test ./internal/command/action -run TestDocs -update", name)
		}
	}
}

// What is documented is set somewhere, and the other way round.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range append(append([]field{}, inputs...), outputs...) {
		if f.about == "" || strings.Contains(f.about, "|") || strings.Contains(f.about, "\n") {
			t.Errorf("%s: got the description %q", f.name, f.about)
		}
		if (f.variable == "") != (f.to == "") {
			t.Errorf("%s: has a variable without a command, or the other way round", f.name)
		}
		for _, c := range strings.Fields(f.to) {
			if !slices.Contains([]string{publishCommand, proxyCommand, gcCommand, signCommand}, c) {
				t.Errorf("%s: there is no command %s", f.name, c)
			}
		}
		seen[f.name] = true
	}
	if len(seen) < 30 {
		t.Errorf("got %d names only", len(seen))
	}
}
