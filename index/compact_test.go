package index

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

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
	if raceEnabled || testing.Short() {
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
	o := Options{Settle: time.Nanosecond}
	writer := Open(repo, o) // one process that stays, to be quick
	var all []Entry
	for i := range publishes {
		e := entryFor(fmt.Sprintf("p%d", i), desc)
		all = append(all, e)
		base, err := writer.Refresh(ctx)
		if err != nil {
			t.Fatal(err)
		}
		w, err := writer.NewWriter(base, WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Add(ctx, e); err != nil {
			t.Fatal(err)
		}
		pub := Publication{Time: time.Now(), Flake: fmt.Sprint(i % 10), Roots: []Root{{Path: e.Path.Base()}}}
		if r, err := w.Close(ctx, &pub); err != nil || r.Committed != 1 {
			t.Fatalf("publish %d: got %+v, %v", i, r, err)
		}
	}
	for what, read := range map[string]func(*Cache) (*Snapshot, error){
		"by the root": func(c *Cache) (*Snapshot, error) { return c.Refresh(ctx) },
		"by the tags": func(c *Cache) (*Snapshot, error) { return c.Sweep(ctx) },
	} {
		count := &countingTransport{}
		cold, err := registry.Open(addr+"/a/b", registry.Options{Transport: count})
		if err != nil {
			t.Fatal(err)
		}
		s, err := read(Open(cold, o))
		if err != nil {
			t.Fatal(err)
		}
		has(t, s, all...)
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
	o := quick()
	o.Now = func() time.Time { now = now.Add(time.Second); return now }
	add := func(es ...Entry) {
		t.Helper()
		c := Open(repo, o)
		base, err := c.Sweep(ctx)
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.NewWriter(base, WriterOptions{})
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
	old := newEntry(t, repo, "contended")
	add(old)
	// a larger segment, in another class, has a later word on it
	fresh := old
	fresh.Deriver = "00000000000000000000000000000000-later.drv"
	var many []Entry
	for i := range FanIn {
		many = append(many, newEntry(t, repo, fmt.Sprintf("m%d", i)))
	}
	add(append(many, fresh)...)
	var small []Entry
	for i := range FanIn {
		small = append(small, newEntry(t, repo, fmt.Sprintf("s%d", i)))
		add(small[i])
	}
	s, err := Open(repo, o).Refresh(ctx)
	if err != nil {
		t.Fatal(err)
	}
	has(t, s, append(append(small, many...), fresh)...)
	if n := len(s.Segments()); n > 3 {
		t.Errorf("got %d segments: nothing was merged", n)
	}
	// a writer that knew nothing of the merge could have added it meanwhile
	merged := slices.IndexFunc(s.Loaded(), func(seg *segment) bool { return len(seg.header.Replaces) > 0 })
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
	var all []Entry
	for i := range FanIn - 1 {
		e := newEntry(t, repo, fmt.Sprint("old", i))
		mustPublish(t, repo, e)
		all = append(all, e)
	}
	for steps := 0; ; steps++ {
		if steps > 50 {
			t.Fatal("a publish with a compaction takes more than 50 steps")
		}
		stale := Open(repo, quick())
		if _, err := stale.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		e := newEntry(t, repo, fmt.Sprint("new", steps))
		durable := false
		_, err := publish(t, &crashing{Repository: repo, left: steps}, WriterOptions{Committed: func(string, int) { durable = true }}, e)
		if durable {
			all = append(all, e)
		}
		for what, c := range map[string]*Cache{"cold": Open(repo, quick()), "stale": stale} {
			s, readErr := c.Sweep(ctx)
			if readErr != nil {
				t.Fatalf("%s reader after a crash at step %d: %v", what, steps, readErr)
			}
			has(t, s, all...)
			if t.Failed() {
				t.Fatalf("%s reader after a crash at step %d, durable %v: %d segments", what, steps, durable, len(s.Segments()))
			}
		}
		if err != nil && !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		if err != nil {
			continue
		}
		s, err := Open(repo, quick()).Refresh(ctx)
		if err != nil {
			t.Fatal(err)
		}
		has(t, s, all...)
		// a compaction that fails does not fail the publish
		if len(s.Segments()) < FanIn {
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
	var all []Entry
	for i := range 3 * FanIn {
		e := newEntry(t, repo, fmt.Sprint("p", i))
		all = append(all, e)
		mustPublish(t, late, e)
		s, err := Open(repo, quick()).Refresh(ctx)
		if err != nil {
			t.Fatal(err)
		}
		has(t, s, all...)
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
	for i := range FanIn {
		mustPublish(t, repo, newEntry(t, repo, fmt.Sprint("p", i)))
	}
	count := func(rs []Retired) (n int) {
		for _, r := range rs {
			if r.Tag != "" { // else it is an old root
				n++
			}
		}
		return n
	}
	retired := func() int {
		t.Helper()
		list, err := ReadRetired(ctx, repo)
		if err != nil {
			t.Fatal(err)
		}
		return count(list)
	}
	if n := retired(); n != FanIn {
		t.Fatalf("got %d retired segments, want %d", n, FanIn)
	}
	// a process that has read without them, then asks again with them
	c := Open(repo, quick())
	if _, err := c.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	s, err := c.Sweep(ctx)
	if err != nil || count(s.Retired()) != FanIn {
		t.Fatalf("got a snapshot with %d retired segments, %v", count(s.Retired()), err)
	}
	mustPublish(t, repo, newEntry(t, repo, "next"))
	if n := retired(); n != FanIn {
		t.Errorf("after the next publish: got %d retired segments, want %d", n, FanIn)
	}
}
