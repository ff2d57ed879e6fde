package ui

import (
	"bytes"
	"io"
	"sync"
)

// Log is where the output of other programs, such as Nix's messages, may go
// while they run. It is printed line by line, as by Printf. Close prints what is
// left of the last line.
func (m *Messages) Log() io.WriteCloser { return &logFilter{w: m.screen} }

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
	_, _ = io.WriteString(f.w, Text(string(f.line))+"\n")
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
