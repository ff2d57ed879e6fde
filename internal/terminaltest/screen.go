// Package terminaltest is a terminal for tests: what a person would see of what
// a program prints.
package terminaltest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// Screen plays what is written to it, as most terminals do: a line that is too
// long is wrapped, and wrapped anew when the width changes. It is safe for
// concurrent use.
type Screen struct {
	mu            sync.Mutex
	columns, rows int
	cuts          bool // lines are cut when the width changes, as in xterm
	lines         [][]rune
	line, offset  int // the cursor, in lines
	rest          []byte
	odd           []string
	styles        int
}

// New makes an empty one.
func New(columns, rows int) *Screen {
	return &Screen{columns: columns, rows: rows, lines: [][]rune{nil}}
}

// Cutting makes it cut lines when it gets narrower, instead of wrapping them.
func (s *Screen) Cutting() *Screen {
	s.cuts = true
	return s
}

// Size is in columns and rows.
func (s *Screen) Size() (columns, rows int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.columns, s.rows
}

// Resize changes the size.
func (s *Screen) Resize(columns, rows int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cuts {
		for i, l := range s.lines {
			s.lines[i] = l[:min(len(l), columns)]
		}
		s.offset = min(s.offset, columns-1)
	}
	s.columns, s.rows = columns, rows
}

// Lines are all rows that were ever on the screen, from the first to the
// cursor's or the last that has text.
func (s *Screen) Lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, l := range s.lines {
		for {
			n := min(len(l), s.columns)
			all = append(all, strings.TrimRight(string(l[:n]), " "))
			if l = l[n:]; len(l) == 0 {
				break
			}
		}
	}
	for len(all) > 0 && all[len(all)-1] == "" {
		all = all[:len(all)-1]
	}
	return all
}

// String is the lines, each with its end.
func (s *Screen) String() string {
	lines := s.Lines()
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n"
}

// Odd are the sequences that no program of ours has a reason to print, such as
// one that hides the cursor.
func (s *Screen) Odd() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.odd)
}

// Styles is the number of changes of colour.
func (s *Screen) Styles() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.styles
}

// AtMargin reports whether the cursor is in the first column of an empty line:
// where a shell's prompt looks right.
func (s *Screen) AtMargin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.offset == 0 && len(s.lines[s.line]) == 0
}

// Write plays p.
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest = append(s.rest, p...)
	for len(s.rest) > 0 {
		n := s.play(s.rest)
		if n == 0 {
			break // the rest of a sequence is to come
		}
		s.rest = s.rest[n:]
	}
	return len(p), nil
}

// play plays the first character or sequence, and returns its length.
func (s *Screen) play(p []byte) int {
	switch c := p[0]; {
	case c == '\r':
		if s.offset > 0 && s.offset == len(s.lines[s.line]) && s.offset%s.columns == 0 {
			s.offset-- // it stands on the last column
		}
		s.offset -= s.offset % s.columns
	case c == '\n':
		s.down()
	case c == '\x1b':
		return s.sequence(p)
	case c < ' ' || c == 0x7f:
		s.odd = append(s.odd, strconv.Quote(string(c)))
	default:
		if !utf8.FullRune(p) {
			return 0
		}
		r, n := utf8.DecodeRune(p)
		l := s.lines[s.line]
		if s.offset < len(l) {
			l[s.offset] = r
		} else {
			s.lines[s.line] = append(l, r)
		}
		s.offset++
		return n
	}
	return 1
}

// down goes one row down, in the same column.
func (s *Screen) down() {
	column := s.offset % s.columns
	if next := s.offset - column + s.columns; next < len(s.lines[s.line]) {
		s.offset = min(next+column, len(s.lines[s.line]))
		return
	}
	if s.line++; s.line == len(s.lines) {
		s.lines = append(s.lines, nil)
	}
	s.offset = 0 // every newline of ours is followed, or led, by a return
}

// up goes one row up, in the same column, but not out of the screen.
func (s *Screen) up() {
	column := s.offset % s.columns
	switch {
	case s.above(len(s.lines), 0)-s.above(s.line, s.offset) >= s.rows: // the first row
	case s.offset >= s.columns:
		s.offset -= s.columns
	case s.line > 0:
		s.line--
		s.offset = max(len(s.lines[s.line])-1, 0) / s.columns * s.columns
		s.offset = min(s.offset+column, len(s.lines[s.line]))
	}
}

// above is the number of rows above a place.
func (s *Screen) above(line, offset int) int {
	n := offset / s.columns
	for _, l := range s.lines[:line] {
		n += 1 + max(len(l)-1, 0)/s.columns
	}
	return n
}

func (s *Screen) sequence(p []byte) int {
	if len(p) < 2 {
		return 0
	}
	if p[1] != '[' {
		s.odd = append(s.odd, strconv.Quote(string(p[:2])))
		return 2
	}
	end := slices.IndexFunc(p[2:], func(b byte) bool { return b >= '@' && b <= '~' })
	if end < 0 {
		return 0
	}
	end += 2
	switch arg := string(p[2:end]); {
	case p[end] == 'A':
		n, err := strconv.Atoi(arg)
		if err != nil {
			n = 1
		}
		for range n {
			s.up()
		}
	case p[end] == 'K' && arg == "":
		l := s.lines[s.line]
		row := s.offset - s.offset%s.columns + s.columns
		if row >= len(l) {
			s.lines[s.line] = l[:s.offset]
		} else {
			for i := s.offset; i < row; i++ {
				l[i] = ' '
			}
		}
	case p[end] == 'J' && arg == "":
		s.lines[s.line] = s.lines[s.line][:s.offset]
		s.lines = s.lines[:s.line+1]
	case p[end] == 'm':
		s.styles++
	default:
		s.odd = append(s.odd, fmt.Sprintf("%q", p[:end+1]))
	}
	return end + 1
}
