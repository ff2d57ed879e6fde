package ui

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// screen is where messages and the status region meet. Messages go above the
// region. The cursor stays visible, in the line below the region, so that a
// process that is killed leaves nothing odd behind.
type screen struct {
	mu      sync.Mutex
	w       io.Writer
	size    func() (columns, rows int)
	colours bool
	reflows bool // lines wrap anew when the width changes

	region  bool  // there is a status
	status  []Row // what it says
	shown   []string
	widths  []int     // of what is shown, in columns
	columns int       // of the terminal then
	pending []byte    // messages that are not printed yet
	drawn   time.Time // when last
}

// A terminal is slow, so that messages which come fast are printed together.
const (
	maxPending = 64 << 10
	drawEvery  = 50 * time.Millisecond
)

// screens are those of terminals: all who print to one print above its region.
var screens sync.Map

// screenOf is the screen of a writer.
func screenOf(w io.Writer) *screen {
	s := &screen{w: w, size: func() (int, int) { return 80, 24 }}
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return s
	}
	s.size = func() (int, int) {
		if columns, rows, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 && rows > 0 {
			return columns, rows
		}
		return 80, 24
	}
	same, _ := screens.LoadOrStore(f, s)
	return same.(*screen)
}

// Write never fails: there is no other place to say that nothing can be said,
// and go-githubactions panics when it cannot write.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.region {
		_, _ = s.w.Write(p)
		return len(p), nil
	}
	s.pending = append(s.pending, p...)
	if len(s.pending) >= maxPending || time.Since(s.drawn) >= drawEvery {
		s.draw()
	}
	return len(p), nil
}

// show makes rows the status region, the first one if there is none.
func (s *screen) show(rows []Row) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.region, s.status = true, rows
	s.draw()
}

// clear removes the region.
func (s *screen) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = nil
	s.draw()
	s.region = false
}

// draw prints pending messages, and the region below them, in one piece.
func (s *screen) draw() {
	columns, height := s.size()
	status := s.status[max(0, len(s.status)-regionRows(height)):]
	var rows []string
	var widths []int
	for _, r := range status {
		// nothing in the last column: where a terminal goes from there differs
		width := utf8.RuneCountInString(r.render(columns-1, false))
		rows, widths = append(rows, r.render(columns-1, s.colours)), append(widths, width)
	}
	resized := columns != s.columns
	if len(s.pending) == 0 && slices.Equal(rows, s.shown) && !resized {
		return
	}
	var b bytes.Buffer
	if up := s.lines(columns); up > 0 {
		fmt.Fprintf(&b, "\r\x1b[%dA", up)
	}
	if len(s.pending) > 0 || resized {
		b.WriteString("\r\x1b[J")
	}
	if b.Write(s.pending); len(s.pending) > 0 && !bytes.HasSuffix(s.pending, []byte("\n")) {
		b.WriteByte('\n')
	}
	for _, r := range rows { // each line in its place, which does not flicker
		b.WriteString(r + "\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	_, _ = s.w.Write(b.Bytes())
	s.shown, s.widths, s.pending, s.drawn = rows, widths, s.pending[:0], time.Now()
	s.columns = columns
}

// lines is how many lines of the terminal the region takes now. Most terminals
// wrap what stands there when they get narrower.
func (s *screen) lines(columns int) int {
	n := len(s.widths)
	for _, w := range s.widths {
		if s.reflows && w > columns {
			n += (w - 1) / columns
		}
	}
	return n
}

// regionRows is how many lines of a terminal a region may take.
func regionRows(height int) int { return max(1, height/3) }
