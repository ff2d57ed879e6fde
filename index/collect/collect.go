package collect

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
)

// Collected tells what a collection did.
type Collected struct {
	// Removed counts the store paths that are no longer in the cache.
	Removed index.Total
	// Rewritten is the number of segments that were replaced, Segments are
	// those that were written.
	Rewritten int
	Segments  []format.SegmentInfo
	// Repacked is the number of bytes that were copied into new packs.
	Repacked int64
	// Deleted is the number of manifests that were deleted, Waiting those
	// that must wait for the delay to pass.
	Deleted int
	Waiting []format.Retired
	// Refused are the manifests that the registry does not delete.
	Refused []Refusal
	// Freed is what was freed in a directory.
	Freed registry.Freed
	// Lost are entries that were removed because the registry has lost their
	// blobs, or those of something they refer to.
	Lost []format.Entry
}

// Refusal is a manifest that stays although nobody needs it. Err is a
// *registry.RefusedError or tells why it was not tried.
type Refusal struct {
	format.Retired
	Err error
}

// collectTries is how often a collection plans anew because the registry has
// lost blobs.
const collectTries = 5

// Run does what a plan says: it writes the segments that replace others,
// then the root, then deletes the manifests that were replaced long enough
// ago. It can be interrupted at any point and called again with a new plan;
// other writers and other collections may run at the same time. If there is an
// error, Collected tells what was done until then.
//
// Where the registry turns out to have lost blobs or segments, Run plans
// anew with that knowledge.
func Run(ctx context.Context, cache *index.Cache, p *Plan) (Collected, error) {
	c := &collection{cache: cache}
	err := c.run(ctx, p)
	return c.Collected, err
}

// collection is one run of Run.
type collection struct {
	Collected
	cache *index.Cache
}

func (c *collection) run(ctx context.Context, p *Plan) error {
	gone, err := c.cache.Unanswered(ctx, p.table.snapshot.Segments())
	if err == nil && len(gone) > 0 {
		c.cache.Options().Logger.Warn("segments have lost their tags since the plan was made", "segments", len(gone))
		p, err = c.again(ctx, p, p.opts.lost)
	}
	for try := 1; err == nil; try++ {
		err = c.replace(ctx, p)
		var missing *registry.MissingBlobsError
		if !errors.As(err, &missing) || len(missing.Digests) == 0 || try == collectTries {
			break
		}
		c.cache.Options().Logger.Warn("the registry has lost blobs", "blobs", len(missing.Digests))
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
		return fmt.Errorf("pruning the cache index: %w", err)
	}
	if err := c.deleteReplaced(ctx, p); err != nil {
		return fmt.Errorf("deleting what was replaced: %w", err)
	}
	c.Freed, err = c.cache.Repository().Collect(ctx, c.cache.Options().Now().Add(-p.opts.Delay))
	if err != nil {
		return fmt.Errorf("freeing storage: %w", err)
	}
	return nil
}

// again reads the index and makes a new plan of it.
func (c *collection) again(ctx context.Context, p *Plan, lost map[v1.Hash]bool) (*Plan, error) {
	s, _, err := c.cache.Adopt(ctx, index.AdoptOptions{}) // nixcache-oci may have come between
	if err != nil {
		return p, err
	}
	o := p.opts
	o.lost = lost
	next, err := NewPlan(s, o)
	if err != nil {
		return p, err
	}
	return next, nil
}

// replace writes the new segments, and the root.
func (c *collection) replace(ctx context.Context, p *Plan) error {
	rw := &p.rewrite
	if rw.empty() {
		return c.repair(ctx, p.table.snapshot)
	}
	moved, err := c.repack(ctx, p.table)
	if err != nil {
		return err
	}
	w, err := c.writer(p.table.snapshot)
	if err != nil {
		return err
	}
	for todo := slices.Clone(rw.new); len(todo) > 0; {
		rows := todo[0]
		if parts := p.table.divide(rows, c.cache.SegmentLayers()); len(parts) > 1 {
			todo = append(parts, todo[1:]...)
			continue
		}
		h := format.Header{Config: rw.header.Config}
		if len(todo) == 1 {
			// only now: what is left out disappears as a whole, never a path
			// before what refers to it
			h = rw.header
		}
		content, err := p.table.content(rows, moved)
		if err != nil {
			return err
		}
		info, err := w.Put(ctx, h, content)
		if errors.Is(err, index.ErrTooManyLayers) {
			continue
		}
		if err != nil {
			return err
		}
		c.Segments = append(c.Segments, info)
		todo = todo[1:]
	}
	if err := w.WriteRoot(ctx, nil); err != nil {
		return err
	}
	c.Rewritten += len(rw.old)
	c.removed(p)
	return w.Settle(ctx)
}

// writer returns a writer that changes nothing of the configuration.
func (c *collection) writer(s *index.Snapshot) (*index.Writer, error) {
	return c.cache.NewWriter(s, index.WriterOptions{Config: format.Config{StoreDir: s.Config().StoreDir}})
}

// repair writes the root if it lacks a segment.
func (c *collection) repair(ctx context.Context, s *index.Snapshot) error {
	if s.Complete() {
		return nil
	}
	w, err := c.writer(s)
	if err != nil {
		return err
	}
	return w.WriteRoot(ctx, nil)
}

// removed counts what is no longer in the cache.
func (c *collection) removed(p *Plan) {
	t := p.table
	for _, n := range p.rewrite.removed {
		r := &t.rows[n]
		c.Removed.Add(r.narSize, r.fileSize)
		if !r.damaged && t.why[r.gone] == reasonLost {
			if e, ok := t.snapshot.At(t.position(n)); ok {
				c.Lost = append(c.Lost, e)
			}
		}
	}
}
