package ui

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
)

var (
	escapes  = regexp.MustCompile(`\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_]?)`)
	userinfo = regexp.MustCompile(`(://)[^/?#\s"']+@`)
	query    = regexp.MustCompile(`://[^\s?"'<>]*\?[^\s"'<>]+`)
	pair     = regexp.MustCompile(`[?&][^=&]*=?[^&]*`)
)

// harmless are parameters of Nix's store URLs and flake references, which
// people need to see. The values of all others may be secrets: signed URLs and
// tokens look like anything.
var harmless = []string{"dir", "priority", "ref", "rev", "submodules", "trusted", "want-mass-query"}

// Text makes text from elsewhere (attribute names, Nix's messages, answers of
// servers) safe to print: control characters and escape sequences go, what
// GitHub Actions would take as a workflow command is broken up, credentials
// in URLs are hidden. Newlines and tabs stay.
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
	s = query.ReplaceAllStringFunc(s, hideQuery)
	return neutral(s)
}

func hideQuery(url string) string {
	before, _, _ := strings.Cut(url, "?")
	return before + pair.ReplaceAllStringFunc(url[len(before):], func(p string) string {
		key, _, ok := strings.Cut(p[1:], "=")
		switch {
		case slices.Contains(harmless, key):
			return p
		case ok:
			return p[:1] + key + "=***"
		}
		return p[:1] + "***"
	})
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
