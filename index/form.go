package index

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/ghpackages"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/registry"
)

// ErrTooManyLayers tells that a segment was refused because it names more blobs
// than the registry takes in a manifest. SegmentLayers gives a smaller number
// from then on.
var ErrTooManyLayers = errors.New("a segment names too many blobs for the registry")

// SegmentLayers is how many blobs a segment may name besides its entries, as far
// as the registry has told.
func (c *Cache) SegmentLayers() int {
	if n := c.layers.Load(); n > 0 {
		return int(n)
	}
	return DefaultSegmentLayers
}

// tooMany looks whether a segment with so many blobs was refused for their
// number. Then it tries half as many from now on, if that is fewer than before.
func (c *Cache) tooMany(err error, blobs int) error {
	n := int32(max(blobs/2, 1)) //nolint:gosec // at most DefaultSegmentLayers
	if !registry.TooManyBlobs(err) {
		return err
	}
	for {
		old := c.layers.Load()
		if old > 0 && n >= old {
			return err
		}
		if c.layers.CompareAndSwap(old, n) {
			c.opts.Logger.Info("the registry takes fewer blobs in a manifest, dividing the segment", "blobs", blobs, "now", n)
			return fmt.Errorf("%w: %w", ErrTooManyLayers, err)
		}
	}
}

// form is the form in which manifests are written.
func (c *Cache) form() format.Form { return format.Form(max(c.taken.Load()-1, 0)) }

// learn remembers a form that the registry has taken. None that is less plain is
// tried again.
func (c *Cache) learn(f format.Form) {
	for {
		old := c.taken.Load()
		if int32(f)+1 <= old || c.taken.CompareAndSwap(old, int32(f)+1) {
			return
		}
	}
}

// putManifest writes a manifest under a tag, or if that is empty under its
// digest alone, in the first form that the registry does not refuse. Its blobs
// must be there, and the config of the present form.
func (c *Cache) putManifest(ctx context.Context, tag, kind string, layers []v1.Descriptor, created time.Time) (v1.Hash, error) {
	for f := c.form(); ; f++ {
		m, err := f.Manifest(kind, layers, created, ghpackages.Source(c.repo.String()))
		if err != nil {
			return v1.Hash{}, err
		}
		ref := tag
		if ref == "" {
			ref = format.DigestOf(m.Raw).String()
		}
		digest, err := c.repo.PutManifest(ctx, ref, m)
		if err == nil {
			c.learn(f)
			return digest, nil
		}
		if !registry.Refused(err) {
			return v1.Hash{}, err
		}
		if f == format.FormImage {
			return v1.Hash{}, hint.Wrap(fmt.Errorf("the registry refuses the cache's manifest in every form, that of a container image included: %w", err),
				"have the registry's administrator allow what its answer names, or name another registry with --cache")
		}
		c.opts.Logger.Info("the registry refuses a manifest, trying a plainer form", "error", err)
		now, _ := f.Config()
		if next, b := (f + 1).Config(); next.Digest != now.Digest {
			if _, err := c.repo.PutBlob(ctx, b); err != nil {
				return v1.Hash{}, err
			}
		}
	}
}

// Prepare proves that the repository can be written to, before work is done
// that a refusal would waste. It stores the config that every manifest of the
// index names. Where no root says in which form the registry takes manifests, it
// also stores one that is good for nothing: without a tag, and always the same
// one. In a directory nothing is stored.
//
// For its errors registry.Denied or registry.Refused may be true: then another
// try would fail, too.
func (c *Cache) Prepare(ctx context.Context) error {
	if err := c.lookForForm(ctx); err != nil {
		return err
	}
	return c.prepare(ctx, v1.Hash{})
}

// SweepAndPrepare is Sweep and Prepare at the same time. Its error may also be
// that of a snapshot with damage, into which nothing must be written.
func (c *Cache) SweepAndPrepare(ctx context.Context) (*Snapshot, error) {
	var config v1.Descriptor
	var refused error
	storing, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	if _, dir := c.repo.(prober); !dir {
		wg.Go(func() {
			_, b := c.form().Config() // the one that nearly every registry takes
			config, refused = c.repo.PutBlob(storing, b)
		})
	}
	s, err := c.Sweep(ctx)
	if err == nil {
		err = s.Damage()
	}
	if err != nil {
		cancel()
	}
	wg.Wait()
	if err == nil {
		err = refused
	}
	if err == nil {
		err = c.prepare(ctx, config.Digest)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// prober is a repository that takes every form, and says whether it can be
// written to.
type prober interface{ Probe() error }

// prepare is Prepare where the root has been read. Stored is a config that has
// been stored.
func (c *Cache) prepare(ctx context.Context, stored v1.Hash) error {
	if dir, ok := c.repo.(prober); ok {
		return dir.Probe()
	}
	if d, config := c.form().Config(); d.Digest != stored {
		if _, err := c.repo.PutBlob(ctx, config); err != nil {
			return err
		}
	}
	if c.taken.Load() == 0 {
		if _, err := c.putManifest(ctx, "", format.MediaSegment, format.EmptyLayers(), time.Unix(0, 0)); err != nil {
			return fmt.Errorf("finding out whether the registry takes a cache: %w", err)
		}
	}
	c.prepared.Store(true)
	return nil
}

// lookForForm learns the form of the root, unless some form is known.
func (c *Cache) lookForForm(ctx context.Context) error {
	if c.taken.Load() != 0 {
		return nil
	}
	m, err := c.repo.Manifest(ctx, format.RootTag)
	if errors.Is(err, registry.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if root, err := format.ParseRoot(m.Raw); err == nil && root.Foreign.Size == 0 {
		c.learn(root.Form)
	}
	return nil // reading the index tells what is wrong with another root
}
