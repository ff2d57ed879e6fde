package index_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

func TestCrashAfterEveryStep(t *testing.T) {
	strict := func(rules registrytest.Rules) func(t *testing.T, f func(t *testing.T, open func() registry.Repository)) {
		return func(t *testing.T, f func(t *testing.T, open func() registry.Repository)) {
			f(t, indextest.Opener(t, registrytest.NewStrict(t, rules).Addr+"/a/b"))
		}
	}
	for name, in := range map[string]func(*testing.T, func(*testing.T, func() registry.Repository)){
		"lax": indextest.Backends, "gitlab": strict(registrytest.GitLab()), "quay": strict(registrytest.Quay()),
	} {
		t.Run(name, func(t *testing.T) { crashAfterEveryStep(t, in) })
	}
}

func crashAfterEveryStep(t *testing.T, in func(*testing.T, func(*testing.T, func() registry.Repository))) {
	in(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		acknowledged := []format.Entry{indextest.NewEntry(t, repo, "first")}
		indextest.MustPublish(t, repo, acknowledged...)
		for steps := 0; ; steps++ {
			if steps > 100 {
				t.Fatal("a publish takes more than 100 steps")
			}
			e := indextest.NewEntry(t, repo, fmt.Sprintf("e%d", steps))
			durable := false
			o := index.WriterOptions{Committed: func(string, int) { durable = true }}
			_, err := indextest.Publish(t, &indextest.Crashing{Repository: repo, Left: steps}, o, e)
			if err == nil && !durable {
				t.Fatalf("after %d steps: success without a segment", steps)
			}
			if durable {
				acknowledged = append(acknowledged, e)
			}
			s, readErr := index.Open(open(), indextest.Quick()).Sweep(context.Background())
			if readErr != nil {
				t.Fatalf("after a crash at step %d: %v", steps, readErr)
			}
			indextest.Has(t, s, acknowledged...)
			// the next writer repairs the root
			next := indextest.NewEntry(t, repo, fmt.Sprintf("n%d", steps))
			indextest.MustPublish(t, repo, next)
			acknowledged = append(acknowledged, next)
			if s, readErr = index.Open(open(), indextest.Quick()).Refresh(context.Background()); readErr != nil {
				t.Fatal(readErr)
			}
			indextest.Has(t, s, acknowledged...)
			if err == nil {
				break
			}
		}
	})
}

// rootless fails to write the nth root, once.
type rootless struct {
	registry.Repository
	n int
}

func (r *rootless) PutManifest(ctx context.Context, tag string, m registry.Manifest) (v1.Hash, error) {
	if tag == format.RootTag {
		if r.n--; r.n == 0 {
			return v1.Hash{}, indextest.ErrCrash
		}
	}
	return r.Repository.PutManifest(ctx, tag, m)
}

// A root that could not be written after the last commit is written in the end,
// also if an earlier one was.
func TestLastRootIsMissed(t *testing.T) {
	for n := 1; n <= 3; n++ {
		repo := indextest.Open(t, t.TempDir())
		entries := []format.Entry{indextest.NewEntry(t, repo, "a"), indextest.NewEntry(t, repo, "b"), indextest.NewEntry(t, repo, "c")}
		if _, err := indextest.Publish(t, &rootless{repo, n}, index.WriterOptions{CommitEvery: 1}, entries...); err != nil {
			t.Fatal(err)
		}
		s, err := index.Open(repo, indextest.Quick()).Refresh(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		indextest.Has(t, s, entries...)
	}
}

func TestRootLostOrOverwritten(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		ctx := context.Background()
		repo := open()
		a, b := indextest.NewEntry(t, repo, "a"), indextest.NewEntry(t, repo, "b")
		indextest.MustPublish(t, repo, a)
		old, err := repo.Manifest(ctx, format.RootTag)
		if err != nil {
			t.Fatal(err)
		}
		indextest.MustPublish(t, repo, b)
		if _, err := repo.PutManifest(ctx, format.RootTag, old); err != nil {
			t.Fatal(err)
		}
		s, err := index.Open(repo, indextest.Quick()).Sweep(ctx)
		if err != nil {
			t.Fatal(err)
		}
		indextest.Has(t, s, a, b)
		c := indextest.NewEntry(t, repo, "c")
		indextest.MustPublish(t, repo, c)
		if s, err = index.Open(repo, indextest.Quick()).Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		indextest.Has(t, s, a, b, c)
	})
}

func TestForeignRootIsLeftAlone(t *testing.T) {
	ctx := context.Background()
	repo, err := registry.Open("oci:"+t.TempDir(), registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.PutBlob(ctx, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	for what, layers := range map[string][]v1.Descriptor{"no layers": nil, "something else": {format.EmptyConfig}} {
		theirs, err := indextest.NewManifest("application/other", layers, time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		digest, err := repo.PutManifest(ctx, format.RootTag, theirs)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := indextest.Publish(t, repo, index.WriterOptions{}, indextest.NewEntry(t, repo, "a")); !errors.Is(err, format.ErrForeign) {
			t.Errorf("%s: got %v, want ErrForeign", what, err)
		}
		if now, err := repo.Resolve(ctx, format.RootTag); err != nil || now != digest {
			t.Errorf("%s: the root was changed: %v, %v", what, now, err)
		}
	}
}

// failing answers reads with an error that is no "not found".
type failing struct{ registry.Repository }

func (failing) Manifest(context.Context, string) (registry.Manifest, error) {
	return registry.Manifest{}, indextest.ErrCrash
}

// Somebody's tag that only looks like a segment's does no harm.
func TestForeignTagIsPassedOver(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		ctx := context.Background()
		repo := open()
		a := indextest.NewEntry(t, repo, "a")
		indextest.MustPublish(t, repo, a)
		theirs, err := indextest.NewManifest("application/other", []v1.Descriptor{format.EmptyConfig}, time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := repo.PutManifest(ctx, "segment-of-a-cake", theirs); err != nil {
			t.Fatal(err)
		}
		b := indextest.NewEntry(t, repo, "b")
		indextest.MustPublish(t, repo, b)
		s, err := index.Open(open(), indextest.Quick()).Sweep(ctx)
		if err != nil {
			t.Fatal(err)
		}
		indextest.Has(t, s, a, b)
	})
}

func TestUnreadableIsNeverEmpty(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		a := indextest.NewEntry(t, repo, "a")
		indextest.MustPublish(t, repo, a)
		if _, err := indextest.Publish(t, failing{repo}, index.WriterOptions{}, indextest.NewEntry(t, repo, "b")); !errors.Is(err, indextest.ErrCrash) {
			t.Errorf("got %v, want the read's error", err)
		}
		s, err := index.Open(repo, indextest.Quick()).Sweep(context.Background())
		if err != nil || s.Len() != 1 {
			t.Errorf("got %d entries, %v; want 1", s.Len(), err)
		}
	})
}

// A blob that a collector took before the segment named it is reported, and
// the rest is committed.
func TestLostBlob(t *testing.T) {
	dir := t.TempDir()
	repo, err := registry.Open("oci:"+dir, registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	a := indextest.NewEntry(t, repo, "a")
	b := indextest.NewEntry(t, repo, "b", a.Path.Base())
	c := indextest.NewEntry(t, repo, "c")
	cache := index.Open(repo, indextest.Quick())
	base, err := cache.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := cache.NewWriter(base, index.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []format.Entry{a, b, c} {
		if err := w.Add(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "blobs", "sha256", a.NAR.Blob.Hex)); err != nil {
		t.Fatal(err)
	}
	r, err := w.Close(ctx, nil)
	if err != nil || r.Committed != 1 || len(r.Lost) != 1 || r.Lost[0].Path != a.Path || len(r.Incomplete) != 1 {
		t.Fatalf("got %+v, %v; want c committed, a lost, b waiting", r, err)
	}
	if err := w.Add(ctx, indextest.NewEntry(t, repo, "a")); err != nil {
		t.Fatal(err)
	}
	if r, err = w.Close(ctx, nil); err != nil || r.Committed != 3 || len(r.Lost)+len(r.Incomplete) != 0 {
		t.Fatalf("after the second upload: got %+v, %v", r, err)
	}
}
