package blobs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/pieces"
)

// fetchStall is how long a fetch may stand still. It is less than readers have
// patience, so that they can still go on by themselves.
const fetchStall = 45 * time.Second

// diskFetch is a blob on its way to the disk.
type diskFetch struct {
	blob v1.Hash
	size int64  // bytes
	name string // of the file

	mu      sync.Mutex
	written int64
	ended   bool
	moved   chan struct{} // closed at the next change
}

// begin begins to fetch a blob; nil if it cannot be stored.
func (d *Disk) begin(blob v1.Hash, size int64) *diskFetch {
	if d.closed || time.Now().Before(d.paused) || !d.reserve(size) {
		return nil
	}
	f, err := os.CreateTemp(d.dir, partPrefix+"*")
	if err != nil {
		d.failed(err)
		return nil
	}
	g := &diskFetch{blob: blob, size: size, name: f.Name(), moved: make(chan struct{})}
	d.fetching[blob] = g
	d.counts.Misses++
	d.fetches.Go(func() { d.fetch(g, f) })
	return g
}

// errDisk marks what is not the registry's fault.
var errDisk = errors.New("writing to the NAR cache")

// fetch completes a file, or removes it.
func (d *Disk) fetch(g *diskFetch, f *os.File) {
	err := d.store(g, f)
	f.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		if err = os.Rename(g.name, d.path(g.blob)); err != nil {
			err = fmt.Errorf("%w: %w", errDisk, err)
		}
	}
	delete(d.fetching, g.blob)
	if err == nil {
		d.unwell = false
		d.held.Put(g.blob, g.size)
	} else {
		_ = os.Remove(g.name) // else the next start does
	}
	switch {
	case errors.Is(err, errDisk):
		d.failed(err)
	case errors.Is(err, ErrCorrupt):
		d.log.Warn("a blob is not kept", "error", err)
	}
	g.end()
}

// failed notes that the disk cannot be written to. It needs the lock.
func (d *Disk) failed(err error) {
	d.counts.Failures++
	d.paused = time.Now().Add(diskPause)
	if !d.unwell {
		d.log.Warn("the NAR cache cannot store; until it can, NARs come from the registry each time", "error", err)
	}
	d.unwell = true
}

// store copies the blob to the file and verifies it.
func (d *Disk) store(g *diskFetch, f *os.File) error {
	src := Read(d.ctx, d.next, g.blob, 0, g.size)
	defer src.Close()
	sum := sha256.New()
	buf := pieces.Get()
	defer pieces.Put(buf)
	for done := int64(0); done < g.size; {
		p := buf[:min(pieces.Size, g.size-done)]
		if err := src.Fill(p, fetchStall); err != nil {
			return err
		}
		sum.Write(p)
		if _, err := f.Write(p); err != nil {
			return fmt.Errorf("%w: %w", errDisk, err)
		}
		done += int64(len(p))
		g.advance(done)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != g.blob.Hex {
		return fmt.Errorf("blob %s has the digest sha256:%s: %w", g.blob, got, ErrCorrupt)
	}
	if err := f.Sync(); err != nil { // what has the final name is complete, also after a power cut
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	return nil
}

func (g *diskFetch) progress() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.written
}

func (g *diskFetch) advance(written int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.written = written
	close(g.moved)
	g.moved = make(chan struct{})
}

func (g *diskFetch) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
	close(g.moved)
}

// wait returns how many bytes there are from off, when there are some; 0 if
// there will be none, or when the patience, unless it is 0, or ctx ends.
func (g *diskFetch) wait(ctx context.Context, off int64, patience time.Duration) int64 {
	var late <-chan time.Time
	if patience > 0 {
		t := time.NewTimer(patience)
		defer t.Stop()
		late = t.C
	}
	for {
		g.mu.Lock()
		n, ended, moved := g.written-off, g.ended, g.moved
		g.mu.Unlock()
		if n > 0 || ended {
			return max(n, 0)
		}
		select {
		case <-moved:
		case <-late:
			return 0
		case <-ctx.Done():
			return 0
		}
	}
}
