package archtest

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestWorkflows: what actionlint does not look at, in the project's workflows
// and in those of the template.
func TestWorkflows(t *testing.T) {
	var files []string
	for _, dir := range []string{"../../.github/workflows", "../../template/.github/workflows"} {
		found, err := filepath.Glob(filepath.Join(dir, "*.yml"))
		if err != nil || len(found) == 0 {
			t.Fatalf("got no workflows in %s: %v", dir, err)
		}
		files = append(files, found...)
	}
	pins := map[string]string{}
	for _, file := range files {
		for _, bad := range badWorkflow(read(t, file), pins) {
			t.Errorf("%s: %s", file, bad)
		}
	}
}

var (
	step   = regexp.MustCompile(`(?m)^[^#\n]*\buses: (\S+)(.*)$`)
	pinned = regexp.MustCompile(`^([^@]+)@([0-9a-f]{40})$`)
	ours   = regexp.MustCompile(`^(\./|org/nixoci-action(/\.github/workflows/[a-z]+\.yml)?@v1$)`)
	called = regexp.MustCompile(`^org/nixoci-action/(\S+)@v1$`)
)

// badWorkflow says what breaks the rules: foreign actions are pinned by hash,
// the same everywhere; no expression is in a script, where its value would be
// run; every job has a deadline; permissions are named.
func badWorkflow(text string, pins map[string]string) (bad []string) {
	for _, m := range step.FindAllStringSubmatch(text, -1) {
		pin := pinned.FindStringSubmatch(m[1])
		switch {
		case ours.MatchString(m[1]):
		case pin == nil || !regexp.MustCompile(`^ # v\d+\.\d+\.\d+$`).MatchString(m[2]):
			bad = append(bad, fmt.Sprintf("%s is not pinned by a hash, with the version behind it", m[1]))
		case pins[pin[1]] == "":
			pins[pin[1]] = pin[2]
		case pins[pin[1]] != pin[2]:
			bad = append(bad, fmt.Sprintf("%s is another one elsewhere", m[1]))
		}
	}
	if !regexp.MustCompile(`(?m)^permissions:`).MatchString(text) {
		bad = append(bad, "there are no permissions")
	}
	if a, b := strings.Count(text, "\n    runs-on: "), strings.Count(text, "\n    timeout-minutes: "); a != b {
		bad = append(bad, fmt.Sprintf("%d jobs have %d deadlines", a, b))
	}
	script := -1 // the indentation of the script that a line may belong to
	for line := range strings.SplitSeq(text, "\n") {
		content := strings.TrimLeft(line, " -")
		indent := len(line) - len(content)
		if content == "" {
			continue
		}
		if script < 0 || indent <= script {
			script = -1
			if strings.HasPrefix(content, "run:") {
				script = indent
			}
		}
		if script >= 0 && strings.Contains(line, "${{") {
			bad = append(bad, fmt.Sprintf("the script has an expression: %s", content))
		}
	}
	return bad
}

// The template gives the workflows that it calls only inputs that they have.
func TestTemplateCallsWorkflows(t *testing.T) {
	for _, name := range []string{"publish.yml", "update.yml", "gc.yml"} {
		text := read(t, "../../template/.github/workflows/"+name)
		m := step.FindStringSubmatch(text)
		if m == nil || !called.MatchString(m[1]) {
			t.Fatalf("%s calls nothing", name)
		}
		_, inputs, _ := strings.Cut(read(t, "../../"+called.FindStringSubmatch(m[1])[1]), "workflow_call:")
		inputs, _, _ = strings.Cut(inputs, "\npermissions:")
		_, with, _ := strings.Cut(text, "    with:\n")
		given := regexp.MustCompile(`(?m)^      ([A-Za-z_-]+): `).FindAllStringSubmatch(with, -1)
		if len(given) == 0 {
			t.Errorf("%s gives no inputs", name)
		}
		for _, g := range given {
			if !strings.Contains(inputs, "\n      "+g[1]+":\n") {
				t.Errorf("%s gives %s, which is no input or secret there", name, g[1])
			}
		}
	}
}

func TestWorkflowRules(t *testing.T) {
	const sum = "0123456789012345678901234567890123456789"
	good := "permissions: {}\njobs:\n  x:\n    runs-on: x\n    timeout-minutes: 1\n    steps:\n      - uses: a/b@" + sum + " # v1.2.3\n      - env:\n          A: ${{ b }}\n        run: |\n          true\n        if: ${{ c }}\n"
	tests := map[string]string{
		"":                  good,
		"not pinned":        strings.Replace(good, sum, "v1", 1),
		"version behind":    strings.Replace(good, " # v1.2.3", "", 1),
		"another one":       good + "      - uses: a/b@" + strings.Replace(sum, "0", "1", 1) + " # v1.2.3\n",
		"no permissions":    strings.Replace(good, "permissions: {}\n", "", 1),
		"deadlines":         strings.Replace(good, "    timeout-minutes: 1\n", "", 1),
		"has an expression": strings.Replace(good, "true", "echo ${{ b }}", 1),
		"run: echo ${{ b":   good + "      - run: echo ${{ b }}\n",
	}
	for want, text := range tests {
		bad := strings.Join(badWorkflow(text, map[string]string{}), "\n")
		if (bad == "") != (want == "") || !strings.Contains(bad, want) {
			t.Errorf("got %q, want %q", bad, want)
		}
	}
}
