package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/org/nixoci-action/internal/ui"
)

// relay passes on what a command prints, line by line. It holds back the
// annotations of errors: how loud they are is known only at the end. A command
// has made untrusted text harmless already.
type relay struct {
	mu    sync.Mutex
	w     io.Writer
	line  []byte
	held  []string
	last  time.Time
	since time.Time
}

func newRelay(w io.Writer) *relay {
	now := time.Now()
	return &relay{w: w, last: now, since: now}
}

const errorCommand = "::error"

func (r *relay) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = time.Now()
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

func (r *relay) pass(line string) {
	if strings.HasPrefix(line, errorCommand) {
		r.held = append(r.held, line)
		return
	}
	fmt.Fprintln(r.w, line)
}

// finish passes on what was held back: as errors, or as warnings.
func (r *relay) finish(warn bool) {
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

// beat tells that the work goes on, whenever nothing was printed for a while.
// What it returns ends it.
func (r *relay) beat(every time.Duration) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(every / 2)
		defer t.Stop()
		for {
			select {
			case <-quit:
				return
			case now := <-t.C:
				r.mu.Lock()
				if now.Sub(r.last) >= every && len(r.line) == 0 {
					fmt.Fprintf(r.w, "still at work after %s\n", ui.Duration(now.Sub(r.since)))
					r.last = now
				}
				r.mu.Unlock()
			}
		}
	}()
	return func() { close(quit); <-done }
}
