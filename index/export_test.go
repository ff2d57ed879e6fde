package index

import (
	"context"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
)

// What the tests of this package look at that is nobody else's business.
const (
	FanIn = fanIn
)

var Later = later

// SnapshotOf is a snapshot of segments that no registry has.
func SnapshotOf(segments ...*format.Segment) *Snapshot {
	return SnapshotAt(time.Now(), segments...)
}

// SnapshotAt is SnapshotOf at another time.
func SnapshotAt(now time.Time, segments ...*format.Segment) *Snapshot {
	return newSnapshot(now, v1.Hash{}, rootState{}, segments, nil)
}

// ReadRetired returns what the root says was replaced.
func ReadRetired(ctx context.Context, repo registry.Repository) ([]format.Retired, error) {
	_, list, err := readRoot(ctx, repo, v1.Hash{}, true, func(int64) error { return nil })
	return list.retired, err
}

// WriteEmptyRoot writes a root that knows nothing.
func (c *Cache) WriteEmptyRoot(ctx context.Context) error {
	_, err := c.newWriter(c.Current(), WriterOptions{}).putRoot(ctx, rootState{compat: []byte("{}")}, v1.Hash{})
	return err
}

func (c *Cache) Form() format.Form { return c.form() }

func (c *Cache) Learn(f format.Form) { c.learn(f) }

// SetTaken makes the cache think that the registry has taken a form, counted
// from 1, or none.
func (c *Cache) SetTaken(n int32) { c.taken.Store(n) }

// StoreDocuments stores the documents of pending entries.
func (w *Writer) StoreDocuments(ctx context.Context) error { return w.store(ctx) }

// Pending returns an entry that is not in a segment yet.
func (w *Writer) Pending(hashPart string) format.Entry { return w.pending[hashPart] }
