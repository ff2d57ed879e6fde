package index

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/registry"
)

func encodedDocument(t *testing.T, text string) []byte {
	t.Helper()
	b, err := EncodeDocument([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testRealisation(n int) Realisation {
	return Realisation{ID: "sha256:" + fmt.Sprintf("%064x", n) + "!out"}
}

// derived is an addition with a deriver.
func derived(name string, refs ...string) Addition {
	a := unsent(name, refs...)
	a.Entry.Deriver = drvOf(name)
	return a
}

// What comes for one path from several sides is merged, whatever the order, and
// no compaction loses any of it.
func TestGroupAttach(t *testing.T) {
	backends(t, func(t *testing.T, open func() registry.Repository) {
		ctx := context.Background()
		repo := open()
		g := newGroup(Open(repo, quick()))
		a := derived("a")
		a.Listing = encodedDocument(t, "listing of a")
		if err := g.Add(ctx, a); err != nil {
			t.Fatal(err)
		}
		e, _ := g.Lookup(a.Entry.Path.HashPart)
		signed := e
		signed.Signatures = []string{testSig}
		b := derived("b", e.Path.Base())
		var wg sync.WaitGroup
		for _, f := range []func() error{
			func() error { return g.Attach(ctx, e, Attachment{Log: encodedDocument(t, "log of "+e.Deriver)}) },
			func() error { return g.Attach(ctx, e, Attachment{Realisations: []Realisation{testRealisation(1)}}) },
			func() error {
				return g.Attach(ctx, e, Attachment{Realisations: []Realisation{testRealisation(2)}, BuildIDs: []string{testBuildID}})
			},
			func() error { return g.Add(ctx, Addition{Entry: signed}) },
			func() error { return g.Add(ctx, b) },
		} {
			wg.Go(func() {
				if err := f(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if err := g.Attach(ctx, b.Entry, Attachment{}); err == nil {
			t.Error("an entry without a NAR was taken")
		}
		b.Entry, _ = g.Lookup(b.Entry.Path.HashPart)
		if err := g.Attach(ctx, b.Entry, Attachment{Listing: encodedDocument(t, "listing of b"), Log: encodedDocument(t, "log of "+b.Entry.Deriver)}); err != nil {
			t.Error(err)
		}
		check := func(s *Snapshot) {
			t.Helper()
			documented(t, repo, s, e, b.Entry)
			got, _ := s.Lookup(e.Path.HashPart)
			if len(got.Realisations) != 2 || !slices.Equal(got.BuildIDs, []string{testBuildID}) || !slices.Equal(got.Signatures, []string{testSig}) {
				t.Errorf("got %+v", got)
			}
			recent, ok := g.Find(func(o *Entry) bool { return o.Path == e.Path })
			if ok && (recent.Log != got.Log || recent.Listing != got.Listing || len(recent.Realisations) != 2) {
				t.Errorf("the group shows %+v, the cache %+v", recent, got)
			}
		}
		s, err := Open(open(), quick()).Sweep(ctx)
		if err != nil {
			t.Fatal(err)
		}
		check(s)
		// small segments pile up, and are merged
		for i := range 3 * FanIn {
			if err := g.Add(ctx, unsent(fmt.Sprintf("small-%d", i))); err != nil {
				t.Fatal(err)
			}
			if i%FanIn == FanIn/2 {
				if _, err := g.Settle(ctx, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := g.Settle(ctx, nil); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(open(), quick()).Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		if n := len(s.Segments()); n > 2*FanIn {
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
	repo := newMemory()
	old := newEntry(t, repo, "old")
	old.Deriver = drvOf("old")
	publishWith(t, repo, 0, "refs/heads/main", old)
	g := newGroup(Open(repo, quick()))
	pushed := old
	pushed.Extras, pushed.Signatures = Extras{}, []string{testSig}
	if err := g.Add(ctx, Addition{Entry: pushed}); err != nil {
		t.Fatal(err)
	}
	if err := g.Attach(ctx, old, Attachment{Realisations: []Realisation{testRealisation(1)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Settle(ctx, nil); err != nil {
		t.Fatal(err)
	}
	again := newEntry(t, repo, "old")
	again.Deriver = old.Deriver
	mustPublish(t, repo, again)
	s, err := Open(repo, quick()).Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	documented(t, repo, s, old)
	if got, _ := s.Lookup(old.Path.HashPart); len(got.Realisations) != 1 {
		t.Errorf("got %+v", got.Extras)
	}
}

func TestGroupAttachRefuses(t *testing.T) {
	ctx := context.Background()
	repo := newMemory()
	g := newGroup(Open(repo, quick()))
	e := newEntry(t, repo, "e")
	log := Attachment{Log: encodedDocument(t, "log")}
	if err := g.Attach(ctx, e, log); !errors.Is(err, ErrChanged) {
		t.Errorf("to what is not there: got %v", err)
	}
	mustPublish(t, repo, e)
	for _, other := range []func(*Entry){
		func(o *Entry) { o.NarHash = "sha256:" + strings.Repeat("0", 52) }, func(o *Entry) { o.Deriver = drvOf("e") },
	} {
		o := e
		other(&o)
		if err := g.Attach(ctx, o, log); !errors.Is(err, ErrChanged) {
			t.Errorf("to another build: got %v", err)
		}
	}
	for name, x := range map[string]Attachment{
		"build ID": {BuildIDs: []string{"x"}}, "realisation": {Realisations: []Realisation{{ID: "x"}}},
	} {
		if err := g.Attach(ctx, e, x); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	var many []Realisation
	for i := range maxRealisations {
		many = append(many, testRealisation(i))
	}
	if err := g.Attach(ctx, e, Attachment{Realisations: many}); err != nil {
		t.Error(err)
	}
	if err := g.Attach(ctx, e, Attachment{Realisations: []Realisation{testRealisation(1000)}}); !errors.Is(err, ErrNotTaken) {
		t.Errorf("one too many: got %v", err)
	}
	if err := g.Attach(ctx, e, log); err != nil {
		t.Error(err)
	}

	// a registry that takes no blobs with documents
	refusing := newGroup(Open(refusingBlobs{repo}, quick()))
	f := newEntry(t, repo, "f")
	if err := refusing.Add(ctx, Addition{Entry: f, Listing: encodedDocument(t, "listing of f")}); err != nil {
		t.Errorf("the path is lost with its listing: %v", err)
	}
	if err := refusing.Attach(ctx, f, Attachment{Listing: encodedDocument(t, "listing of f")}); !errors.Is(err, ErrNotTaken) {
		t.Error("a log that was not stored was acknowledged")
	}
}

// Whatever Attach has acknowledged is there, wherever the process dies, and so
// are the paths.
func TestGroupAttachCrash(t *testing.T) {
	backends(t, func(t *testing.T, open func() registry.Repository) {
		ctx := context.Background()
		repo := open()
		base := newEntry(t, repo, "base")
		base.Deriver = drvOf("base")
		mustPublish(t, repo, base)
		var acknowledged []Entry
		var paths []Entry
		realised := 0
		for steps := 0; ; steps++ {
			if steps > 100 {
				t.Fatal("more than 100 steps")
			}
			// a root may lack what was acknowledged before a crash, so it takes a
			// look at the tags to see what is to be kept
			c := Open(&crashing{Repository: repo, left: steps}, quick())
			g := newGroup(c, func(o *GroupOptions) { o.Base = c.Sweep })
			a := derived(fmt.Sprintf("s%d", steps), base.Path.Base())
			err := g.Add(ctx, a)
			if err == nil {
				e, _ := g.Lookup(a.Entry.Path.HashPart)
				paths = append(paths, e)
				if err = g.Attach(ctx, e, Attachment{Listing: encodedDocument(t, "listing of "+e.Path.Name), Log: encodedDocument(t, "log of "+e.Deriver)}); err == nil {
					acknowledged = append(acknowledged, e)
				}
			}
			if err == nil {
				if err = g.Attach(ctx, base, Attachment{Realisations: []Realisation{testRealisation(steps)}}); err == nil {
					realised++
				}
			}
			_, settleErr := g.Settle(ctx, &Publication{Time: time.Now(), Roots: []Root{{Path: base.Path.Base()}}})
			s, sweepErr := Open(open(), quick()).Sweep(ctx)
			if sweepErr != nil {
				t.Fatalf("after a crash at step %d: %v", steps, sweepErr)
			}
			has(t, s, append(paths, base)...)
			documented(t, repo, s, acknowledged...)
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
		if got := Later(now, tc.old); !got.Equal(tc.want) {
			t.Errorf("%s: got %s, want %s", name, got, tc.want)
		}
	}
}
