package ui

import (
	"strings"
	"testing"
	"unicode"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"plain: a::b, ü ☃ #[x]":                      "plain: a::b, ü ☃ #[x]",
		"a\n\tb":                                     "a\n\tb",
		"::error::x":                                 ": :error::x",
		"a\n \u00a0::set-output name=x::y":           "a\n \u00a0: :set-output name=x::y",
		"a\r::error::x\r\n::b":                       "a\n: :error::x\n: :b",
		"\x1b[0m::error::x":                          ": :error::x",
		"\x00:\x07:error::x":                         ": :error::x",
		"see ##[error]x ##[":                         "see ## [error]x ## [",
		"\x1b[31;1merror:\x1b[0m x\x1b]0;title\x07y": "error: xy",
		"a\xffb\u202ec\u009bd":                       "a\uFFFDbcd",
		"#\x1b#[error]":                              "## [error]",
		"GET https://u:p@h/a?sig=S&x=\"q\" b":        "GET https://***@h/a?sig=***&x=***\"q\" b",
		"https://h/a?token=S: EOF":                   "https://h/a?token=*** EOF",
		"(https://h/a?S&ref=main)":                   "(https://h/a?***&ref=main)",
		"git+https://t@k@h/r?ref=main&token=S":       "git+https://***@h/r?ref=main&token=***",
		"http://127.0.0.1:37515?trusted=1":           "http://127.0.0.1:37515?trusted=1",
		"mail a@b, oci:dir, 50 % done?":              "mail a@b, oci:dir, 50 % done?",
	} {
		if got := Text(in); got != want {
			t.Errorf("Text(%q): got %q, want %q", in, got, want)
		}
	}
	if got := Line("a\n\n::b\tc\r"); got != "a : :b c" {
		t.Errorf("Line: got %q", got)
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"a", "\r::x", "##\x00[", ":\x1b[m:", "::\n::", "\x1b]0;", "http://a@b?c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Text(s)
		if strings.Contains(got, "##[") {
			t.Errorf("%q: a command is left in %q", s, got)
		}
		for line := range strings.SplitSeq(got, "\n") {
			if strings.HasPrefix(strings.TrimLeftFunc(line, unicode.IsSpace), "::") {
				t.Errorf("%q: a command is left in %q", s, got)
			}
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }); i >= 0 {
			t.Errorf("%q: a control character is left in %q", s, got)
		}
		if l := Line(s); strings.ContainsAny(l, "\n\r\t") || strings.HasPrefix(strings.TrimLeftFunc(l, unicode.IsSpace), "::") {
			t.Errorf("%q: got line %q", s, l)
		}
	})
}
