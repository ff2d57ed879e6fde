package origin

import "testing"

func TestParseRef(t *testing.T) {
	t.Parallel()
	for ref, want := range map[string]struct {
		kind       RefKind
		name, text string
	}{
		"refs/heads/main":                                     {Branch, "main", "main"},
		"refs/heads/feature/a/b":                              {Branch, "feature/a/b", "feature/a/b"},
		"refs/heads/pull/12":                                  {Branch, "pull/12", "pull/12"},
		"refs/tags/v1.2":                                      {Tag, "v1.2", "tag v1.2"},
		"refs/tags/refs/heads/x":                              {Tag, "refs/heads/x", "tag refs/heads/x"},
		"refs/pull/12/merge":                                  {PullRequest, "12", "pull request 12"},
		"refs/pull/7/head":                                    {PullRequest, "7", "pull request 7"},
		"refs/merge-requests/3/head":                          {MergeRequest, "3", "merge request 3"},
		"refs/heads/gh-readonly-queue/main/pr-12-0123":        {MergeQueue, "main", "merge queue of main"},
		"refs/heads/gh-readonly-queue/release/1.0/pr-12-0123": {MergeQueue, "release/1.0", "merge queue of release/1.0"},
		"refs/notes/x":                                        {OtherRef, "refs/notes/x", "refs/notes/x"},
		"main":                                                {OtherRef, "main", "main"},
		"":                                                    {},
	} {
		if got := ParseRef(ref); got.Kind != want.kind || got.Name != want.name || got.String() != want.text {
			t.Errorf("%s: got %d, %q, %q, want %+v", ref, got.Kind, got.Name, got.String(), want)
		}
	}
}
