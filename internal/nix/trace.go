package nix

import (
	"bytes"
	"io"
)

// Limits of a line of the log in which a message is looked for, in bytes: of one
// that has the mark in it, and of any other, which is passed on in parts.
const (
	maxTold     = 64 << 20
	maxOtherLog = 64 << 10
)

// traceLog takes out of Nix's log what an expression says by builtins.trace.
type traceLog struct {
	mark []byte // what it begins with
	tell func(line []byte)
	rest io.Writer // gets everything else

	line []byte // the start of one that has not ended
}

func (l *traceLog) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			l.line = append(l.line, p...)
			if len(l.line) > maxTold || len(l.line) > maxOtherLog && !bytes.Contains(l.line[:maxOtherLog], l.mark) {
				l.pass(l.line)
				l.line = l.line[:0]
			}
			break
		}
		line := p[:i+1]
		if len(l.line) > 0 {
			line = append(l.line, line...)
		}
		l.read(line)
		l.line = l.line[:0]
		p = p[i+1:]
	}
	return n, nil
}

// read takes in a line with its end. What another program has written before the
// message, without ending its line, is passed on.
func (l *traceLog) read(line []byte) {
	before, message, told := bytes.Cut(line, l.mark)
	if !told {
		l.pass(line)
		return
	}
	if before = bytes.TrimSuffix(before, []byte("trace: ")); len(before) > 0 {
		l.pass(append(bytes.Clone(before), '\n'))
	}
	l.tell(bytes.TrimSuffix(message, []byte("\n")))
}

func (l *traceLog) pass(text []byte) { _, _ = l.rest.Write(text) }

// close takes in a last line that has no end. A message is whole only with one.
func (l *traceLog) close() {
	if len(l.line) > 0 && !bytes.Contains(l.line, l.mark) {
		l.pass(l.line)
	}
	l.line = nil
}
