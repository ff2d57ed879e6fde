package publish

import (
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
)

// What others did to the cache during a long build counts.
func TestIndexIsReadAgainAfterLong(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	repo, err := registry.Open("oci:"+t.TempDir(), registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	p := &publisher{Options: Options{DryRun: true, Index: index.Open(repo, index.Options{})}}
	s := p.newStream(t.Context(), nil, func() (*index.Snapshot, error) { return p.Index.Sweep(ctx) })
	if err := s.begin(ctx, nil); err != nil {
		t.Fatal(err)
	}
	other := index.Open(repo, index.Options{Settle: time.Millisecond})
	w, err := other.NewWriter(s.base, index.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(ctx, &format.Publication{Time: time.Now(), Flake: "."}); err != nil {
		t.Fatal(err)
	}
	for i, age := range []time.Duration{time.Minute, maxIndexAge} {
		s.read, s.inBase["x"] = time.Now().Add(-age), true
		if err := s.begin(ctx, nil); err != nil || len(s.base.Publications()) != i || len(s.inBase) != 1-i {
			t.Errorf("after %v: got %d publications, %v, want %d", age, len(s.base.Publications()), err, i)
		}
	}
}
