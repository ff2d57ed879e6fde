package action

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/cli"
)

// The matrix is an output in one line; without jobs it is empty, because GitHub
// takes no matrix of nothing.
func TestPlan(t *testing.T) {
	t.Parallel()
	const one = `{"include":[{"name":"a","system":"x","runner":"r","outputs":"packages.x.\"a\"\\npackages.x.<b>","systems":"x","series":"s"}]}`
	spaced := strings.ReplaceAll(one, `,"`, `, "`)
	for _, tc := range []struct {
		name, report string
		exit         int
		want         string
	}{
		{"a job", `{"status": "done", "matrix": ` + spaced + `}`, 0, one},
		{"a job and a failure", `{"status": "partly", "matrix": ` + spaced + `, "outputs": [{"attr": "c", "status": "failed"}]}`, cli.ExitPartly, one},
		{"nothing", `{"status": "done", "matrix": {"include": []}}`, 0, ""},
		{"a failure", `{"status": "failed"}`, cli.ExitFailed, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			output := filepath.Join(t.TempDir(), "output")
			report := filepath.Join(t.TempDir(), "report")
			if err := os.WriteFile(report, []byte(tc.report), 0o600); err != nil {
				t.Fatal(err)
			}
			s, out := newTestSession(t, "cat "+report+"; exit $STATUS", "INPUT_FLAKE", ".", "INPUT_MATRIX", "plan", "GITHUB_OUTPUT", output)
			s.env = append(s.env, "STATUS="+string(rune('0'+tc.exit)))
			err := s.plan(t.Context())
			if f := (failed{}); tc.exit == 0 && err != nil || tc.exit != 0 && (!errors.As(err, &f) || f.status != tc.exit) {
				t.Errorf("got %v, want status %d\n%s", err, tc.exit, out)
			}
			text, err := os.ReadFile(output)
			if err != nil {
				t.Fatal(err)
			}
			_, rest, _ := strings.Cut(string(text), "matrix<<")
			_, rest, _ = strings.Cut(rest, "\n")
			if got, _, _ := strings.Cut(rest, "\nend-"); got != tc.want {
				t.Errorf("got the matrix %q, want %q", got, tc.want)
			}
		})
	}
}
