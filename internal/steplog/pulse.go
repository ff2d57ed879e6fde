// Package steplog is what a step of a job prints. The step is never silent for
// long. The errors of the commands that it runs are as loud as the step
// decides.
package steplog

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/org/nixoci-action/internal/ui"
)

// Heartbeat is how long nothing may be printed. A publish says more often how far
// it is.
const Heartbeat = 45 * time.Second

// Pulse is where all of a step's output goes. Where nothing was printed for a
// while it says that the work goes on, and what it is.
type Pulse struct {
	every time.Duration

	mu     sync.Mutex
	w      io.Writer
	begun  time.Time
	last   time.Time // of output
	stage  mark      // the group that is open
	latest mark      // what Nix has started last
}

// mark is something that began.
type mark struct {
	what string
	at   time.Time
}

// NewPulse prints to w, at the latest after every.
func NewPulse(w io.Writer, every time.Duration) *Pulse {
	now := time.Now()
	return &Pulse{w: w, every: every, begun: now, last: now}
}

// Write takes whole lines.
func (p *Pulse) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = time.Now()
	for line := range strings.Lines(string(text)) {
		p.see(strings.TrimSuffix(line, "\n"))
	}
	return p.w.Write(text)
}

// started is what Nix prints when it begins a build or a download, in every
// version. A builder can print the same; there is nothing else to be gained.
var started = regexp.MustCompile(`^(building|copying path) '/[^' ]*/[0-9a-z]{32}-([0-9A-Za-z+._?=-]{1,211}?)(\.drv)?'`)

func (p *Pulse) see(line string) {
	if title, ok := strings.CutPrefix(line, "::group::"); ok {
		p.stage, p.latest = mark{strings.ReplaceAll(title, "%25", "%"), p.last}, mark{}
	} else if strings.HasPrefix(line, "::endgroup::") {
		p.stage, p.latest = mark{}, mark{}
	} else if m := started.FindStringSubmatch(line); m != nil {
		p.latest = mark{m[1] + " " + m[2], p.last}
	}
}

// Beat begins to watch. What it returns ends that.
func (p *Pulse) Beat() (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(max(p.every/4, time.Millisecond))
		defer t.Stop()
		for {
			select {
			case <-quit:
				return
			case now := <-t.C:
				p.tick(now)
			}
		}
	}()
	return func() { close(quit); <-done }
}

func (p *Pulse) tick(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.last) < p.every {
		return
	}
	p.last = now
	what, since := "at work", p.begun
	if p.stage.what != "" {
		what, since = p.stage.what, p.stage.at
	}
	text := "still " + what + " after " + ui.Duration(now.Sub(since))
	if p.latest.what != "" {
		text += "; the last that Nix began, " + ui.Duration(now.Sub(p.latest.at)) + " ago: " + p.latest.what
	}
	_, _ = fmt.Fprintln(p.w, text)
}
