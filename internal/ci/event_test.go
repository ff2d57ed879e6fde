package ci

import (
	"strings"
	"testing"
)

// An event that anybody can cause counts as the repository's own only if its file
// names the repository as the place that the code is from.
func FuzzEvent(f *testing.F) {
	for _, text := range []string{
		`{}`, `null`, `[]`, `{"pull_request": {"number": 7, "head": {"repo": {"full_name": "x/fork"}}}}`,
		`{"workflow_run": {"event": "push", "head_repository": {"full_name": "o/r"}}}`, `{"issue": {"number": 5, "pull_request": {}}}`,
	} {
		f.Add("pull_request_target", text)
		f.Add("workflow_run", text)
		f.Add("issue_comment", text)
	}
	f.Fuzz(func(t *testing.T, name, text string) {
		e := Event{Name: name}
		err := e.parse([]byte(text), "refs/heads/main", "o/r")
		own := strings.Contains(strings.ToLower(text), "o/r") || strings.Contains(text, `\`) // it may be written so
		if err == nil && AnybodyCauses(name) && name != "workflow_call" && e.Foreign == "" && !own {
			t.Errorf("%s of %q counts as the repository's own", name, text)
		}
	})
}
