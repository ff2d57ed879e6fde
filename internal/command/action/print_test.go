package action

import (
	"bytes"
	"encoding/json"
	"html"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/ui"
)

var nasty = []string{
	"</pre><script>x</script>", "a|b", "`code`", "[x](https://example.org)", "# title", "::error::x", "##[error]x", "\x1b[31mred", "a\n\n## b", "a\r\n::warning::x",
	"https://user:secret@example.org/?token=x", "@somebody", "www.example.org", "&lt;b&gt;", "<!--", "-->", "\xff\xfe", "$(x)", "${{ secrets.X }}", "_a_ *b* ~c~",
}

// harmless is text in which nothing has a meaning for Markdown or HTML.
var harmless = regexp.MustCompile(`^([A-Za-z0-9 /,?\n\t-]|&#[0-9]+;)*$`)

func FuzzLiteral(f *testing.F) {
	for _, s := range nasty {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		one := literal(s)
		if !harmless.MatchString(one) || strings.ContainsAny(one, "\n\t") {
			t.Errorf("literal(%q): got %q", s, one)
		}
		if got, want := html.UnescapeString(one), ui.Line(s); got != want && !strings.ContainsFunc(want, func(r rune) bool { return r == 0xfffd }) {
			t.Errorf("literal(%q) shows %q, want %q", s, got, want)
		}
		block := strings.TrimSuffix(strings.TrimPrefix(pre(s), "<pre>"), "</pre>")
		if !harmless.MatchString(block) {
			t.Errorf("pre(%q): got %q", s, block)
		}
	})
}

// Whatever a report says, the summary has our own markup only.
func FuzzSummary(f *testing.F) {
	for _, s := range nasty {
		f.Add(s, s)
	}
	summaries := func(a, b string) (texts []string) {
		at := time.Unix(1_700_000_000, 0)
		r := publishReport{
			Status: "partly", Error: "of " + b + "t0ken-123", PublicKeys: []string{b}, Closure: total{1, 2, 3}, Excluded: total{1, 2, 3}, Unsigned: total{1, 2, 3}, OtherKeys: []string{a, b},
			Outputs: []outputReport{
				{Attr: a, Status: "failed", Reason: "r" + b, Message: "m" + b + "c2VjcmV0", FailedDrv: a, Log: "l" + a + "k:c2VjcmV0"},
				{Attr: "x" + a, Status: "skipped", Reason: b, Message: a},
			},
			Paths: []pathReport{{Path: a, Reason: "new"}}, LeftOut: []pathReport{{Path: a, Reason: b}},
			Failures: []failedPath{{a, b}}, Stored: &total{1, 2, 3}, History: []past{{at, total{1, 2, 3}}, {at.Add(time.Hour), total{1, 2, 4}}},
		}
		var g gcReport
		text := `{"error": "x", "kept": {"paths": 1}, "reasons": [{"keep": true, "reason": "x"}], "paths": [{"path": "x"}], "result": {"refused": [{"reason": "x", "remedy": "x"}]}}`
		if err := json.Unmarshal([]byte(text), &g); err != nil {
			f.Fatal(err)
		}
		g.Error, g.Reasons[0].Reason, g.Paths[0].Path, g.Result.Refused[0].Reason, g.Result.Refused[0].Remedy = "of "+b, a, a, b, a
		for _, getenv := range []func(string) string{env(), env(summarisedName, "oci:/c")} {
			s := &session{cfg: config{text: map[string]string{"cache": "oci:/c", "token": "t0ken-123", "signing-key": "k:c2VjcmV0", "flake": a}, summary: true}, getenv: getenv}
			texts = append(texts, s.publishSummary(&r, false), s.publishSummary(&r, true), s.gcSummary(&g))
		}
		return texts
	}
	frames := summaries("x", "y")
	f.Fuzz(func(t *testing.T, a, b string) {
		for i, text := range summaries(a, b) {
			if got, want := markup(text), markup(frames[i]); got != want {
				t.Errorf("with %q and %q the markup is %q, want %q", a, b, got, want)
			}
			if shown := html.UnescapeString(text); strings.Contains(shown, "t0ken-123") || strings.Contains(shown, "c2VjcmV0") {
				t.Errorf("a secret is in the summary: %s", shown)
			}
		}
	})
}

// markup is a text without what shows.
func markup(s string) string {
	s = regexp.MustCompile(`&#[0-9]+;`).ReplaceAllString(s, "x")
	s = regexp.MustCompile(`<(pre|code)>[^<]*</`).ReplaceAllString(s, "<$1>x</")   // it may be empty
	s = regexp.MustCompile(`(<br>[A-Za-z0-9 /,?\t.…-]*)+`).ReplaceAllString(s, "") // an error of several lines
	return regexp.MustCompile(`[A-Za-z0-9 /,?\t.…-]+|\n+`).ReplaceAllString(s, " ")
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

func TestRelay(t *testing.T) {
	t.Parallel()
	for warn, want := range map[bool]string{
		true:  "one\ntwo\n::warning::bad\n::warning title=x::worse\n",
		false: "one\ntwo\n::error::bad\n::error title=x::worse\n",
	} {
		var out bytes.Buffer
		r := newRelay(&out)
		for _, part := range []string{"on", "e\n::err", "or::bad\ntwo\n", "::error title=x::worse"} {
			_, _ = r.Write([]byte(part))
		}
		r.finish(warn)
		if out.String() != want {
			t.Errorf("warn %t: got %q, want %q", warn, out.String(), want)
		}
	}
}
