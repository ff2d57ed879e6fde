package archtest

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestDependenciesAreExplained: each direct dependency has a row with its
// version in docs/dependencies.md, and each row is a dependency.
func TestDependenciesAreExplained(t *testing.T) {
	doc := read(t, "../../docs/dependencies.md")
	required := map[string]string{}
	direct := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(?:require )?\t?(\S+\.\S+/\S+) (v\S+)( // indirect)?$`).FindAllStringSubmatch(read(t, "../../go.mod"), -1) {
		required[m[1]] = m[2]
		direct[m[1]] = m[3] == ""
	}
	if len(required) == 0 {
		t.Fatal("no requirement found in go.mod")
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (v\\S+) \\| \\S").FindAllStringSubmatch(doc, -1) {
		rows[m[1]] = m[2]
	}
	for name, isDirect := range direct {
		if _, ok := rows[name]; isDirect && !ok {
			t.Errorf("docs/dependencies.md does not say why %s is needed", name)
		}
	}
	for name, version := range rows {
		if required[name] != version {
			t.Errorf("docs/dependencies.md has %s at %s, go.mod at %q", name, version, required[name])
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "\r\n", "\n")
}
