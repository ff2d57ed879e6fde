package indextest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

// Backends are the repositories that every test of the protocol runs on.
func Backends(t *testing.T, f func(t *testing.T, open func() registry.Repository)) {
	t.Run("oci", func(t *testing.T) { f(t, Opener(t, "oci:"+t.TempDir())) })
	t.Run("ggcr", func(t *testing.T) { f(t, Opener(t, registrytest.GGCR(t)+"/a/b")) })
	t.Run("distribution", func(t *testing.T) { f(t, Opener(t, registrytest.NewDistribution(t).Addr+"/a/b")) })
	t.Run("forge", func(t *testing.T) {
		forge := registrytest.NewForge(t)
		f(t, Opener(t, forge.Cache("a/b"), forge))
	})
}

// Opener opens a cache as often as it is called.
func Opener(t *testing.T, cache string, login ...authn.Keychain) func() registry.Repository {
	return func() registry.Repository {
		r, err := registry.Open(cache, registry.Options{Push: true, Keychain: authn.NewMultiKeychain(login...)})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
}

// Crashing stops working before its nth write, for good, as a killed process
// does.
type Crashing struct {
	registry.Repository
	mu   sync.Mutex
	Left int
}

// ErrCrash is the error of a Crashing repository.
var ErrCrash = errors.New("crashed")

func (c *Crashing) step() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Left--; c.Left < 0 {
		return ErrCrash
	}
	return nil
}

// PutManifest implements registry.Repository.
func (c *Crashing) PutManifest(ctx context.Context, tag string, m registry.Manifest) (v1.Hash, error) {
	if err := c.step(); err != nil {
		return v1.Hash{}, err
	}
	return c.Repository.PutManifest(ctx, tag, m)
}

// PutBlob implements registry.Repository.
func (c *Crashing) PutBlob(ctx context.Context, b []byte) (v1.Descriptor, error) {
	if err := c.step(); err != nil {
		return v1.Descriptor{}, err
	}
	return c.Repository.PutBlob(ctx, b)
}

// DeleteManifest implements registry.Repository.
func (c *Crashing) DeleteManifest(ctx context.Context, tag string, digest v1.Hash) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.Repository.DeleteManifest(ctx, tag, digest)
}

// Watched counts what is asked of a repository, and lets a test step in.
type Watched struct {
	registry.Repository
	Mu      sync.Mutex
	Put     map[v1.Hash]int // blobs
	Asked   int             // for the sizes of blobs
	Read    map[v1.Hash]int // blobs
	Written []string        // written
	Size    func(v1.Hash) error
	Before  func(tag string) // a manifest is written
	After   func(tag string)
	BlobPut func()
}

// Watch returns a repository that counts what is asked of repo.
func Watch(repo registry.Repository) *Watched {
	return &Watched{Repository: repo, Put: map[v1.Hash]int{}, Read: map[v1.Hash]int{}}
}

// PutBlob implements registry.Repository.
func (w *Watched) PutBlob(ctx context.Context, b []byte) (v1.Descriptor, error) {
	d, err := w.Repository.PutBlob(ctx, b)
	w.Mu.Lock()
	w.Put[d.Digest]++
	hook := w.BlobPut
	w.BlobPut = nil
	w.Mu.Unlock()
	if hook != nil {
		hook()
	}
	return d, err
}

// WriteBlob implements registry.Repository.
func (w *Watched) WriteBlob(context.Context, func(io.Writer) error) (v1.Descriptor, error) {
	return v1.Descriptor{}, errors.New("a NAR is sent")
}

// Blob implements registry.Repository.
func (w *Watched) Blob(ctx context.Context, digest v1.Hash, offset, length int64) (io.ReadCloser, error) {
	w.Mu.Lock()
	w.Read[digest]++
	w.Mu.Unlock()
	return w.Repository.Blob(ctx, digest, offset, length)
}

// BlobSize implements registry.Repository.
func (w *Watched) BlobSize(ctx context.Context, digest v1.Hash) (int64, error) {
	w.Mu.Lock()
	w.Asked++
	w.Mu.Unlock()
	if w.Size != nil {
		if err := w.Size(digest); err != nil {
			return 0, err
		}
	}
	return w.Repository.BlobSize(ctx, digest)
}

// PutManifest implements registry.Repository.
func (w *Watched) PutManifest(ctx context.Context, tag string, m registry.Manifest) (v1.Hash, error) {
	if w.Before != nil {
		w.Before(tag)
	}
	w.Mu.Lock()
	w.Written = append(w.Written, tag)
	w.Mu.Unlock()
	d, err := w.Repository.PutManifest(ctx, tag, m)
	if err == nil && w.After != nil {
		w.After(tag)
	}
	return d, err
}

// Fresh runs f on every kind of repository; each call of what f gets returns
// an empty one.
func Fresh(t *testing.T, f func(t *testing.T, next func() registry.Repository)) {
	open := func(t *testing.T, name func(n int) string) func() registry.Repository {
		n := 0
		return func() registry.Repository {
			n++
			r, err := registry.Open(name(n), registry.Options{Push: true})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
	}
	t.Run("oci", func(t *testing.T) {
		t.Parallel()
		f(t, open(t, func(int) string { return "oci:" + t.TempDir() }))
	})
	t.Run("ggcr", func(t *testing.T) {
		t.Parallel()
		addr := registrytest.GGCR(t)
		f(t, open(t, func(n int) string { return fmt.Sprintf("%s/a/b%d", addr, n) }))
	})
	t.Run("distribution", func(t *testing.T) {
		t.Parallel()
		addr := registrytest.NewDistribution(t).Addr
		f(t, open(t, func(n int) string { return fmt.Sprintf("%s/a/b%d", addr, n) }))
	})
}

// Open opens the cache in a directory.
func Open(t *testing.T, dir string) registry.Repository {
	t.Helper()
	repo, err := registry.Open("oci:"+dir, registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	return repo
}
