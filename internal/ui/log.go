package ui

import (
	"bytes"
	"io"
	"sync"
)

// Log is where the output of other programs, such as Nix's build log, may go
// while they run. Outside GitHub Actions it is the writer itself, so that a
// program sees the terminal it writes to. In GitHub Actions, where any line of
// a builder could be a workflow command, such lines are broken up. Close
// writes what is left of the last line; it does not close the writer.
func (m *Messages) Log() io.WriteCloser {
	if m.action == nil {
		return nopCloser{m.screen.w}
	}
	return &logFilter{w: m.screen}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// maxLogLine bounds what is held back of a line without an end.
const maxLogLine = 64 << 10

type logFilter struct {
	mu   sync.Mutex
	w    io.Writer
	line []byte
}

func (f *logFilter) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexAny(p, "\r\n") // the runner ends a line at each of them
		if i < 0 {
			f.line = append(f.line, p...)
			p = nil
			if len(f.line) < maxLogLine {
				break
			}
		} else {
			f.line = append(f.line, p[:i]...)
			p = p[i+1:]
		}
		f.flush()
	}
	return n, nil
}

func (f *logFilter) flush() {
	_, _ = io.WriteString(f.w, neutral(string(f.line))+"\n")
	f.line = f.line[:0]
}

func (f *logFilter) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.line) > 0 {
		f.flush()
	}
	return nil
}
