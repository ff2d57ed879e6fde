package index

import (
	"context"
	"fmt"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/registry"
)

// putLines writes a segment with the entries as they are, as a collection or a
// compaction does.
func putLines(t *testing.T, repo registry.Repository, o Options, h Header, entries ...Entry) SegmentInfo {
	t.Helper()
	c := Open(repo, o)
	if _, err := c.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(c.Current(), WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	content, err := newContent(entries)
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
			publishAt(t, repo, after, "refs/heads/main", newEntry(t, repo, "one-more"))
		},
		"collection": func(t *testing.T, repo registry.Repository) { mustCollect(t, repo, after, defaults) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repo := open(t, t.TempDir())
			entry := func(name string, days float64) Entry {
				e := newEntry(t, repo, name)
				e.Added = at(days).Now()
				return e
			}
			wanted := entry("wanted", before)
			// the original counts, because its writer's clock is ahead, and is in
			// another size class than the copy
			original := []Entry{wanted}
			for i := range piled {
				original = append(original, entry(fmt.Sprintf("beside-%d", i), before))
			}
			source := putLines(t, repo, at(0), Header{}, original...)
			copied := putLines(t, repo, at(before), Header{}, wanted, entry("garbage", 100))
			for i := range piled - 2 {
				putLines(t, repo, at(before), Header{}, entry(fmt.Sprintf("small-%d", i), before))
			}
			meanwhile(t, repo)
			if slices.ContainsFunc(sweep(t, repo).Segments(), copied.same) {
				t.Fatal("the copy's segment was not replaced")
			}
			putLines(t, repo, at(before), Header{Replaces: []v1.Hash{source.Manifest}}, original[1:]...)
			has(t, sweep(t, repo), original...)
		})
	}
}
