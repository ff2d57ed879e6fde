package index_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

// A registry that takes few blobs in a manifest gets more segments: from a
// publish, a compaction, a collection and a takeover. None of them is told the
// limit, and nothing but a segment is refused.
func TestFewLayers(t *testing.T) {
	const limit = 33
	for name, rules := range map[string]registrytest.Rules{"ecr": registrytest.ECR(limit), "gitlab": registrytest.ManyReferences(limit)} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			s := registrytest.NewStrict(t, rules)
			open := indextest.Opener(t, s.Addr+"/a/b")
			repo := open()
			entries := func(name string, n int) (es []format.Entry) {
				for i := range n {
					es = append(es, indextest.NewEntry(t, repo, fmt.Sprintf("%s%d", name, i)))
				}
				return es
			}
			check := func(when string, want ...format.Entry) *index.Snapshot {
				t.Helper()
				snap := indextest.Sweep(t, open())
				for _, seg := range snap.Segments() {
					if seg.Layers+1 > limit {
						t.Errorf("%s: a segment has %d layers", when, seg.Layers+1)
					}
				}
				indextest.Has(t, snap, want...)
				return snap
			}
			refusedBy := func(what string, do func()) {
				t.Helper()
				before := len(s.Refused())
				do()
				if len(s.Refused()) == before {
					t.Errorf("%s met no refusal", what)
				}
			}

			old := entries("old", 40)
			refusedBy("publishing", func() { indextest.PublishAt(t, repo, 60, "refs/heads/main", old...) })
			// two segments that a collection makes one of, if it may
			one, two := entries("one", 20), entries("two", 20)
			for _, es := range [][]format.Entry{one, two} {
				indextest.PublishAt(t, repo, 60, "refs/heads/old", es...)
			}
			kept := append(one[1:], two[1:]...)
			var keep collect.Keep
			for _, e := range kept {
				keep.Paths = append(keep.Paths, e.Path.Base())
			}
			all := check("published", old...)
			var small []format.Entry
			refusedBy("a compaction", func() {
				for i := range 5 + index.FanIn {
					n := 2
					if i < 5 {
						n = 7 // too much for a segment, together with others
					}
					es := entries(fmt.Sprintf("small%d-", i), n)
					indextest.PublishAt(t, repo, 3, fmt.Sprintf("refs/heads/b%d", i), es...)
					small = append(small, es...)
				}
			})
			if merged := check("compacted", small...); len(merged.Segments()) != len(all.Segments())+5+1 {
				t.Errorf("got %d segments, with %d before", len(merged.Segments()), len(all.Segments()))
			}

			cleaned := index.Open(open(), indextest.At(0))
			swept, err := cleaned.Sweep(ctx)
			if err != nil {
				t.Fatal(err)
			}
			plan, err := collect.NewPlan(swept, collect.PlanOptions{Now: indextest.Noon, Delay: 24 * time.Hour, Keep: []collect.Keep{keep}, Retention: collect.Retention{Age: 24 * 30 * time.Hour}})
			if err != nil {
				t.Fatal(err)
			}
			refusedBy("a collection", func() {
				if _, err := collect.Run(ctx, cleaned, plan); err != nil {
					t.Fatal(err)
				}
			})
			indextest.Lacks(t, check("collected", append(small, kept...)...), append(old, one[0], two[0])...)
		})
	}
}

// What nixcache-oci has there is taken over in such a registry, too.
func TestFewLayersTakenOver(t *testing.T) {
	s := registrytest.NewStrict(t, registrytest.ECR(9))
	repo := indextest.Opener(t, s.Addr+"/a/b")()
	var theirs []format.Entry
	for i := range 30 {
		theirs = append(theirs, indextest.NewEntry(t, repo, fmt.Sprintf("theirs%d", i)))
	}
	indextest.PutForeign(t, repo, indextest.ForeignIndexOf(theirs...))
	snap, adopted, err := index.Open(repo, indextest.Quick()).Adopt(context.Background(), index.AdoptOptions{})
	if err != nil || adopted.Paths != 30 || len(s.Refused()) == 0 {
		t.Fatalf("got %+v, %v, with %d refusals", adopted, err, len(s.Refused()))
	}
	indextest.Has(t, snap, theirs...)
}

// Where a segment of one path has too many blobs, that is the error.
func TestTooFewLayers(t *testing.T) {
	s := registrytest.NewStrict(t, registrytest.ECR(1))
	repo := indextest.Opener(t, s.Addr+"/a/b")()
	r, err := indextest.Publish(t, repo, index.WriterOptions{}, indextest.NewEntry(t, repo, "a"), indextest.NewEntry(t, repo, "b"))
	if !registry.TooManyBlobs(err) || r.Committed != 0 {
		t.Errorf("got %+v, %v", r, err)
	}
}
