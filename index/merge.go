package index

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/retry"
)

// settleTries is how often a writer repairs a root that other writers keep
// overwriting. After that the next writer will: the segments are durable.
const settleTries = 8

// Settle looks, a moment after the root was written, whether everything live
// is in it, and repairs it while something is missing.
func (w *Writer) Settle(ctx context.Context) error {
	w.committing.Lock()
	defer w.committing.Unlock()
	pause := w.cache.opts.Settle
	for try := 0; ; try++ {
		// jitter keeps writers that collided from colliding again
		if err := retry.Sleep(ctx, pause/2+retry.Up(pause)); err != nil {
			return err
		}
		missing, err := w.missing(ctx)
		if err == nil && !missing {
			return nil
		}
		if err == nil {
			err = w.writeRoot(ctx)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, format.ErrForeign) { // it will not go away
			return err
		}
		if err != nil && (try == settleTries || registry.Denied(err)) {
			return hint.Wrap(fmt.Errorf("writing the cache index's root: %w", err),
				"everything is stored, but clients learn of it only within an hour, or with the next publish")
		}
		if try == settleTries {
			// Everything is durable; only a reader that trusts the root alone
			// would wait for the next writer.
			w.cache.opts.Logger.Warn("the root is still being overwritten by other writers")
			return nil
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// missing reports whether the root is not ours, or lacks one of this writer's
// segments that is not known to be settled.
func (w *Writer) missing(ctx context.Context) (bool, error) {
	digest, list, err := readRoot(ctx, w.cache.repo, w.root, false, w.cache.reserve)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return true, nil
	case err != nil || digest == w.root:
		return false, err
	case list.foreign != nil:
		return true, nil
	}
	return slices.ContainsFunc(w.unsettled, func(s format.SegmentInfo) bool { return !slices.ContainsFunc(list.Segments, s.Same) }), nil
}

// WriteRoot makes the root show what was written, without the manifests that
// are given: they were deleted, and are nothing that has been replaced any more.
func (w *Writer) WriteRoot(ctx context.Context, deleted map[v1.Hash]bool) error {
	w.committing.Lock()
	defer w.committing.Unlock()
	w.deleted = deleted
	return w.writeRoot(ctx)
}

// writeRoot merges what the registry shows with this writer's segments and
// writes the root. What nixcache-oci has written there is adopted first.
func (w *Writer) writeRoot(ctx context.Context) error {
	for try := 0; ; try++ {
		s, err := w.mergeRoot(ctx, try >= settleTries/2)
		if !errors.Is(err, errOverwritten) || try == settleTries {
			return err
		}
		if !s.foreign { // since s was read
			continue
		}
		if err := w.adopt(ctx, s); err != nil {
			return fmt.Errorf("adopting what nixcache-oci has published: %w", err)
		}
	}
}

// mergeRoot writes the root, unless the one there, which is in the snapshot if
// it was read, has to be adopted: then its error is errOverwritten. In a cache
// that nixcache-oci knows of it is so, too, if another root is there in the
// end; if hasty, one of ours does not count, which others can repair.
func (w *Writer) mergeRoot(ctx context.Context, hasty bool) (*Snapshot, error) {
	c := w.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range w.unsettled {
		c.swept[s.Tag], c.own[s.Tag] = s, s.Created // tag lists may lag
	}
	s, err := c.read(ctx, true)
	if err != nil {
		return nil, fmt.Errorf("reading the cache index again: %w", err)
	}
	if err := s.Damage(); err != nil {
		return nil, err
	}
	ours := s
	if s.foreign {
		ours = s.ours()
		if err := w.mayAdopt(s, ours); err != nil {
			return s, err
		}
	}
	// where another writer has merged a segment of ours into its own, there is
	// nothing left to wait for
	w.unsettled = slices.DeleteFunc(w.unsettled, func(own format.SegmentInfo) bool {
		return slices.ContainsFunc(s.retired, func(r format.Retired) bool { return r.Manifest == own.Manifest })
	})
	list := rootState{SegmentList: format.SegmentList{Segments: s.Segments(), Config: s.config.Merge(w.opts.Config)}, retired: w.retired(s)}
	if list.compat, err = w.compat(ours, list.Config); err != nil {
		return s, err
	}
	if s.foreign || list.Config.CompatIndex.Said() {
		list.over, list.hasty = s.digest, hasty
	}
	digest, err := w.putRoot(ctx, list, s.stub)
	if err != nil {
		return s, err
	}
	w.root = digest
	if s.foreign {
		ours.digest, ours.config, ours.retired = digest, list.Config, list.retired
		ours.stub = format.DigestOf(list.compat)
		c.remember(ours)
	}
	return s, nil
}

// mayAdopt is errOverwritten if something is left to adopt, and another error
// if that cannot be.
func (w *Writer) mayAdopt(s, ours *Snapshot) error {
	theirs := s.segments[s.theirs()]
	if dir := theirs.Header.Config.Dir(); theirs.Len() > 0 && len(ours.segments) > 0 && dir != ours.config.Dir() {
		return fmt.Errorf("%w, for the store directory %s", format.ErrForeign, dir)
	}
	if _, missing := w.toAdopt(s); missing {
		return errOverwritten
	}
	return nil
}

// overwritten is errOverwritten if list must not be written over the root that
// is there now.
func (w *Writer) overwritten(ctx context.Context, list *rootState) error {
	if list.over == (v1.Hash{}) {
		return nil
	}
	m, err := w.cache.repo.Manifest(ctx, format.RootTag)
	if errors.Is(err, registry.ErrNotFound) || err == nil && m.Digest == list.over {
		return nil
	}
	if err != nil {
		return err
	}
	layers, err := format.ParseRoot(m.Raw)
	if err == nil && (layers.Foreign.Size > 0 || !list.hasty) {
		return errOverwritten
	}
	return err
}

// maxOldRoots is how many old roots a root names. Collectors of registries take
// them; a list that grew for ever would be worse than what is left.
const maxOldRoots = 256

// retired are the manifests that a root written after s will have replaced.
func (w *Writer) retired(s *Snapshot) []format.Retired {
	var rs []format.Retired
	roots := 0
	for _, r := range slices.Backward(s.retired) {
		if r.Tag == "" {
			roots++
		}
		if w.deleted[r.Manifest] || r.Tag == "" && roots >= maxOldRoots || r.Manifest == s.digest {
			continue
		}
		rs = append(rs, r)
	}
	slices.Reverse(rs)
	if s.digest != (v1.Hash{}) {
		rs = append(rs, format.Retired{Manifest: s.digest, Since: w.cache.opts.Now().UTC().Truncate(time.Second)})
	}
	return rs
}

// putRoot writes a root. The first layer is not uploaded if the last root had
// the same, which for the stub is nearly always.
func (w *Writer) putRoot(ctx context.Context, list rootState, oldStub v1.Hash) (v1.Hash, error) {
	now := w.cache.opts.Now()
	layers, blobs, err := format.NewRoot(list.compat, list.SegmentList, list.retired)
	if err != nil {
		return v1.Hash{}, err
	}
	todo := blobs
	if format.DigestOf(blobs[0]) == oldStub {
		todo = blobs[1:]
	}
	for try := 1; ; try++ {
		if err := w.putConfig(ctx); err != nil {
			return v1.Hash{}, err
		}
		if err := w.putBlobs(ctx, todo); err != nil {
			return v1.Hash{}, err
		}
		if err := w.overwritten(ctx, &list); err != nil {
			return v1.Hash{}, err
		}
		digest, err := w.cache.putManifest(ctx, format.RootTag, format.MediaRoot, layers, now)
		if try == putTries || !errors.As(err, new(*registry.MissingBlobsError)) {
			return digest, err
		}
		todo, w.configDone = blobs, false // some have been collected, or were never there
	}
}

func (w *Writer) putBlobs(ctx context.Context, blobs [][]byte) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, b := range blobs {
		g.Go(func() error {
			_, err := w.cache.repo.PutBlob(ctx, b)
			return err
		})
	}
	return g.Wait()
}
