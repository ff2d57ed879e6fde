package summary

import (
	"fmt"
	"strings"

	"github.com/org/nixoci-action/internal/ui"
)

// literal makes text that Markdown and HTML show as it is, in one line.
func literal(s string) string { return entities(ui.Line(s)) }

// code is literal in a fixed-width font.
func code(s string) string { return "<code>" + literal(s) + "</code>" }

// pre is a block of lines. Markdown leaves what is in it alone up to its end
// tag, which cannot be in it.
func pre(s string) string { return "<pre>" + entities(ui.Text(s)) + "</pre>" }

// entities writes all that could mean anything to Markdown or HTML by number.
func entities(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(" -/,?\n\t", r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "&#%d;", r)
		}
	}
	return b.String()
}

// folded is a block that a click opens.
func folded(title, body string) string {
	return "<details><summary>" + title + "</summary>\n\n" + body + "\n</details>\n"
}

// table is a table of Markdown. Columns but the first are aligned to the right
// where right says so. Its cells are Markdown.
func table(header []string, right bool, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(header)
	rule := make([]string, len(header))
	for i := range rule {
		if rule[i] = ":---"; right && i > 0 {
			rule[i] = "---:"
		}
	}
	line(rule)
	for _, r := range rows {
		line(r)
	}
	return b.String()
}
