package ui

import (
	"regexp"
	"strings"
	"unicode"
)

var (
	escapes = regexp.MustCompile(`\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_]?)`)
	// userinfo of any URL, and queries of plain HTTP ones; those of flake
	// references (git+https:) say which branch is meant.
	userinfo = regexp.MustCompile(`(://)[^/@\s"']+@`)
	query    = regexp.MustCompile(`((?:^|[^+\w])https?://[^\s?"']+\?)[^\s"'<>)]+`)
)

// Text makes text from elsewhere (attribute names, Nix's messages, answers of
// servers) safe to print: control characters and escape sequences go, what
// GitHub Actions would take as a workflow command is broken up, credentials
// and queries in URLs are hidden. Newlines and tabs stay.
func Text(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = escapes.ReplaceAllString(s, "")
	s = strings.ReplaceAll(s, "\r\n", "\n")
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r == '\r': // the runner ends a line here, a terminal starts it anew
			return '\n'
		case unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, s)
	s = userinfo.ReplaceAllString(s, "${1}***@")
	s = query.ReplaceAllString(s, "${1}***")
	return neutral(s)
}

// Line is Text for what must stay in one line, such as a name.
func Line(s string) string {
	return strings.Join(strings.FieldsFunc(Text(s), func(r rune) bool { return r == '\n' || r == '\t' }), " ")
}

// neutral breaks up workflow commands. The runner takes "::" at the start of a
// line, after any white space, and "##[" anywhere.
func neutral(s string) string {
	s = strings.ReplaceAll(s, "##[", "## [")
	if !strings.Contains(s, "::") {
		return s
	}
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if t := strings.TrimLeftFunc(line, unicode.IsSpace); strings.HasPrefix(t, "::") {
			lines[i] = line[:len(line)-len(t)] + ": :" + t[2:]
		}
	}
	return strings.Join(lines, "\n")
}
