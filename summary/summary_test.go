package summary

import (
	"encoding/json"
	"html"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/internal/secret"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/matrix"
	"github.com/org/nixoci-action/report"
)

// secrets are those that the reports of these tests have in them.
func secrets() *secret.Set {
	s := &secret.Set{}
	s.AddKeys("k:c2VjcmV0")
	s.Add("the token", "t0ken-123")
	return s
}

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
	f.Add("", "")
	for _, s := range nasty {
		f.Add(s, s)
	}
	summaries := func(a, b string) (texts []string) {
		at := time.Unix(1_700_000_000, 0)
		r := report.Publish{
			Status: report.Partly, OtherError: "of " + b + "t0ken-123", Hints: []string{"try " + a + "t0ken-123"}, PublicKeys: []string{b}, Closure: report.Total{Paths: 1, NarSize: 2, FileSize: 3},
			Excluded: report.Total{Paths: 1, NarSize: 2, FileSize: 3}, Unsigned: report.Total{Paths: 1, NarSize: 2, FileSize: 3}, OtherKeys: []string{a, b},
			Outputs: []report.Output{
				{Attr: a, Status: report.OutputFailed, Reason: "r" + b, Message: "m" + b + "c2VjcmV0", FailedDrv: "x" + a, Log: "l" + a + "k:c2VjcmV0"},
				{Attr: "x" + a, Status: report.OutputSkipped, Reason: b, Message: a},
			},
			Paths: []report.Path{{Path: a, Reason: "new"}}, LeftOut: []report.Path{{Path: a, Reason: b}},
			Failures: []report.Failure{{Path: a, Error: b}}, Stored: &report.Stored{Paths: 1, FileSize: 3},
			History: []collect.Past{{Time: at, Total: index.Total{Paths: 1, NarSize: 2, FileSize: 3}}, {Time: at.Add(time.Hour), Total: index.Total{Paths: 1, NarSize: 2, FileSize: 4}}},
		}
		var g report.GC
		text := `{"error": "x", "kept": {"paths": 1}, "reasons": [{"keep": true, "reason": "x"}], "paths": [{"path": "x"}], "result": {"refused": [{"reason": "x", "remedy": "x"}]}}`
		if err := json.Unmarshal([]byte(text), &g); err != nil {
			f.Fatal(err)
		}
		g.Hints = []string{"try " + b}
		g.Error, g.Reasons[0].Reason, g.Paths[0].Path, g.Result.Refused[0].Reason, g.Result.Refused[0].Remedy = "of "+b, a, a, b, a
		for _, again := range []bool{false, true} {
			o := Options{Cache: "oci:/c", Flake: a, Again: again, Secrets: secrets()}
			ofJob := o
			ofJob.OfJob = true
			texts = append(texts, Publish(&r, o), Publish(&r, ofJob), GC(&g, o))
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

var (
	entity = regexp.MustCompile(`&#[0-9]+;`)
	shown  = regexp.MustCompile(`<(pre|code)>[^<]*</`)          // it may be empty
	breaks = regexp.MustCompile(`(<br>[A-Za-z0-9 /,?\t.…-]*)+`) // an error of several lines
	drawn  = regexp.MustCompile(`\n> <pre>x</pre>`)             // where Nix points to a line
	words  = regexp.MustCompile(`[A-Za-z0-9 /,?\t.…-]+|\n+`)
)

// markup is a text without what shows.
func markup(s string) string {
	s = entity.ReplaceAllString(s, "x")
	s = shown.ReplaceAllString(s, "<$1>x</")
	s = breaks.ReplaceAllString(s, "")
	s = drawn.ReplaceAllString(s, "")
	return words.ReplaceAllString(s, " ")
}

// Whatever names are planned, the summary has our own markup only.
func FuzzMatrixSummary(f *testing.F) {
	for _, s := range nasty {
		f.Add(s, s)
	}
	plan := func(a, b string) string {
		return Matrix(&report.Publish{
			Status: report.Partly, OtherError: "e" + b,
			Matrix: &matrix.Matrix{Include: []matrix.Job{{Name: a, System: a, Runner: a, Outputs: a}}},
			Outputs: []report.Output{
				{Attr: a, Status: report.OutputPlanned, Job: a}, {Attr: a, Status: report.OutputCached, Reason: "r" + b}, {Attr: a, Status: report.OutputFailed, Reason: "x", Message: "m" + b},
			},
		}, Options{Cache: "oci:/c", Secrets: secrets()})
	}
	frame := markup(plan("x", "x"))
	f.Fuzz(func(t *testing.T, a, b string) {
		text := plan(a, b+"t0ken-123")
		if got := markup(text); got != frame {
			t.Errorf("with %q and %q the markup is %q, want %q", a, b, got, frame)
		}
		if strings.Contains(html.UnescapeString(text), "t0ken-123") && !strings.Contains(a, "t0ken-123") {
			t.Errorf("a secret is in the summary: %s", text)
		}
	})
}

// What a step that failed, or published nothing, says first.
func TestHeadline(t *testing.T) {
	t.Parallel()
	good, bad := report.Output{Attr: "a", Status: report.OutputBuilt}, report.Output{Attr: "b", Status: report.OutputFailed}
	for _, tc := range []struct {
		name string
		r    report.Publish
		want string
	}{
		{"published", report.Publish{Status: report.Done, Outputs: []report.Output{good}}, "✅ <b>1 output published</b>"},
		{"in part", report.Publish{Status: report.Partly, Outputs: []report.Output{good, bad}}, "❌ <b>1 output failed</b> · ✅ <b>1 output published</b>"},
		{"nothing of it", report.Publish{Status: report.Partly, Outputs: []report.Output{bad}}, "❌ <b>1 output failed</b> · no output is published"},
		{"failed", report.Publish{Status: report.Failed}, "❌ <b>nothing was published</b>"},
		{"built only", report.Publish{Status: report.Done, DryRun: true, BuildOnly: true, Outputs: []report.Output{good}}, "✅ <b>1 output built</b> · nothing is published"},
		{"did not evaluate", report.Publish{Status: report.Failed, DryRun: true, BuildOnly: true}, "❌ <b>nothing was built</b>"},
		{"built only, in part", report.Publish{Status: report.Failed, DryRun: true, BuildOnly: true, Outputs: []report.Output{bad}}, "❌ <b>1 output failed</b> · nothing is published"},
	} {
		if got, _, _ := strings.Cut(Publish(&tc.r, Options{Cache: "c"}), " · 0.0 s\n"); !strings.HasSuffix(got, "\n\n"+tc.want) {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

// Nix's errors point to a line of a file; what stands below each other must stay
// so.
func TestLayoutOfErrors(t *testing.T) {
	t.Parallel()
	r := report.Publish{Status: report.Failed, OtherError: "evaluating: syntax error\n\n   at x\n\n     1| {\n      | ^", Hints: []string{"mend it", "or not"}}
	got := Publish(&r, Options{Cache: "c"})
	want := "> [!CAUTION]\n> evaluating&#58; syntax error\n> <pre>   at x\n> \n>      1&#124; &#123;\n>       &#124; &#94;</pre>\n\n> [!TIP]\n> mend it<br>\n> or not\n\n"
	if !strings.Contains(got, want) {
		t.Errorf("got %q, want %q in it", got, want)
	}
}

// What was sent and is in no index is not called uploaded, and least of all
// published.
func TestSummaryOfWhatWasSentInVain(t *testing.T) {
	t.Parallel()
	r := report.Publish{Status: report.Failed, Error: "the registry refuses it", OtherError: "the registry refuses it", Closure: report.Total{Paths: 3}, New: report.Total{Paths: 3}, Uploaded: report.Total{Paths: 3, FileSize: 5000},
		Failures: []report.Failure{{Path: "/nix/store/00000000000000000000000000000000-x", Error: "sent, but not published"}}}
	got := Publish(&r, Options{})
	for _, want := range []string{"nothing was published", "3 paths sent in vain", "1 path not published", "sent, not published"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if strings.Contains(got, "uploaded") {
		t.Errorf("got\n%s", got)
	}
}
