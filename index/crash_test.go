package index

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

func TestCrashAfterEveryStep(t *testing.T) {
	strict := func(rules registrytest.Rules) func(t *testing.T, f func(t *testing.T, open func() registry.Repository)) {
		return func(t *testing.T, f func(t *testing.T, open func() registry.Repository)) {
			f(t, opener(t, registrytest.NewStrict(t, rules).Addr+"/a/b"))
		}
	}
	for name, in := range map[string]func(*testing.T, func(*testing.T, func() registry.Repository)){
		"lax": backends, "gitlab": strict(registrytest.GitLab()), "quay": strict(registrytest.Quay()),
	} {
		t.Run(name, func(t *testing.T) { crashAfterEveryStep(t, in) })
	}
}

func crashAfterEveryStep(t *testing.T, in func(*testing.T, func(*testing.T, func() registry.Repository))) {
	in(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		acknowledged := []Entry{newEntry(t, repo, "first")}
		mustPublish(t, repo, acknowledged...)
		for steps := 0; ; steps++ {
			if steps > 100 {
				t.Fatal("a publish takes more than 100 steps")
			}
			e := newEntry(t, repo, fmt.Sprintf("e%d", steps))
			durable := false
			o := WriterOptions{Committed: func(string, int) { durable = true }}
			_, err := publish(t, &crashing{Repository: repo, left: steps}, o, e)
			if err == nil && !durable {
				t.Fatalf("after %d steps: success without a segment", steps)
			}
			if durable {
				acknowledged = append(acknowledged, e)
			}
			s, readErr := Open(open(), quick()).Sweep(context.Background())
			if readErr != nil {
				t.Fatalf("after a crash at step %d: %v", steps, readErr)
			}
			has(t, s, acknowledged...)
			// the next writer repairs the root
			next := newEntry(t, repo, fmt.Sprintf("n%d", steps))
			mustPublish(t, repo, next)
			acknowledged = append(acknowledged, next)
			if s, readErr = Open(open(), quick()).Refresh(context.Background()); readErr != nil {
				t.Fatal(readErr)
			}
			has(t, s, acknowledged...)
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
	if tag == RootTag {
		if r.n--; r.n == 0 {
			return v1.Hash{}, errCrash
		}
	}
	return r.Repository.PutManifest(ctx, tag, m)
}

// A root that could not be written after the last commit is written in the end,
// also if an earlier one was.
func TestLastRootIsMissed(t *testing.T) {
	for n := 1; n <= 3; n++ {
		repo := open(t, t.TempDir())
		entries := []Entry{newEntry(t, repo, "a"), newEntry(t, repo, "b"), newEntry(t, repo, "c")}
		if _, err := publish(t, &rootless{repo, n}, WriterOptions{CommitEvery: 1}, entries...); err != nil {
			t.Fatal(err)
		}
		s, err := Open(repo, quick()).Refresh(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		has(t, s, entries...)
	}
}

func TestRootLostOrOverwritten(t *testing.T) {
	backends(t, func(t *testing.T, open func() registry.Repository) {
		ctx := context.Background()
		repo := open()
		a, b := newEntry(t, repo, "a"), newEntry(t, repo, "b")
		mustPublish(t, repo, a)
		old, err := repo.Manifest(ctx, RootTag)
		if err != nil {
			t.Fatal(err)
		}
		mustPublish(t, repo, b)
		if _, err := repo.PutManifest(ctx, RootTag, old); err != nil {
			t.Fatal(err)
		}
		s, err := Open(repo, quick()).Sweep(ctx)
		if err != nil {
			t.Fatal(err)
		}
		has(t, s, a, b)
		c := newEntry(t, repo, "c")
		mustPublish(t, repo, c)
		if s, err = Open(repo, quick()).Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		has(t, s, a, b, c)
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
	for what, layers := range map[string][]v1.Descriptor{"no layers": nil, "something else": {emptyConfig}} {
		theirs, err := newManifest("application/other", layers, time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		digest, err := repo.PutManifest(ctx, RootTag, theirs)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := publish(t, repo, WriterOptions{}, newEntry(t, repo, "a")); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: got %v, want ErrForeign", what, err)
		}
		if now, err := repo.Resolve(ctx, RootTag); err != nil || now != digest {
			t.Errorf("%s: the root was changed: %v, %v", what, now, err)
		}
	}
}

// failing answers reads with an error that is no "not found".
type failing struct{ registry.Repository }

func (failing) Manifest(context.Context, string) (registry.Manifest, error) {
	return registry.Manifest{}, errCrash
}

// Somebody's tag that only looks like a segment's does no harm.
func TestForeignTagIsPassedOver(t *testing.T) {
	backends(t, func(t *testing.T, open func() registry.Repository) {
		ctx := context.Background()
		repo := open()
		a := newEntry(t, repo, "a")
		mustPublish(t, repo, a)
		theirs, err := newManifest("application/other", []v1.Descriptor{emptyConfig}, time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := repo.PutManifest(ctx, "segment-of-a-cake", theirs); err != nil {
			t.Fatal(err)
		}
		b := newEntry(t, repo, "b")
		mustPublish(t, repo, b)
		s, err := Open(open(), quick()).Sweep(ctx)
		if err != nil {
			t.Fatal(err)
		}
		has(t, s, a, b)
	})
}

func TestUnreadableIsNeverEmpty(t *testing.T) {
	backends(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		a := newEntry(t, repo, "a")
		mustPublish(t, repo, a)
		if _, err := publish(t, failing{repo}, WriterOptions{}, newEntry(t, repo, "b")); !errors.Is(err, errCrash) {
			t.Errorf("got %v, want the read's error", err)
		}
		s, err := Open(repo, quick()).Sweep(context.Background())
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
	a := newEntry(t, repo, "a")
	b := newEntry(t, repo, "b", a.Path.Base())
	c := newEntry(t, repo, "c")
	cache := Open(repo, quick())
	base, err := cache.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := cache.NewWriter(base, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []Entry{a, b, c} {
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
	if err := w.Add(ctx, newEntry(t, repo, "a")); err != nil {
		t.Fatal(err)
	}
	if r, err = w.Close(ctx, nil); err != nil || r.Committed != 3 || len(r.Lost)+len(r.Incomplete) != 0 {
		t.Fatalf("after the second upload: got %+v, %v", r, err)
	}
}
