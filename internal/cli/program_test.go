package cli

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/registrytest"
)

// testProgram has the command of flags_test.go, and another that says how it was
// started.
func testProgram() *Program {
	return &Program{
		About: "Does things.",
		Commands: []Subcommand{
			{Command: &testCommand, Run: func(ctx context.Context, args []string, getenv func(string) string, _ io.Reader, stdout, stderr io.Writer) int {
				_, err := parseTest(args, getenv)
				return Report(ctx, err, getenv, stdout, stderr)
			}},
			{Command: &Command{Name: "gc", Summary: "collects"}, Run: func(_ context.Context, args []string, _ func(string) string, _ io.Reader, stdout, _ io.Writer) int {
				_, _ = io.WriteString(stdout, "gc "+strings.Join(args, ","))
				return ExitPartly
			}},
		},
	}
}

func TestProgram(t *testing.T) {
	for _, tt := range []struct {
		args           string
		status         int
		stdout, stderr string // parts
	}{
		{"gc a --b", ExitPartly, "gc a,--b", ""},
		{"", ExitDone, "Usage: nixoci COMMAND", ""},
		{"help", ExitDone, "  gc          collects\n", ""},
		{"--help", ExitDone, "  completion  ", ""},
		{"help publish", ExitDone, "Usage: nixoci publish [flags]", ""},
		{"publish --help", ExitDone, "Usage: nixoci publish [flags]", ""},
		{"help --man publish", ExitDone, ".TH NIXOCI-PUBLISH 1", ""},
		{"help --man", ExitDone, `\fBnixoci\-publish\fR(1)`, ""},
		{"help publsh", ExitUsage, "", `there is no command "publsh"` + "\nhint: did you mean nixoci publish?"},
		{"version", ExitDone, "nixoci ", ""},
		{"--version", ExitDone, "nixoci ", ""},
		{"puhlish x", ExitUsage, "", "hint: did you mean nixoci publish?"},
		{"gx", ExitUsage, "", "hint: did you mean nixoci gc?"},
		{"ls", ExitUsage, "", "hint: see nixoci help"},
		{"substitute", ExitUsage, "", "hint: see nixoci help"},
		{"completion tcsh", ExitUsage, "", "hint: give one of bash, zsh and fish"},
	} {
		var stdout, stderr bytes.Buffer
		status := testProgram().Run(t.Context(), strings.Fields(tt.args), env(), nil, &stdout, &stderr)
		if status != tt.status || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
			t.Errorf("%q: got %d\n%s%s", tt.args, status, &stdout, &stderr)
		}
		if (tt.stderr == "") != (stderr.Len() == 0) {
			t.Errorf("%q: got the messages %q", tt.args, stderr.String())
		}
	}
}

// The program is the command by whose name it is started.
func TestAs(t *testing.T) {
	for name, status := range map[string]int{"/usr/bin/gc": ExitPartly, "nixoci-gc": ExitPartly, "nixoci": ExitUsage, "./other": ExitUsage} {
		if got := testProgram().As(name)(t.Context(), []string{"what"}, env(), nil, io.Discard, io.Discard); got != status {
			t.Errorf("as %s: got status %d, want %d", name, got, status)
		}
	}
}

func TestComplete(t *testing.T) {
	for line, want := range map[string]string{
		"nixoci ":                           "publish gc completion help version",
		"nixoci p":                          "publish",
		"nixoci help g":                     "gc",
		"nixoci completion ":                "bash zsh fish",
		"nixoci publish --comp":             "--compression",
		"nixoci publish --compression ":     "zstd xz none",
		"nixoci publish --compression x":    "xz",
		"nixoci publish --flake ":           "",
		"nixoci publish ./re":               "",
		"nixoci publish --dry-run --refr":   "--refresh-every",
		"nixoci publish --jobs 3 --vers":    "--version",
		"nixoci nothing --":                 "",
		"nixoci":                            "",
		"":                                  "",
		"nixoci publish --compression xz n": "",
	} {
		if got := strings.Join(testProgram().complete(line, env()), " "); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

// The shells ask the program in the way that it understands.
func TestShells(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	program := filepath.Join(bin, Name)
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/nixoci").CombinedOutput(); err != nil {
		t.Fatalf("building the program: %v\n%s", err, out)
	}
	// what a shell does when somebody presses the tabulator key behind the line
	asks := map[string]string{
		"bash": `source <(nixoci completion bash)
			run() { COMP_LINE=$1 COMP_POINT=${#1} nixoci completion words; }
			complete -p nixoci | grep -q "nixoci completion words" && run "nixoci publish --compression "`,
		"fish": `nixoci completion fish | source; complete -C "nixoci publish --compression "`,
		"zsh": `autoload -U compinit && compinit -u -D; source <(nixoci completion zsh)
			[[ ${_comps[nixoci]} == *_bash_complete*words* ]] && COMP_LINE="nixoci publish --compression " nixoci completion words`,
	}
	for shell, script := range asks {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(shell); err != nil {
				registrytest.Missing(t, shell+" is not installed")
			}
			cmd := exec.CommandContext(t.Context(), shell, "-c", script)
			cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+t.TempDir())
			out, err := cmd.CombinedOutput()
			words := strings.Fields(string(out)) // fish adds files
			for _, want := range []string{"none", "xz", "zstd"} {
				if err != nil || !slices.Contains(words, want) {
					t.Errorf("got %q, %v, want %s in it", out, err, want)
				}
			}
		})
	}
}
