package discover

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/org/nixoci-action/internal/storepath"
)

const (
	drv = "/nix/store/00000000000000000000000000000000-a.drv"
	out = "/nix/store/11111111111111111111111111111111-a"
)

func rec(fields string) string {
	return `[{"node":["packages","x86_64-linux","a"],"attr":["packages","x86_64-linux","a"]` + fields + `}]`
}

func TestParseRecords(t *testing.T) {
	good := `,"drv":"` + drv + `","outputs":{"out":"` + out + `"},"name":"a","system":"x86_64-linux"`
	for _, c := range []struct {
		name, doc string
		reason    Reason // "" for an output
		message   string
	}{
		{"good", rec(good), "", ""},
		{"unfree and good", rec(good + `,"unfree":true`), "", ""},
		{"throws", rec(`,"skip":"throws"`), EvaluationError, ""},
		{"broken", rec(`,"skip":"throws","broken":true,"unfree":true`), Broken, "meta.broken"},
		{"unfree", rec(`,"skip":"throws","unfree":true`), Unfree, "license"},
		{"system", rec(`,"skip":"system","system":"x"`), OtherSystem, ""},
		{"excluded", rec(`,"skip":"excluded"`), Excluded, ""},
		{"not a derivation", rec(`,"skip":"notDerivation"`), NotDerivation, ""},
		{"no derivation path", rec(`,"outputs":{"out":"` + out + `"}`), NotDerivation, "derivation"},
		{"derivation outside", rec(`,"drv":"/etc/passwd","outputs":{"out":"` + out + `"}`), NotDerivation, "passwd"},
		{"no .drv", rec(`,"drv":"` + out + `","outputs":{"out":"` + out + `"}`), NotDerivation, out},
		{"no outputs", rec(`,"drv":"` + drv + `"`), NotDerivation, "outputs"},
		{"placeholder", rec(`,"drv":"` + drv + `","outputs":{"out":"/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"}`), UnknownPath, "before it is built"},
		{"null output", rec(`,"drv":"` + drv + `","outputs":{"out":null}`), UnknownPath, "before it is built"},
		{"output name", rec(`,"drv":"` + drv + `","outputs":{"out,dev":"` + out + `"}`), NotDerivation, "out,dev"},
		{"source outside", rec(good + `,"sources":["/etc/passwd"]`), NotDerivation, "passwd"},
		{"need outside", rec(good + `,"needs":[{"drv":"/etc/passwd","outputs":{}}]`), NotDerivation, "passwd"},
	} {
		found, err := parseRecords([]byte(c.doc))
		outputs, skipped := found.outputs, found.skipped
		switch {
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.reason == "" && (len(outputs) != 1 || outputs[0].DrvPath != drv || outputs[0].Outputs["out"] != out):
			t.Errorf("%s: got %+v, %+v, want an output", c.name, outputs, skipped)
		case c.reason != "" && (len(skipped) != 1 || skipped[0].Reason != c.reason || !strings.Contains(skipped[0].Message, c.message)):
			t.Errorf("%s: got %+v, %+v, want it skipped: %s, %q", c.name, outputs, skipped, c.reason, c.message)
		}
	}
	for _, doc := range []string{
		"", "{}", "[", `[{}]`, `[{"attr":[],"node":[]}]`, `[{"attr":["x"],"node":["x"]}]`, `[{"attr":["packages"],"node":[]}]`, rec(`,"skip":"new"`), rec(`,"outputs":[]`),
	} {
		if found, err := parseRecords([]byte(doc)); err == nil {
			t.Errorf("%q: got %v, want an error", doc, found)
		}
	}
}

func TestParseKinds(t *testing.T) {
	got, err := ParseKinds("packages, hydraJobs,packages")
	if want := []Kind{Packages, HydraJobs}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{"", "package", "packages,,checks"} {
		if got, err := ParseKinds(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

func FuzzParseRecords(f *testing.F) {
	f.Add([]byte(rec(`,"drv":"` + drv + `","outputs":{"out":"` + out + `"},"needs":[{"drv":"` + drv + `","outputs":{"dev":null}}],"sources":["` + out + `"]`)))
	f.Add([]byte(rec(`,"skip":"throws","unfree":true,"name":null,"system":"x"`)))
	f.Add([]byte(`[{"node":["apps","s","a"],"attr":["apps","s","a"],"needs":[{"drv":"` + drv + `","outputs":{}}],"sources":[]}]`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		found, err := parseRecords(doc)
		outputs, skipped := found.outputs, found.skipped
		if err != nil {
			return
		}
		for i := range outputs {
			o := &outputs[i]
			if len(o.derivations())+len(o.Sources) == 0 {
				t.Errorf("an output of nothing: %+v", o)
			}
			for _, d := range o.derivations() {
				if _, err := storepath.Parse(d.DrvPath); err != nil || !strings.HasSuffix(d.DrvPath, ".drv") {
					t.Errorf("let through: %q", d.DrvPath)
				}
			}
			for _, p := range o.Paths() {
				if _, err := storepath.Parse(p); p != "" && err != nil {
					t.Errorf("let through: %v", err)
				}
			}
		}
		for _, s := range skipped {
			if s.Reason == "" || len(s.Attr) == 0 || s.Attr.String() == "" {
				t.Errorf("let through: %+v", s)
			}
		}
	})
}

func FuzzCompilePattern(f *testing.F) {
	for _, s := range []string{"packages.*.a", `"a.b".c`, "[!a-z]?", "a", `\`, "é*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, glob string) {
		p, err := compilePattern(glob)
		if err == nil && (len(p) == 0 || slices.Contains(p, "") && !strings.Contains(glob, `""`)) {
			t.Errorf("%q: got %q", glob, p)
		}
	})
}

// Whatever an attribute is called, its pattern is one line and matches nothing
// else.
func FuzzPattern(f *testing.F) {
	for _, s := range []string{"a", "a.b", `q"uote`, `b\ack`, "[x]*?", "new\nline", "", " space ", "${x}", "[!a]", "^$"} {
		f.Add(s, s+"x")
	}
	f.Fuzz(func(t *testing.T, name, other string) {
		if !utf8.ValidString(name) || !utf8.ValidString(other) {
			return // which Nix does not write as JSON
		}
		o := Output{Kind: Packages, Attr: Attr{"packages", "x86_64-linux", name}}
		pattern := o.Pattern()
		if strings.Contains(pattern, "\n") || strings.TrimSpace(pattern) != pattern {
			t.Errorf("%q: got the pattern %q", name, pattern)
		}
		res, err := compilePattern(pattern)
		if err != nil || len(res) != 3 {
			t.Fatalf("%q: got %q from the pattern %q, %v", name, res, pattern, err)
		}
		re := regexp.MustCompile(`\A(` + res[2] + `)\z`)
		if !re.MatchString(name) || other != name && re.MatchString(other) {
			t.Errorf("%q: %q matches %q: %v, and %q: %v", name, res[2], name, re.MatchString(name), other, re.MatchString(other))
		}
	})
}
