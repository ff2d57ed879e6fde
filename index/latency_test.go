package index_test

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
)

// distant is a registry far away. A blob takes two requests to store.
type distant struct{ *indextest.Memory }

const roundTrip = time.Second

func (d distant) Manifest(ctx context.Context, ref string) (registry.Manifest, error) {
	time.Sleep(roundTrip)
	return d.Memory.Manifest(ctx, ref)
}

func (d distant) Resolve(ctx context.Context, tag string) (v1.Hash, error) {
	time.Sleep(roundTrip)
	return d.Memory.Resolve(ctx, tag)
}

func (d distant) Tags(ctx context.Context) ([]string, error) {
	time.Sleep(roundTrip)
	return d.Memory.Tags(ctx)
}

func (d distant) Blob(ctx context.Context, h v1.Hash, offset, length int64) (io.ReadCloser, error) {
	time.Sleep(roundTrip)
	return d.Memory.Blob(ctx, h, offset, length)
}

func (d distant) PutBlob(ctx context.Context, b []byte) (v1.Descriptor, error) {
	time.Sleep(2 * roundTrip)
	return d.Memory.PutBlob(ctx, b)
}

func (d distant) PutManifest(ctx context.Context, tag string, m registry.Manifest) (v1.Hash, error) {
	time.Sleep(roundTrip)
	return d.Memory.PutManifest(ctx, tag, m)
}

// Requests wait for each other only where one needs the other's answer.
func TestRoundTrips(t *testing.T) {
	near := indextest.NewMemory()
	for i := range 3 { // so that there are retired segments
		indextest.MustPublish(t, near, indextest.NewEntry(t, near, string(rune('a'+i))))
	}
	count := func(name string, want time.Duration, f func()) {
		t.Helper()
		start := time.Now()
		f()
		if got := time.Since(start).Round(roundTrip) / roundTrip; got != want {
			t.Errorf("%s: got %d round trips, want %d", name, got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		far := distant{near}
		o := indextest.Quick()
		o.Dir = t.TempDir() // so that nobody reads back what it has written
		c := index.Open(far, o)
		count("reading and proving the right to write", 3, func() { // root, list, entries
			if _, err := c.SweepAndPrepare(ctx); err != nil {
				t.Fatal(err)
			}
		})
		entries := []format.Entry{indextest.NewEntry(t, near, "x"), indextest.NewEntry(t, near, "y")}
		base := c.Current()
		w, err := c.NewWriter(base, index.WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if err := w.AddWith(ctx, e, indextest.DocumentsFor(&e)); err != nil {
				t.Fatal(err)
			}
		}
		// documents 2, segment 3, reading the root 2, writing it 3, looking at it 1
		count("committing", 11, func() {
			if r, err := w.Close(ctx, nil); err != nil || r.Committed != 2 {
				t.Fatalf("got %+v, %v", r, err)
			}
		})
	})
}

// roots counts how often the root is written.
type roots struct {
	registry.Repository
	n int
}

func (r *roots) PutManifest(ctx context.Context, tag string, m registry.Manifest) (v1.Hash, error) {
	if tag == format.RootTag {
		r.n++
	}
	return r.Repository.PutManifest(ctx, tag, m)
}

// What is committed on the way is durable at once, and in the root at the next
// checkpoint, also if nothing is new then.
func TestRootWaitsForCheckpoint(t *testing.T) {
	ctx := context.Background()
	repo := &roots{Repository: indextest.NewMemory()}
	c := index.Open(repo, indextest.Quick())
	base, err := c.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, index.WriterOptions{CommitEvery: 1})
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"a", "b", "c"} {
		e := indextest.NewEntry(t, repo, name)
		if err := w.Add(ctx, e); err != nil {
			t.Fatal(err)
		}
		s, err := index.Open(repo, indextest.Quick()).Sweep(ctx)
		if err != nil || len(s.Segments()) != i+1 || repo.n != 0 {
			t.Fatalf("after %d entries: got %d segments and %d roots, %v", i+1, len(s.Segments()), repo.n, err)
		}
	}
	for range 2 {
		if err := w.Checkpoint(ctx); err != nil || repo.n != 1 {
			t.Errorf("got %d roots, %v, want 1", repo.n, err)
		}
	}
	if s, err := index.Open(repo, indextest.Quick()).Refresh(ctx); err != nil || s.Len() != 3 {
		t.Errorf("the root shows %d paths, %v", s.Len(), err)
	}
}
