package index

import (
	"context"
	"errors"
	"fmt"
	"maps"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/registry"
)

// Collected tells what a collection did.
type Collected struct {
	// Removed counts the store paths that are no longer in the cache.
	Removed Total
	// Rewritten is the number of segments that were replaced, Segments are
	// those that were written.
	Rewritten int
	Segments  []SegmentInfo
	// Repacked is the number of bytes that were copied into new packs.
	Repacked int64
	// Deleted is the number of manifests that were deleted, Waiting those
	// that must wait for the delay to pass.
	Deleted int
	Waiting []Retired
	// Refused are the manifests that the registry does not delete.
	Refused []Refusal
	// Freed is what was freed in a directory.
	Freed registry.Freed
	// Lost are entries that were removed because the registry has lost their
	// blobs, or those of something they refer to.
	Lost []Entry
}

// Refusal is a manifest that stays although nobody needs it. Err is a
// *registry.RefusedError or tells why it was not tried.
type Refusal struct {
	Retired
	Err error
}

// collectTries is how often a collection plans anew because the registry has
// lost blobs.
const collectTries = 5

// Collect does what a plan says: it writes the segments that replace others,
// then the root, then deletes the manifests that were replaced long enough
// ago. It can be interrupted at any point and called again with a new plan;
// other writers and other collections may run at the same time. If there is an
// error, Collected tells what was done until then.
//
// Where the registry turns out to have lost blobs or segments, Collect plans
// anew with that knowledge.
func (c *Cache) Collect(ctx context.Context, p *Plan) (Collected, error) {
	var done Collected
	gone, err := c.unanswered(ctx, p.table.snapshot.Segments())
	if err == nil && len(gone) > 0 {
		c.opts.Logger.Warn("segments have lost their tags since the plan was made", "segments", len(gone))
		p, err = c.again(ctx, p, p.opts.lost)
	}
	for try := 1; err == nil; try++ {
		err = c.replace(ctx, p, &done)
		var missing *registry.MissingBlobsError
		if !errors.As(err, &missing) || len(missing.Digests) == 0 || try == collectTries {
			break
		}
		c.opts.Logger.Warn("the registry has lost blobs", "blobs", len(missing.Digests))
		lost := maps.Clone(p.opts.lost)
		if lost == nil {
			lost = map[v1.Hash]bool{}
		}
		for _, d := range missing.Digests {
			lost[d] = true
		}
		p, err = c.again(ctx, p, lost)
	}
	if err != nil {
		return done, fmt.Errorf("pruning the cache index: %w", err)
	}
	if err := c.deleteReplaced(ctx, p, &done); err != nil {
		return done, fmt.Errorf("deleting what was replaced: %w", err)
	}
	done.Freed, err = c.repo.Collect(ctx, c.opts.Now().Add(-p.opts.Delay))
	if err != nil {
		return done, fmt.Errorf("freeing storage: %w", err)
	}
	return done, nil
}

// again reads the index and makes a new plan of it.
func (c *Cache) again(ctx context.Context, p *Plan, lost map[v1.Hash]bool) (*Plan, error) {
	s, _, err := c.Adopt(ctx, AdoptOptions{}) // nixcache-oci may have come between
	if err != nil {
		return p, err
	}
	o := p.opts
	o.lost = lost
	next, err := s.Plan(o)
	if err != nil {
		return p, err
	}
	return next, nil
}

// replace writes the new segments, and the root.
func (c *Cache) replace(ctx context.Context, p *Plan, done *Collected) error {
	rw := &p.rewrite
	if rw.empty() {
		return c.repair(ctx, p.table.snapshot)
	}
	moved, copied, err := c.repack(ctx, p.table)
	done.Repacked += copied
	if err != nil {
		return err
	}
	w, err := c.NewWriter(p.table.snapshot, WriterOptions{Config: Config{StoreDir: p.table.snapshot.config.StoreDir}})
	if err != nil {
		return err
	}
	w.committing.Lock()
	for i, rows := range rw.new {
		h := Header{Config: rw.header.Config}
		if i == len(rw.new)-1 {
			// only now: what is left out disappears as a whole, never a path
			// before what refers to it
			h = rw.header
		}
		var content content
		if content, err = p.table.content(rows, moved); err == nil {
			_, err = w.putSegment(ctx, h, content)
		}
		if err != nil {
			break
		}
	}
	if err == nil {
		err = w.writeRoot(ctx)
	}
	w.committing.Unlock()
	done.Segments = append(done.Segments, w.written...)
	if err != nil {
		return err
	}
	done.Rewritten += len(rw.old)
	p.removed(done)
	return w.settle(ctx)
}

// repair writes the root if it lacks a segment.
func (c *Cache) repair(ctx context.Context, s *Snapshot) error {
	if len(s.extra) == 0 {
		return nil
	}
	w, err := c.NewWriter(s, WriterOptions{Config: Config{StoreDir: s.config.StoreDir}})
	if err != nil {
		return err
	}
	return w.writeRoot(ctx)
}

// removed counts what is no longer in the cache.
func (p *Plan) removed(done *Collected) {
	t := p.table
	for _, n := range p.rewrite.removed {
		r := &t.rows[n]
		done.Removed.add(r)
		if !r.damaged && t.why[r.gone] == reasonLost {
			if e, ok := t.snapshot.at(t.position(n), true); ok {
				done.Lost = append(done.Lost, e)
			}
		}
	}
}
