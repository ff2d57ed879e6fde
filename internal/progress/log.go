package progress

import (
	"bytes"
	"strings"

	"github.com/org/nixoci-action/internal/ui"
)

// Limits of what is kept of logs, in bytes: of a line, of a log, of all, and of a
// log when all are too much.
const (
	maxLine = 8 << 10
	maxLog  = 1 << 20
	maxLogs = 64 << 20
	minLog  = 16 << 10
)

// buildLog is the end of what a build has printed.
type buildLog struct {
	text  []byte // lines with their ends
	lines int    // of text
	cut   int    // before text
}

// add adds a line. Of a log that is longer than bound the first half goes.
func (l *buildLog) add(line string, bound int) {
	l.text = append(l.text, strings.ReplaceAll(visible(line), "\n", " ")...)
	l.text = append(l.text, '\n')
	l.lines++
	if len(l.text) > bound {
		half := len(l.text) / 2
		l.drop(half + bytes.IndexByte(l.text[half:], '\n') + 1)
	}
}

func (l *buildLog) drop(n int) {
	gone := bytes.Count(l.text[:n], []byte("\n"))
	l.cut += gone
	l.lines -= gone
	l.text = append(l.text[:0], l.text[n:]...)
}

// visible is what a terminal would show of a line that is written again and
// again, which only the end of a long one is searched for.
func visible(line string) string {
	line = strings.TrimRight(line, "\r\n")
	end := line[max(0, len(line)-maxLine):]
	if i := strings.LastIndexByte(end, '\r'); i >= 0 {
		return end[i+1:]
	}
	return ui.Cut(line, maxLine)
}

// last is the last line.
func (l *buildLog) last() string {
	text, _ := l.tail(1)
	return text
}

// String is all that is kept.
func (l *buildLog) String() string {
	text, _ := l.tail(l.lines)
	return text
}

// tail is the last lines, at most n, and how many there were before.
func (l *buildLog) tail(n int) (text string, cut int) {
	from := len(l.text)
	for n = min(n, l.lines); n > 0; n-- {
		from = bytes.LastIndexByte(l.text[:max(from-1, 0)], '\n') + 1
		cut++
	}
	return strings.TrimSuffix(string(l.text[from:]), "\n"), l.cut + l.lines - cut
}
