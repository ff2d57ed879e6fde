package index_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

// countingTransport counts requests.
type countingTransport struct{ n atomic.Int64 }

func (c *countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	c.n.Add(1)
	return http.DefaultTransport.RoundTrip(r)
}

// A thousand publishes of one path each do not slow a reader that knows
// nothing yet, nor one that polls.
func TestManySmallPublishes(t *testing.T) {
	publishes := 1000
	if indextest.RaceEnabled || testing.Short() {
		publishes = 150
	}
	ctx := context.Background()
	addr := registrytest.GGCR(t)
	repo, err := registry.Open(addr+"/a/b", registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	desc, err := repo.PutBlob(ctx, []byte("one NAR for all"))
	if err != nil {
		t.Fatal(err)
	}
	o := index.Options{Settle: time.Nanosecond}
	writer := index.Open(repo, o) // one process that stays, to be quick
	var all []format.Entry
	for i := range publishes {
		e := indextest.EntryFor(fmt.Sprintf("p%d", i), desc)
		all = append(all, e)
		base, err := writer.Refresh(ctx)
		if err != nil {
			t.Fatal(err)
		}
		w, err := writer.NewWriter(base, index.WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Add(ctx, e); err != nil {
			t.Fatal(err)
		}
		pub := format.Publication{Time: time.Now(), Flake: fmt.Sprint(i % 10), Roots: []format.Root{{Path: e.Path.Base()}}}
		if r, err := w.Close(ctx, &pub); err != nil || r.Committed != 1 {
			t.Fatalf("publish %d: got %+v, %v", i, r, err)
		}
	}
	for what, read := range map[string]func(*index.Cache) (*index.Snapshot, error){
		"by the root": func(c *index.Cache) (*index.Snapshot, error) { return c.Refresh(ctx) },
		"by the tags": func(c *index.Cache) (*index.Snapshot, error) { return c.Sweep(ctx) },
	} {
		count := &countingTransport{}
		cold, err := registry.Open(addr+"/a/b", registry.Options{Transport: count})
		if err != nil {
			t.Fatal(err)
		}
		s, err := read(index.Open(cold, o))
		if err != nil {
			t.Fatal(err)
		}
		indextest.Has(t, s, all...)
		if n := count.n.Load(); n > 60 {
			t.Errorf("%s: a cold reader made %d requests, want at most 60", what, n)
		} else {
			t.Logf("%s: %d requests for %d entries in %d segments", what, n, s.Len(), len(s.Segments()))
		}
		if got := len(s.Publications()); got != publishes {
			t.Errorf("%s: got %d publications, want %d", what, got, publishes)
		}
	}
}

// What a newer segment says of a path stays true when the older ones are
// merged into a segment that is younger still.
func TestMergingKeepsTheNewestEntry(t *testing.T) {
	ctx := context.Background()
	repo, err := registry.Open("oci:"+t.TempDir(), registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 0)
	o := indextest.Quick()
	o.Now = func() time.Time { now = now.Add(time.Second); return now }
	add := func(es ...format.Entry) {
		t.Helper()
		c := index.Open(repo, o)
		base, err := c.Sweep(ctx)
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.NewWriter(base, index.WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			if err := w.Add(ctx, e); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Close(ctx, nil); err != nil {
			t.Fatal(err)
		}
	}
	old := indextest.NewEntry(t, repo, "contended")
	add(old)
	// a larger segment, in another class, has a later word on it
	fresh := old
	fresh.Deriver = "00000000000000000000000000000000-later.drv"
	var many []format.Entry
	for i := range index.FanIn {
		many = append(many, indextest.NewEntry(t, repo, fmt.Sprintf("m%d", i)))
	}
	add(append(many, fresh)...)
	var small []format.Entry
	for i := range index.FanIn {
		small = append(small, indextest.NewEntry(t, repo, fmt.Sprintf("s%d", i)))
		add(small[i])
	}
	s, err := index.Open(repo, o).Refresh(ctx)
	if err != nil {
		t.Fatal(err)
	}
	indextest.Has(t, s, append(append(small, many...), fresh)...)
	if n := len(s.Segments()); n > 3 {
		t.Errorf("got %d segments: nothing was merged", n)
	}
	// a writer that knew nothing of the merge could have added it meanwhile
	merged := slices.IndexFunc(s.Loaded(), func(seg *format.Segment) bool { return len(seg.Header.Replaces) > 0 })
	if merged < 0 {
		t.Fatal("no merged segment")
	}
}

// A reader that has the old root, and one that sees only tags, find everything
// at every step of a compaction that does not come to its end.
func TestCrashDuringCompaction(t *testing.T) {
	ctx := context.Background()
	repo, err := registry.Open("oci:"+t.TempDir(), registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	var all []format.Entry
	for i := range index.FanIn - 1 {
		e := indextest.NewEntry(t, repo, fmt.Sprint("old", i))
		indextest.MustPublish(t, repo, e)
		all = append(all, e)
	}
	for steps := 0; ; steps++ {
		if steps > 50 {
			t.Fatal("a publish with a compaction takes more than 50 steps")
		}
		stale := index.Open(repo, indextest.Quick())
		if _, err := stale.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		e := indextest.NewEntry(t, repo, fmt.Sprint("new", steps))
		durable := false
		_, err := indextest.Publish(t, &indextest.Crashing{Repository: repo, Left: steps}, index.WriterOptions{Committed: func(string, int) { durable = true }}, e)
		if durable {
			all = append(all, e)
		}
		for what, c := range map[string]*index.Cache{"cold": index.Open(repo, indextest.Quick()), "stale": stale} {
			s, readErr := c.Sweep(ctx)
			if readErr != nil {
				t.Fatalf("%s reader after a crash at step %d: %v", what, steps, readErr)
			}
			indextest.Has(t, s, all...)
			if t.Failed() {
				t.Fatalf("%s reader after a crash at step %d, durable %v: %d segments", what, steps, durable, len(s.Segments()))
			}
		}
		if err != nil && !errors.Is(err, indextest.ErrCrash) {
			t.Fatal(err)
		}
		if err != nil {
			continue
		}
		s, err := index.Open(repo, indextest.Quick()).Refresh(ctx)
		if err != nil {
			t.Fatal(err)
		}
		indextest.Has(t, s, all...)
		// a compaction that fails does not fail the publish
		if len(s.Segments()) < index.FanIn {
			t.Logf("%d steps", steps)
			return
		}
	}
}

// lagging is a registry whose tag list shows what was there some calls ago.
type lagging struct {
	registry.Repository
	seen [][]string
}

func (l *lagging) Tags(ctx context.Context) ([]string, error) {
	tags, err := l.Repository.Tags(ctx)
	l.seen = append(l.seen, tags)
	return l.seen[max(0, len(l.seen)-4)], err
}

func TestLaggingTagList(t *testing.T) {
	ctx := context.Background()
	repo, err := registry.Open("oci:"+t.TempDir(), registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	late := &lagging{Repository: repo}
	var all []format.Entry
	for i := range 3 * index.FanIn {
		e := indextest.NewEntry(t, repo, fmt.Sprint("p", i))
		all = append(all, e)
		indextest.MustPublish(t, late, e)
		s, err := index.Open(repo, indextest.Quick()).Refresh(ctx)
		if err != nil {
			t.Fatal(err)
		}
		indextest.Has(t, s, all...)
		total := 0
		for _, seg := range s.Segments() {
			total += seg.Count
		}
		if total != len(all) {
			t.Fatalf("after %d publishes the live segments have %d entries: something replaced came back", len(all), total)
		}
	}
}

// A root is never written without the retired segments that the one before had:
// nothing else keeps what they replaced from coming back.
func TestRetiredSegmentsAreKept(t *testing.T) {
	ctx := context.Background()
	repo, err := registry.Open("oci:"+t.TempDir(), registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range index.FanIn {
		indextest.MustPublish(t, repo, indextest.NewEntry(t, repo, fmt.Sprint("p", i)))
	}
	count := func(rs []format.Retired) (n int) {
		for _, r := range rs {
			if r.Tag != "" { // else it is an old root
				n++
			}
		}
		return n
	}
	retired := func() int {
		t.Helper()
		list, err := index.ReadRetired(ctx, repo)
		if err != nil {
			t.Fatal(err)
		}
		return count(list)
	}
	if n := retired(); n != index.FanIn {
		t.Fatalf("got %d retired segments, want %d", n, index.FanIn)
	}
	// a process that has read without them, then asks again with them
	c := index.Open(repo, indextest.Quick())
	if _, err := c.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	s, err := c.Sweep(ctx)
	if err != nil || count(s.Retired()) != index.FanIn {
		t.Fatalf("got a snapshot with %d retired segments, %v", count(s.Retired()), err)
	}
	indextest.MustPublish(t, repo, indextest.NewEntry(t, repo, "next"))
	if n := retired(); n != index.FanIn {
		t.Errorf("after the next publish: got %d retired segments, want %d", n, index.FanIn)
	}
}
