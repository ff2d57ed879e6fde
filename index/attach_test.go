package index_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
)

func encodedDocument(t *testing.T, text string) []byte {
	t.Helper()
	b, err := format.EncodeDocument([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testRealisation(n int) format.Realisation {
	return format.Realisation{ID: "sha256:" + fmt.Sprintf("%064x", n) + "!out"}
}

// derived is an addition with a deriver.
func derived(name string, refs ...string) index.Addition {
	a := unsent(name, refs...)
	a.Entry.Deriver = indextest.DrvOf(name)
	return a
}

// What comes for one path from several sides is merged, whatever the order, and
// no compaction loses any of it.
func TestGroupAttach(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		ctx := context.Background()
		repo := open()
		g := newGroup(index.Open(repo, indextest.Quick()))
		a := derived("a")
		a.Listing = encodedDocument(t, "listing of a")
		if err := g.Add(ctx, a); err != nil {
			t.Fatal(err)
		}
		e, _ := g.Lookup(a.Entry.Path.HashPart)
		signed := e
		signed.Signatures = []string{indextest.Signature}
		b := derived("b", e.Path.Base())
		var wg sync.WaitGroup
		for _, f := range []func() error{
			func() error { return g.Attach(ctx, e, index.Attachment{Log: encodedDocument(t, "log of "+e.Deriver)}) },
			func() error {
				return g.Attach(ctx, e, index.Attachment{Realisations: []format.Realisation{testRealisation(1)}})
			},
			func() error {
				return g.Attach(ctx, e, index.Attachment{Realisations: []format.Realisation{testRealisation(2)}, BuildIDs: []string{indextest.BuildID}})
			},
			func() error { return g.Add(ctx, index.Addition{Entry: signed}) },
			func() error { return g.Add(ctx, b) },
		} {
			wg.Go(func() {
				if err := f(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if err := g.Attach(ctx, b.Entry, index.Attachment{}); err == nil {
			t.Error("an entry without a NAR was taken")
		}
		b.Entry, _ = g.Lookup(b.Entry.Path.HashPart)
		if err := g.Attach(ctx, b.Entry, index.Attachment{Listing: encodedDocument(t, "listing of b"), Log: encodedDocument(t, "log of "+b.Entry.Deriver)}); err != nil {
			t.Error(err)
		}
		check := func(s *index.Snapshot) {
			t.Helper()
			indextest.Documented(t, repo, s, e, b.Entry)
			got, _ := s.Lookup(e.Path.HashPart)
			if len(got.Realisations) != 2 || !slices.Equal(got.BuildIDs, []string{indextest.BuildID}) || !slices.Equal(got.Signatures, []string{indextest.Signature}) {
				t.Errorf("got %+v", got)
			}
			recent, ok := g.Find(func(o *format.Entry) bool { return o.Path == e.Path })
			if ok && (recent.Log != got.Log || recent.Listing != got.Listing || len(recent.Realisations) != 2) {
				t.Errorf("the group shows %+v, the cache %+v", recent, got)
			}
		}
		s, err := index.Open(open(), indextest.Quick()).Sweep(ctx)
		if err != nil {
			t.Fatal(err)
		}
		check(s)
		// small segments pile up, and are merged
		for i := range 3 * index.FanIn {
			if err := g.Add(ctx, unsent(fmt.Sprintf("small-%d", i))); err != nil {
				t.Fatal(err)
			}
			if i%index.FanIn == index.FanIn/2 {
				if _, err := g.Settle(ctx, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := g.Settle(ctx, nil); err != nil {
			t.Fatal(err)
		}
		if s, err = index.Open(open(), indextest.Quick()).Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		if n := len(s.Segments()); n > 2*index.FanIn {
			t.Errorf("%d segments are left, want them merged", n)
		}
		check(s)
		g.Seen(s)
		if n := len(g.Derived(e.Deriver)); n != 0 {
			t.Errorf("it still remembers %d that the index shows", n)
		}
	})
}

// A publish of what was pushed keeps what was attached, and a push of what was
// published too.
func TestGroupAttachBesidePublish(t *testing.T) {
	ctx := context.Background()
	repo := indextest.NewMemory()
	old := indextest.NewEntry(t, repo, "old")
	old.Deriver = indextest.DrvOf("old")
	indextest.PublishWith(t, repo, 0, "refs/heads/main", old)
	g := newGroup(index.Open(repo, indextest.Quick()))
	pushed := old
	pushed.Extras, pushed.Signatures = format.Extras{}, []string{indextest.Signature}
	if err := g.Add(ctx, index.Addition{Entry: pushed}); err != nil {
		t.Fatal(err)
	}
	if err := g.Attach(ctx, old, index.Attachment{Realisations: []format.Realisation{testRealisation(1)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Settle(ctx, nil); err != nil {
		t.Fatal(err)
	}
	again := indextest.NewEntry(t, repo, "old")
	again.Deriver = old.Deriver
	indextest.MustPublish(t, repo, again)
	s, err := index.Open(repo, indextest.Quick()).Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	indextest.Documented(t, repo, s, old)
	if got, _ := s.Lookup(old.Path.HashPart); len(got.Realisations) != 1 {
		t.Errorf("got %+v", got.Extras)
	}
}

func TestGroupAttachRefuses(t *testing.T) {
	ctx := context.Background()
	repo := indextest.NewMemory()
	g := newGroup(index.Open(repo, indextest.Quick()))
	e := indextest.NewEntry(t, repo, "e")
	log := index.Attachment{Log: encodedDocument(t, "log")}
	if err := g.Attach(ctx, e, log); !errors.Is(err, index.ErrChanged) {
		t.Errorf("to what is not there: got %v", err)
	}
	indextest.MustPublish(t, repo, e)
	for _, other := range []func(*format.Entry){
		func(o *format.Entry) { o.NarHash = "sha256:" + strings.Repeat("0", 52) }, func(o *format.Entry) { o.Deriver = indextest.DrvOf("e") },
	} {
		o := e
		other(&o)
		if err := g.Attach(ctx, o, log); !errors.Is(err, index.ErrChanged) {
			t.Errorf("to another build: got %v", err)
		}
	}
	for name, x := range map[string]index.Attachment{
		"build ID": {BuildIDs: []string{"x"}}, "realisation": {Realisations: []format.Realisation{{ID: "x"}}},
	} {
		if err := g.Attach(ctx, e, x); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	var many []format.Realisation
	for i := range format.MaxRealisations {
		many = append(many, testRealisation(i))
	}
	if err := g.Attach(ctx, e, index.Attachment{Realisations: many}); err != nil {
		t.Error(err)
	}
	if err := g.Attach(ctx, e, index.Attachment{Realisations: []format.Realisation{testRealisation(1000)}}); !errors.Is(err, index.ErrNotTaken) {
		t.Errorf("one too many: got %v", err)
	}
	if err := g.Attach(ctx, e, log); err != nil {
		t.Error(err)
	}

	// a registry that takes no blobs with documents
	refusing := newGroup(index.Open(refusingBlobs{repo}, indextest.Quick()))
	f := indextest.NewEntry(t, repo, "f")
	if err := refusing.Add(ctx, index.Addition{Entry: f, Listing: encodedDocument(t, "listing of f")}); err != nil {
		t.Errorf("the path is lost with its listing: %v", err)
	}
	if err := refusing.Attach(ctx, f, index.Attachment{Listing: encodedDocument(t, "listing of f")}); !errors.Is(err, index.ErrNotTaken) {
		t.Error("a log that was not stored was acknowledged")
	}
}

// Whatever Attach has acknowledged is there, wherever the process dies, and so
// are the paths.
func TestGroupAttachCrash(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		ctx := context.Background()
		repo := open()
		base := indextest.NewEntry(t, repo, "base")
		base.Deriver = indextest.DrvOf("base")
		indextest.MustPublish(t, repo, base)
		var acknowledged []format.Entry
		var paths []format.Entry
		realised := 0
		for steps := 0; ; steps++ {
			if steps > 100 {
				t.Fatal("more than 100 steps")
			}
			// a root may lack what was acknowledged before a crash, so it takes a
			// look at the tags to see what is to be kept
			c := index.Open(&indextest.Crashing{Repository: repo, Left: steps}, indextest.Quick())
			g := newGroup(c, func(o *index.GroupOptions) { o.Base = c.Sweep })
			a := derived(fmt.Sprintf("s%d", steps), base.Path.Base())
			err := g.Add(ctx, a)
			if err == nil {
				e, _ := g.Lookup(a.Entry.Path.HashPart)
				paths = append(paths, e)
				if err = g.Attach(ctx, e, index.Attachment{Listing: encodedDocument(t, "listing of "+e.Path.Name), Log: encodedDocument(t, "log of "+e.Deriver)}); err == nil {
					acknowledged = append(acknowledged, e)
				}
			}
			if err == nil {
				if err = g.Attach(ctx, base, index.Attachment{Realisations: []format.Realisation{testRealisation(steps)}}); err == nil {
					realised++
				}
			}
			_, settleErr := g.Settle(ctx, &format.Publication{Time: time.Now(), Roots: []format.Root{{Path: base.Path.Base()}}})
			s, sweepErr := index.Open(open(), indextest.Quick()).Sweep(ctx)
			if sweepErr != nil {
				t.Fatalf("after a crash at step %d: %v", steps, sweepErr)
			}
			indextest.Has(t, s, append(paths, base)...)
			indextest.Documented(t, repo, s, acknowledged...)
			if e, _ := s.Lookup(base.Path.HashPart); len(e.Realisations) < realised {
				t.Errorf("after a crash at step %d: %d realisations, %d were acknowledged", steps, len(e.Realisations), realised)
			}
			if err == nil && settleErr == nil {
				break
			}
		}
		if len(acknowledged) < 2 || realised < 2 {
			t.Errorf("only %d and %d were acknowledged", len(acknowledged), realised)
		}
	})
}

func TestLater(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 600_000_000, time.UTC)
	for name, tc := range map[string]struct{ old, want time.Time }{
		"long ago":    {now.Add(-time.Hour), now},
		"this second": {now.Add(-500 * time.Millisecond), now.Truncate(time.Second).Add(time.Second)},
		"ahead":       {now.Add(time.Hour), now.Truncate(time.Second).Add(time.Hour + time.Second)},
		"nonsense":    {time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), now},
		"never":       {time.Time{}, now},
	} {
		if got := index.Later(now, tc.old); !got.Equal(tc.want) {
			t.Errorf("%s: got %s, want %s", name, got, tc.want)
		}
	}
}
