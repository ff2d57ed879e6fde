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
	p := &publisher{Options: Options{Index: index.Open(repo, index.Options{})}}
	base, err := p.open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	other := index.Open(repo, index.Options{Settle: time.Millisecond})
	w, err := other.NewWriter(base, index.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(ctx, &format.Publication{Time: time.Now(), Flake: "."}); err != nil {
		t.Fatal(err)
	}
	for age, want := range map[time.Duration]int{time.Minute: 0, maxIndexAge: 1} {
		s, err := p.fresh(ctx, base, time.Now().Add(-age))
		if err != nil || len(s.Publications()) != want {
			t.Errorf("after %v: got %d publications, %v, want %d", age, len(s.Publications()), err, want)
		}
	}
}
