// Package progress shows people how far a run is that evaluates, builds and
// uploads at the same time, and what its builds print. It knows what Nix tells of
// builds, and nothing of what they are for.
package progress

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/org/nixoci-action/internal/ui"
)

// Options say how to show a run. Messages must be set.
type Options struct {
	Messages *ui.Messages
	// Stream prints each line that a builder prints at once, with the name of
	// its package in front.
	Stream bool
	// Redact takes secrets out of what Nix and builders print; nil takes out
	// nothing.
	Redact func(string) string
}

// Display shows one run, from New to End. It is safe for concurrent use. Its
// methods are cheap. What Nix and builders print may be given to it as it is.
type Display struct {
	o   Options
	end func()

	mu sync.Mutex
	evaluation
	builds
	uploads
	last beat
}

// New begins to show a run.
func New(o Options) *Display {
	if o.Redact == nil {
		o.Redact = func(s string) string { return s }
	}
	d := &Display{o: o}
	d.byDrv = map[string]*build{}
	d.last.at = time.Now()
	d.end = sync.OnceFunc(o.Messages.Follow(d))
	return d
}

// End ends the display. On a terminal it then prints the logs of the builds that
// have failed. It may be called again.
func (d *Display) End() {
	d.end()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.o.Messages.Terminal() {
		d.printLogs()
	}
}

// evaluation is how far that is. The display's lock guards it.
type evaluation struct {
	outputs int
	begun   time.Time // zero unless it is under way
}

// Evaluating tells that an evaluation begins, and the function that it ends.
func (d *Display) Evaluating() (end func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.begun = time.Now()
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.begun = time.Time{}
	}
}

// Evaluated counts outputs whose derivations are known now.
func (d *Display) Evaluated(outputs int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.outputs += outputs
}

// uploads is how far these are. The display's lock guards it, but for bytes.
type uploads struct {
	paths, sent int
	size        int64        // of all, uncompressed
	bytes       atomic.Int64 // of it that were processed
	rate        rate
	speed       float64 // in bytes a second
}

// lineSize is the size of a compressed file, in bytes, from which its upload gets
// a line where there is no region.
const lineSize = 1_000_000

// Expect adds paths, of so many uncompressed bytes, to what is to be uploaded.
func (d *Display) Expect(paths int, narBytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.paths += paths
	d.size += narBytes
}

// Add counts uncompressed bytes that were processed. A transfer that starts
// again takes its bytes back with a negative number. It is one atomic addition.
func (d *Display) Add(narBytes int64) { d.bytes.Add(narBytes) }

// Done counts a finished path. Its bytes were counted by Add.
func (d *Display) Done(path string, narSize, fileSize int64, took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sent++
	if m := d.o.Messages; fileSize >= lineSize && !m.Terminal() {
		m.Printf("uploaded %s: %s, compressed %s (%s), in %s",
			ui.Line(path), ui.Bytes(narSize), ui.Bytes(fileSize), ui.Ratio(fileSize, narSize), ui.Duration(took))
	}
}
