package steplog

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
)

// Relay passes on what a command prints, line by line. It holds back the
// annotations of errors: how loud they are is known only at the end. A command
// has made untrusted text harmless already.
type Relay struct {
	mu   sync.Mutex
	w    io.Writer
	edit func(line string) string
	line []byte
	held []string
}

// NewRelay passes on to w what edit makes of each line; nil leaves them as they
// are.
func NewRelay(w io.Writer, edit func(line string) string) *Relay { return &Relay{w: w, edit: edit} }

const errorCommand = "::error"

// Write takes any part of what is printed.
func (r *Relay) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			r.line = append(r.line, p...)
			return n, nil
		}
		r.pass(string(append(r.line, p[:i]...)))
		r.line, p = r.line[:0], p[i+1:]
	}
}

func (r *Relay) pass(line string) {
	if r.edit != nil {
		line = r.edit(line)
	}
	if strings.HasPrefix(line, errorCommand) {
		r.held = append(r.held, line)
		return
	}
	fmt.Fprintln(r.w, line)
}

// Held are the texts of the annotations that are held back.
func (r *Relay) Held() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var texts []string
	for _, line := range r.held {
		_, text, _ := strings.Cut(strings.TrimPrefix(line, "::"), "::")
		texts = append(texts, unescape.Replace(text))
	}
	return texts
}

// unescape undoes what a runner needs in the texts of annotations.
var unescape = strings.NewReplacer("%0A", "\n", "%0D", "\r", "%25", "%")

// Finish passes on what was held back: as errors, or as warnings.
func (r *Relay) Finish(warn bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.line) > 0 {
		r.pass(string(r.line))
		r.line = nil
	}
	for _, line := range r.held {
		if warn {
			line = "::warning" + strings.TrimPrefix(line, errorCommand)
		}
		fmt.Fprintln(r.w, line)
	}
	r.held = nil
}
