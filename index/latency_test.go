package index_test

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index"
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
		c := index.Open(far, indextest.Quick())
		count("reading and proving the right to write", 3, func() { // root, list, entries
			if _, err := c.SweepAndPrepare(ctx); err != nil {
				t.Fatal(err)
			}
		})
	})
}
