package nix

import (
	"bytes"
	"slices"
	"strings"
)

// Limits of what an error keeps of a log.
const (
	tailSize     = 64 << 10
	messageLines = 40
	messageSize  = 8 << 10
)

// tail keeps the end of what is written to it.
type tail struct {
	buf []byte
	cut bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if len(t.buf) > 2*tailSize {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-tailSize:]...)
		t.cut = true
	}
	return len(p), nil
}

// message returns Nix's own message: the log from the first line that starts
// with "error:", or its last lines where there is none. It only decides what
// people get to read, so a guess is good enough. No control character but
// newline and tab is left in it.
func (t *tail) message() string {
	buf := t.buf
	if t.cut {
		if i := bytes.IndexByte(buf, '\n'); i >= 0 {
			buf = buf[i+1:]
		}
	}
	lines := strings.Split(strings.TrimSpace(clean(string(buf))), "\n")
	start := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "error:") })
	if start < 0 {
		lines = lines[max(0, len(lines)-messageLines):]
	} else {
		lines = afterTrace(lines[start:])
	}
	if len(lines) > messageLines {
		lines = append(lines[:messageLines:messageLines], "…")
	}
	s := strings.Join(lines, "\n")
	if len(s) > messageSize {
		s = strings.ToValidUTF8(s[:messageSize], "") + "…"
	}
	return strings.TrimSpace(strings.TrimPrefix(s, "error:"))
}

// afterTrace drops the trace that newer versions print before the message:
// "error:" alone on its line, then the frames, then the message, indented.
func afterTrace(lines []string) []string {
	if strings.TrimSpace(lines[0]) != "error:" {
		return lines
	}
	for i := len(lines) - 1; i > 0; i-- {
		text := strings.TrimLeft(lines[i], " ")
		indent := lines[i][:len(lines[i])-len(text)]
		if indent == "" || !strings.HasPrefix(text, "error:") {
			continue
		}
		rest := slices.Clone(lines[i:])
		for j := range rest {
			rest[j] = strings.TrimPrefix(rest[j], indent)
		}
		return rest
	}
	return lines
}

// clean drops escape sequences and control characters.
func clean(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	escape := false
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		switch {
		case r == '\x1b':
			escape = true
		case escape: // CSI: ESC [ parameters letter
			if r != '[' && r != ';' && r != '?' && (r < '0' || r > '9') {
				escape = false
			}
		case r == '\n' || r == '\t' || r >= ' ' && r != 0x7f && (r < 0x80 || r > 0x9f):
			b.WriteRune(r)
		}
	}
	return b.String()
}
