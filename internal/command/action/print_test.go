package action

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

var nasty = []string{
	"</pre><script>x</script>", "a|b", "`code`", "[x](https://example.org)", "# title", "::error::x", "##[error]x", "\x1b[31mred", "a\n\n## b", "a\r\n::warning::x",
	"https://user:secret@example.org/?token=x", "@somebody", "www.example.org", "&lt;b&gt;", "<!--", "-->", "\xff\xfe", "$(x)", "${{ secrets.X }}", "_a_ *b* ~c~",
}

// No value can end itself and set another output.
func TestSet(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "output")
	getenv := env("GITHUB_OUTPUT", file)
	value := "x\n_GitHubActionsFileCommandDelimeter_\nother=1\nEOF"
	for range 2 {
		if err := set(getenv, "GITHUB_OUTPUT", "name", value); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?s)^name<<(end-\w{20,})\n(.*)\n(end-\w+)\nname<<(end-\w+)\n(.*)\n(end-\w+)\n$`).FindStringSubmatch(string(got))
	if m == nil || m[1] != m[3] || m[4] != m[6] || m[1] == m[4] || m[2] != value || m[5] != value {
		t.Errorf("got %q", got)
	}
	if err := set(env(), "GITHUB_OUTPUT", "name", value); err != nil {
		t.Errorf("without a runner: got %v", err)
	}
}
