package collect

import (
	"context"
	"fmt"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
)

// putLines writes a segment with the entries as they are, as a collection or a
// compaction does.
func putLines(t *testing.T, repo registry.Repository, o index.Options, h format.Header, entries ...format.Entry) format.SegmentInfo {
	t.Helper()
	c := index.Open(repo, o)
	if _, err := c.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(c.Current(), index.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	content, err := format.NewContent(entries)
	if err != nil {
		t.Fatal(err)
	}
	info, err := w.Put(context.Background(), h, content)
	if err == nil {
		err = w.WriteRoot(context.Background(), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// A collection that is under way has copied an entry, and is about to replace
// the segment that it has it from. Whoever replaces the copy meanwhile must not
// rely on the original.
func TestCopiesAreNotReliedOn(t *testing.T) {
	t.Parallel()
	const before, after = 0.2, 0.1 // days ago
	for name, meanwhile := range map[string]func(t *testing.T, repo registry.Repository){
		"compaction": func(t *testing.T, repo registry.Repository) {
			indextest.PublishAt(t, repo, after, "refs/heads/main", indextest.NewEntry(t, repo, "one-more"))
		},
		"collection": func(t *testing.T, repo registry.Repository) { mustCollect(t, repo, after, defaults) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repo := indextest.Open(t, t.TempDir())
			entry := func(name string, days float64) format.Entry {
				e := indextest.NewEntry(t, repo, name)
				e.Added = indextest.At(days).Now()
				return e
			}
			wanted := entry("wanted", before)
			// the original counts, because its writer's clock is ahead, and is in
			// another size class than the copy
			original := []format.Entry{wanted}
			for i := range piled {
				original = append(original, entry(fmt.Sprintf("beside-%d", i), before))
			}
			source := putLines(t, repo, indextest.At(0), format.Header{}, original...)
			copied := putLines(t, repo, indextest.At(before), format.Header{}, wanted, entry("garbage", 100))
			for i := range piled - 2 {
				putLines(t, repo, indextest.At(before), format.Header{}, entry(fmt.Sprintf("small-%d", i), before))
			}
			meanwhile(t, repo)
			if slices.ContainsFunc(indextest.Sweep(t, repo).Segments(), copied.Same) {
				t.Fatal("the copy's segment was not replaced")
			}
			putLines(t, repo, indextest.At(before), format.Header{Replaces: []v1.Hash{source.Manifest}}, original[1:]...)
			indextest.Has(t, indextest.Sweep(t, repo), original...)
		})
	}
}
