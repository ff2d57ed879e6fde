package ci

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An event that anybody can cause counts as the repository's own only if its file
// names the repository as the place that the code is from.
func FuzzReadEvent(f *testing.F) {
	for _, text := range []string{
		`{}`, `null`, `[]`, `{"pull_request": {"number": 7, "head": {"repo": {"full_name": "x/fork"}}}}`,
		`{"workflow_run": {"event": "push", "head_repository": {"full_name": "o/r"}}}`, `{"issue": {"number": 5, "pull_request": {}}}`,
	} {
		f.Add("pull_request_target", text)
		f.Add("workflow_run", text)
		f.Add("issue_comment", text)
	}
	file := filepath.Join(f.TempDir(), "event.json")
	f.Fuzz(func(t *testing.T, name, text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := ReadEvent(func(variable string) string {
			return map[string]string{"GITHUB_EVENT_NAME": name, "GITHUB_EVENT_PATH": file, "GITHUB_REF": "refs/heads/main", "GITHUB_REPOSITORY": "o/r"}[variable]
		})
		own := strings.Contains(strings.ToLower(text), "o/r") || strings.Contains(text, `\`) // it may be written so
		if err == nil && AnybodyCauses(name) && name != "workflow_call" && e.Foreign == "" && !own {
			t.Errorf("%s of %q counts as the repository's own", name, text)
		}
	})
}
