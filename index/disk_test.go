package index_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

func TestDiskCopyServesWithoutRegistry(t *testing.T) {
	ctx := context.Background()
	dist := registrytest.NewDistribution(t)
	o := indextest.Quick()
	o.Dir = t.TempDir()
	repo, err := registry.Open(dist.Addr+"/a/b", registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := index.Open(repo, o).Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no copy: got %v", err)
	}
	a := indextest.NewEntry(t, repo, "a")
	indextest.MustPublish(t, repo, a)
	if _, err := index.Open(repo, o).Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	dist.Stop()
	s, err := index.Open(repo, o).Load()
	if err != nil {
		t.Fatal(err)
	}
	indextest.Has(t, s, a)

	// a damaged copy is noticed, not served
	files, err := filepath.Glob(filepath.Join(o.Dir, "index", "*", "entries-*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("got %v, %v", files, err)
	}
	if err := os.WriteFile(files[0], []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := index.Open(repo, o).Load(); err == nil {
		t.Error("a damaged copy was served")
	}
	dist.Start(t)
	if s, err = index.Open(repo, o).Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	indextest.Has(t, s, a)
}
