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
		if try == settleTries {
			// Everything is durable; only a reader that trusts the root alone
			// would wait for the next writer.
			w.cache.opts.Logger.Warn("the root is still being overwritten by other writers", "error", err)
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

// missing reports whether the root lacks one of this writer's segments.
func (w *Writer) missing(ctx context.Context) (bool, error) {
	digest, list, err := readRoot(ctx, w.cache.repo, w.root)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return true, nil
	case err != nil || digest == w.root:
		return false, err
	}
	return slices.ContainsFunc(w.written, func(s SegmentInfo) bool { return !list.settled(s) }), nil
}

// settled reports whether the list knows a segment, as live or as superseded.
func (l segmentList) settled(s SegmentInfo) bool {
	same := func(o SegmentInfo) bool { return o.Manifest == s.Manifest || slices.Contains(o.Replaces, s.Manifest) }
	return slices.ContainsFunc(l.Segments, same) ||
		slices.ContainsFunc(l.Retired, func(r Retired) bool { return r.Manifest == s.Manifest })
}

// writeRoot merges what the registry shows with this writer's segments and
// writes the root, if that changes it.
func (w *Writer) writeRoot(ctx context.Context) error {
	c := w.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range w.written {
		c.swept[s.Tag] = s
	}
	s, err := c.read(ctx, true)
	if err != nil {
		return fmt.Errorf("reading the cache index again: %w", err)
	}
	// this writer's own segments count even where the tag list lags
	have := map[v1.Hash]bool{}
	for _, seg := range s.segments {
		have[seg.info.Manifest] = true
	}
	segments := s.Segments()
	for _, seg := range w.written {
		if !have[seg.Manifest] && !slices.ContainsFunc(s.segments, func(o *segment) bool { return slices.Contains(o.header.Replaces, seg.Manifest) }) &&
			!slices.ContainsFunc(s.retired, func(r Retired) bool { return r.Manifest == seg.Manifest }) {
			segments = append(segments, seg)
		}
	}
	list := segmentList{Segments: segments, Retired: s.retired, Config: s.config.merge(w.opts.Config)}
	digest, err := w.putRoot(ctx, list, s.stub)
	if err != nil {
		return err
	}
	w.root = digest
	return nil
}

// compatIndex is the first layer of the root: an empty index in the format of
// nixcache-oci, so that its readers find a cache without entries instead of an
// error.
type compatIndex struct {
	Version   int            `json:"version"`
	Entries   map[string]any `json:"entries"`
	GCRoots   []string       `json:"gc_roots"`
	PublicKey string         `json:"public_key"`
}

// putRoot writes a root. There is no stub to upload if the last root had the
// same, which is nearly always.
func (w *Writer) putRoot(ctx context.Context, list segmentList, oldStub v1.Hash) (v1.Hash, error) {
	repo := w.cache.repo
	stub := compatIndex{Version: 1, Entries: map[string]any{}, GCRoots: []string{}}
	if len(list.Config.PublicKeys) > 0 {
		stub.PublicKey = list.Config.PublicKeys[0]
	}
	stubBytes, err := json.Marshal(stub)
	if err != nil {
		return v1.Hash{}, err
	}
	listBytes, err := encodeSegmentList(list)
	if err != nil {
		return v1.Hash{}, err
	}
	if err := w.putEmptyConfig(ctx); err != nil {
		return v1.Hash{}, err
	}
	listDesc, err := repo.PutBlob(ctx, listBytes)
	if err != nil {
		return v1.Hash{}, err
	}
	listDesc.MediaType = mediaSegmentList
	sum, size, err := v1.SHA256(bytes.NewReader(stubBytes))
	if err != nil {
		return v1.Hash{}, err
	}
	stubDesc := v1.Descriptor{MediaType: mediaCompat, Digest: sum, Size: size}
	m, err := newManifest(mediaRoot, []v1.Descriptor{stubDesc, listDesc}, w.cache.opts.Now())
	if err != nil {
		return v1.Hash{}, err
	}
	if sum != oldStub {
		if _, err := repo.PutBlob(ctx, stubBytes); err != nil {
			return v1.Hash{}, err
		}
	}
	digest, err := repo.PutManifest(ctx, RootTag, m)
	var missing *registry.MissingBlobsError
	if errors.As(err, &missing) { // collected, or never there
		for _, b := range [][]byte{stubBytes, emptyConfigBytes, listBytes} {
			if _, err := repo.PutBlob(ctx, b); err != nil {
				return v1.Hash{}, err
			}
		}
		digest, err = repo.PutManifest(ctx, RootTag, m)
	}
	return digest, err
}
