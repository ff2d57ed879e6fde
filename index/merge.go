package index

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/registry"
)

// Prepare proves that the repository can be written to, by storing the two
// bytes that every manifest of the index names.
func (c *Cache) Prepare(ctx context.Context) error {
	_, err := c.repo.PutBlob(ctx, emptyConfigBytes)
	if err == nil {
		c.prepared.Store(true)
	}
	return err
}

// settleTries is how often a writer repairs a root that other writers keep
// overwriting. After that the next writer will: the segments are durable.
const settleTries = 8

// settle looks, a moment after the root was written, whether everything live
// is in it, and repairs it while something is missing.
func (w *Writer) settle(ctx context.Context) error {
	w.committing.Lock()
	defer w.committing.Unlock()
	pause := w.cache.opts.Settle
	for try := 0; ; try++ {
		// jitter keeps writers that collided from colliding again
		if err := sleep(ctx, pause/2+rand.N(pause)); err != nil { //nolint:gosec // guards nothing
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
		if errors.Is(err, ErrForeign) { // it will not go away
			return err
		}
		if try == settleTries && err != nil {
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

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// missing reports whether the root is not ours, or lacks one of this writer's
// segments that is not known to be settled.
func (w *Writer) missing(ctx context.Context) (bool, error) {
	digest, list, err := readRoot(ctx, w.cache.repo, w.root, false)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return true, nil
	case err != nil || digest == w.root:
		return false, err
	case list.foreign != nil:
		return true, nil
	}
	return slices.ContainsFunc(w.unsettled, func(s SegmentInfo) bool { return !slices.ContainsFunc(list.Segments, s.same) }), nil
}

func (s SegmentInfo) same(o SegmentInfo) bool { return s.Manifest == o.Manifest }

// writeRoot merges what the registry shows with this writer's segments and
// writes the root. What nixcache-oci has written there is adopted first.
func (w *Writer) writeRoot(ctx context.Context) error {
	for try := 0; ; try++ {
		s, err := w.mergeRoot(ctx)
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
// it was read, has to be adopted: then its error is errOverwritten.
func (w *Writer) mergeRoot(ctx context.Context) (*Snapshot, error) {
	c := w.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range w.unsettled {
		c.swept[s.Tag], c.own[s.Tag] = s, true // tag lists may lag
	}
	s, err := c.read(ctx, true)
	if err != nil {
		return nil, fmt.Errorf("reading the cache index again: %w", err)
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
	w.unsettled = slices.DeleteFunc(w.unsettled, func(own SegmentInfo) bool {
		return slices.ContainsFunc(s.retired, func(r Retired) bool { return r.Manifest == own.Manifest })
	})
	list := segmentList{Segments: s.Segments(), retired: w.retired(s), Config: s.config.merge(w.opts.Config)}
	if list.compat, err = w.compat(ours, list.Config); err != nil {
		return s, err
	}
	if s.foreign || list.Config.CompatIndex.said() {
		list.over = s.digest
	}
	digest, err := w.putRoot(ctx, list, s.stub)
	if err != nil {
		return s, err
	}
	w.root = digest
	if s.foreign {
		ours.digest, ours.config, ours.retired = digest, list.Config, list.retired
		ours.stub, _, err = v1.SHA256(bytes.NewReader(list.compat))
		c.remember(ours)
	}
	return s, err
}

// mayAdopt is errOverwritten if something is left to adopt, and another error
// if that cannot be.
func (w *Writer) mayAdopt(s, ours *Snapshot) error {
	theirs := s.segments[s.theirs()]
	if dir := theirs.header.Config.storeDir(); len(theirs.lines) > 0 && len(ours.segments) > 0 && dir != ours.config.storeDir() {
		return fmt.Errorf("%w, for the store directory %s", ErrForeign, dir)
	}
	if _, missing := w.toAdopt(s); missing {
		return errOverwritten
	}
	return nil
}

// overwritten is errOverwritten if the root is not over, but another one of
// nixcache-oci: between reading the root and writing it nothing else can be
// told of. A root of ours that was lost is found again.
func (w *Writer) overwritten(ctx context.Context, over v1.Hash) error {
	if over == (v1.Hash{}) {
		return nil
	}
	m, err := w.cache.repo.Manifest(ctx, RootTag)
	if errors.Is(err, registry.ErrNotFound) || err == nil && m.Digest == over {
		return nil
	}
	if err != nil {
		return err
	}
	layers, err := rootLayers(m)
	if err == nil && layers.foreign.Size > 0 {
		return errOverwritten
	}
	return err
}

// maxOldRoots is how many old roots a root names. Collectors of registries take
// them; a list that grew for ever would be worse than what is left.
const maxOldRoots = 256

// retired are the manifests that a root written after s will have replaced.
func (w *Writer) retired(s *Snapshot) []Retired {
	var rs []Retired
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
		rs = append(rs, Retired{Manifest: s.digest, Since: w.cache.opts.Now().UTC().Truncate(time.Second)})
	}
	return rs
}

// putRoot writes a root. The first layer is not uploaded if the last root had
// the same, which for the stub is nearly always.
func (w *Writer) putRoot(ctx context.Context, list segmentList, oldStub v1.Hash) (v1.Hash, error) {
	repo, stubBytes := w.cache.repo, list.compat
	listBytes, err := encodeSegmentList(list)
	if err != nil {
		return v1.Hash{}, err
	}
	if err := w.putEmptyConfig(ctx); err != nil {
		return v1.Hash{}, err
	}
	retiredBytes, err := json.Marshal(list.retired)
	if err != nil {
		return v1.Hash{}, err
	}
	retiredBytes = compress(retiredBytes)
	var listDesc, retiredDesc v1.Descriptor
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		listDesc, err = repo.PutBlob(gctx, listBytes)
		return err
	})
	if len(list.retired) > 0 {
		g.Go(func() (err error) {
			retiredDesc, err = repo.PutBlob(gctx, retiredBytes)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return v1.Hash{}, err
	}
	listDesc.MediaType = mediaSegmentList
	layers := []v1.Descriptor{listDesc}
	if len(list.retired) > 0 {
		retiredDesc.MediaType = mediaRetired
		layers = append(layers, retiredDesc)
	}
	sum, size, err := v1.SHA256(bytes.NewReader(stubBytes))
	if err != nil {
		return v1.Hash{}, err
	}
	stubDesc := v1.Descriptor{MediaType: mediaCompat, Digest: sum, Size: size}
	m, err := newManifest(mediaRoot, append([]v1.Descriptor{stubDesc}, layers...), w.cache.opts.Now())
	if err != nil {
		return v1.Hash{}, err
	}
	if sum != oldStub {
		if _, err := repo.PutBlob(ctx, stubBytes); err != nil {
			return v1.Hash{}, err
		}
	}
	if err := w.overwritten(ctx, list.over); err != nil {
		return v1.Hash{}, err
	}
	digest, err := repo.PutManifest(ctx, RootTag, m)
	var missing *registry.MissingBlobsError
	if errors.As(err, &missing) { // collected, or never there
		for _, b := range [][]byte{stubBytes, emptyConfigBytes, listBytes, retiredBytes} {
			if _, err := repo.PutBlob(ctx, b); err != nil {
				return v1.Hash{}, err
			}
		}
		if err := w.overwritten(ctx, list.over); err != nil {
			return v1.Hash{}, err
		}
		digest, err = repo.PutManifest(ctx, RootTag, m)
	}
	return digest, err
}
