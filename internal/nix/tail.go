package nix

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
)

// Limits of what an error keeps of a log.
const (
	tailSize     = 64 << 10
	messageLines = 40
	messageSize  = 8 << 10
)

// tail keeps the end of what is written to it, and the derivations that error
// messages anywhere in it name.
type tail struct {
	buf    []byte
	cut    bool
	line   []byte // the start of one that has not ended
	failed []string
}

func (t *tail) Write(p []byte) (int, error) {
	t.look(p)
	t.buf = append(t.buf, p...)
	if len(t.buf) > 2*tailSize {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-tailSize:]...)
		t.cut = true
	}
	return len(p), nil
}

// Limits of what is looked at for derivations.
const (
	maxErrorLine = 16 << 10
	maxFailed    = 500
)

// derivation finds derivations in Nix's messages.
var derivation = regexp.MustCompile(`/[^\s'"]+/[0-9a-z]{32}-[0-9A-Za-z+._?=-]+\.drv\b`)

// look finds the derivations in lines that begin with "error:". While others
// are built, the messages of those that failed come in between, so that the end
// alone may not have them.
func (t *tail) look(p []byte) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			if len(t.line) < maxErrorLine {
				t.line = append(t.line, p...)
			}
			return
		}
		line := p[:i]
		if len(t.line) > 0 {
			line = append(t.line, line...)
			t.line = t.line[:0]
		}
		p = p[i+1:]
		text := clean(string(line[:min(len(line), 64)])) // it may begin with a colour
		if !strings.HasPrefix(text, "error:") {
			continue
		}
		for _, drv := range derivation.FindAllString(clean(string(line[:min(len(line), maxErrorLine)])), -1) {
			if len(t.failed) < maxFailed && !slices.Contains(t.failed, drv) {
				t.failed = append(t.failed, drv)
			}
		}
	}
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
