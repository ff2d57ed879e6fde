package ui

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Style is how text looks where there are colours.
type Style int

// All styles. Plain is the zero value.
const (
	Plain Style = iota
	Bold
	Dim
	Red
	Green
	Yellow
)

var codes = [...]string{Bold: "1", Dim: "2", Red: "31", Green: "32", Yellow: "33"}

// Span is a piece of text in one style. The text may come from elsewhere.
type Span struct {
	Text  string
	Style Style
}

// Row is what stands in one line.
type Row []Span

// render writes a row without an end of line. With columns greater than 0 it is
// one line of at most so many columns, else all of it.
func (r Row) render(columns int, colours bool) string {
	var b strings.Builder
	left := columns
	for _, s := range r {
		text := s.Text
		if columns > 0 {
			text = cut(narrow(Line(text)), left)
			left -= utf8.RuneCountInString(text)
		} else {
			text = Text(text)
		}
		if text == "" {
			continue
		}
		if colours && s.Style != Plain {
			text = "\x1b[" + codes[s.Style] + "m" + text + "\x1b[0m"
		}
		b.WriteString(text)
	}
	if columns > 0 {
		return b.String()
	}
	return neutral(b.String()) // two spans may make a command of what is none in each
}

// cut shortens text to so many columns, the last of which says that something
// is missing.
func cut(s string, columns int) string {
	if utf8.RuneCountInString(s) <= columns {
		return s
	}
	if columns < 1 {
		return ""
	}
	return string([]rune(s)[:columns-1]) + "…"
}

// narrow replaces what may not take exactly one column in every terminal. A line
// that is longer than it seems would wrap, and could not be cleared.
func narrow(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x300 && r != 0xad || r == '…' || unicode.Is(unicode.Greek, r) || unicode.Is(unicode.Cyrillic, r) && !unicode.Is(unicode.M, r) {
			return r
		}
		return '?'
	}, s)
}
