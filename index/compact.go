package index

import (
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/storepath"
)

const (
	// fanIn is how many segments of one size class are merged into one. A
	// cache of n publishes has at most fanIn segments for each power of fanIn
	// in n, and an entry is written again that many times.
	fanIn = 8
	// maxMerged is the largest number of entries in a merged segment. Readers
	// fetch again what is merged, half a megabyte at this size, so after a
	// small publish nothing larger is. It also leaves alone the segments that
	// a large publish writes on its way.
	maxMerged = 2 << 10
)

// compact merges small segments where they have piled up, so that readers need
// few requests. Nothing is deleted, and no NAR moves: the merged segment names
// the same blobs, and replaces the others.
//
// Several writers may merge the same segments at once. Both results then hold
// the same entries, and a later compaction merges them.
func (w *Writer) compact(ctx context.Context) error {
	w.committing.Lock()
	defer w.committing.Unlock()
	s := w.cache.Current()
	merged := false
	// what is large already costs more to rewrite than it saves
	for _, group := range s.PiledUp(maxMerged/fanIn, w.layers()/fanIn) {
		done, err := w.mergeGroup(ctx, s, group)
		if err != nil {
			return fmt.Errorf("merging %d segments: %w", len(group), err)
		}
		merged = merged || done
	}
	if !merged {
		return nil
	}
	return w.writeRoot(ctx)
}

// mergeGroup merges as many of a group of segments as fit into one. It reports
// whether they were enough.
func (w *Writer) mergeGroup(ctx context.Context, s *Snapshot, group []int) (bool, error) {
	for {
		group = s.fitting(group, w.layers())
		if len(group) < fanIn {
			return false, nil
		}
		h, entries, err := s.merge(group)
		if err != nil {
			return false, err
		}
		err = w.putMerged(ctx, h, entries)
		if errors.Is(err, ErrTooManyLayers) {
			continue
		}
		if err == nil {
			w.cache.opts.Logger.Debug("segments merged", "segments", len(group), "entries", len(entries))
		}
		return err == nil, err
	}
}

// putMerged writes a merged segment. Documents that the registry has lost are
// left out, or nothing would ever be merged again.
func (w *Writer) putMerged(ctx context.Context, h format.Header, entries []format.Entry) error {
	for {
		c, err := format.NewContent(entries)
		if err != nil {
			return err
		}
		_, err = w.putSegment(ctx, h, c)
		var missing *registry.MissingBlobsError
		found := false
		if errors.As(err, &missing) {
			for i := range entries {
				found = entries[i].DropDocuments(missing.Digests) || found
			}
		}
		if !found {
			return err
		}
	}
}

// Current returns what was read last, without any request: after a Writer was
// closed, the index with what it wrote. It is empty if nothing was read.
func (c *Cache) Current() *Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		return newSnapshot(c.opts.Now(), v1.Hash{}, rootState{}, nil, nil)
	}
	return c.current
}

// fitting returns those of a group of segments that are small, as many as fit
// into one.
func (s *Snapshot) fitting(group []int, maxLayers int) (fit []int) {
	entries, layers := 0, 0
	for _, i := range group {
		seg := s.segments[i]
		if seg.Info.Layers > maxLayers/fanIn {
			continue
		}
		entries += seg.Len()
		layers += seg.Info.Layers
		if entries > maxMerged || layers > maxLayers {
			break
		}
		fit = append(fit, i)
	}
	return fit
}

// PiledUp sorts the segments of at most so many entries and layers into
// classes by powers of eight. It returns the positions in Loaded of those in
// each class that is full: that has eight.
func (s *Snapshot) PiledUp(maxEntries, maxLayers int) [][]int {
	classes := make([][]int, 16)
	for i, s := range s.segments {
		if s.Len() > maxEntries || s.Info.Layers > maxLayers || s.Info.Tag == "" || len(s.Header.Removed) > 0 {
			continue // what was removed only a collection may forget
		}
		class := 0
		for n := s.Len(); n >= fanIn; n /= fanIn {
			class++
		}
		classes[class] = append(classes[class], i)
	}
	return slices.DeleteFunc(classes, func(class []int) bool { return len(class) < fanIn })
}

// merge makes the header and the entries of the segment that replaces those at
// the given positions. Entries that later ones have superseded are left out.
// Copies that were added at the same moment are not superseded: a collection
// that has made the one may be about to replace the other.
func (s *Snapshot) merge(group []int) (format.Header, []format.Entry, error) {
	var entries []format.Entry
	taken := map[[storepath.HashPartLen]byte]bool{}
	for _, i := range group {
		seg := s.segments[i]
		for j := range seg.Len() {
			k, _, _, _ := format.LineKeys(seg.Line(j))
			key := [storepath.HashPartLen]byte(k)
			here := Position{int32(i), int32(j)} //nolint:gosec // bounded by maxEntries
			winner, ok := s.entries[key]
			if !ok || s.newer(winner, here) || taken[key] || here != winner && slices.Contains(group, int(winner.Segment)) {
				continue
			}
			taken[key] = true
			e, ok := s.at(here, true)
			if !ok {
				return format.Header{}, nil, fmt.Errorf("merging segment %s: its entry %d is damaged", seg.Info.Tag, j+1)
			}
			entries = append(entries, e)
		}
	}
	return s.Replacing(group), entries, nil
}

// Replacing makes the header of what replaces the segments at the given
// positions in Loaded, and those that they have replaced as long as these are there: the
// new segment must hide them, too, once the old ones are gone.
func (s *Snapshot) Replacing(group []int) format.Header {
	var h format.Header
	retired := map[v1.Hash]bool{}
	for _, r := range s.retired {
		retired[r.Manifest] = true
	}
	for _, i := range group {
		seg := s.segments[i]
		h.Replaces = append(h.Replaces, seg.Info.Manifest)
		for _, r := range seg.Header.Replaces {
			if retired[r] && !slices.Contains(h.Replaces, r) {
				h.Replaces = append(h.Replaces, r)
			}
		}
		h.Config = h.Config.Merge(seg.Header.Config)
		h.Unpinned = append(h.Unpinned, seg.Header.Unpinned...)
		for _, p := range seg.Header.Publications {
			// of publications that say the same the latest is enough
			h.Publications = slices.DeleteFunc(h.Publications, func(q format.Publication) bool { return q.Same(p) && !q.Time.After(p.Time) })
			if !slices.ContainsFunc(h.Publications, p.Same) {
				h.Publications = append(h.Publications, p)
			}
		}
	}
	h.Unpinned = s.PinEnds(h.Unpinned)
	return h
}
