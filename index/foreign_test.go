package index_test

import (
	"context"
	"errors"
	"testing"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
)

// A cache of nixcache-oci is read as it is. What nobody could use of it is
// left out, and nothing is written to it.
func TestForeignCacheIsRead(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		ctx := context.Background()
		repo := open()
		a, b := indextest.NewEntry(t, repo, "a"), indextest.NewEntry(t, repo, "b")
		b.References, b.Deriver, b.Compression = []string{a.Path.Base()}, a.Path.Base(), bincache.CompressionXZ
		entry := func(e format.Entry, narinfo string) map[string]any {
			return map[string]any{"name": e.Path.Name, "narinfo": narinfo, "nar_digest": e.NAR.Blob.String(), "nar_size": e.NAR.BlobSize, "added": "2026-01-02T03:04:05Z"}
		}
		idx := map[string]any{
			"version": 1, "gc_roots": []string{}, "public_key": indextest.ForeignKey + "\n",
			"entries": map[string]any{
				a.Path.HashPart:                    entry(a, a.Narinfo()),
				b.Path.HashPart:                    entry(b, b.Narinfo()+"SomethingNew: 1\n"),
				"00000000000000000000000000000000": entry(a, a.Narinfo()), // of another path
				"11111111111111111111111111111111": entry(b, "no narinfo"),
			},
		}
		indextest.PutForeign(t, repo, idx)
		cache := index.Open(open(), indextest.Quick())
		s, err := cache.Refresh(ctx)
		if err != nil {
			t.Fatal(err)
		}
		indextest.Has(t, s, a, b)
		if s.Len() != 2 || !s.Foreign() || len(s.Config().PublicKeys) != 1 || len(s.Segments()) != 0 {
			t.Errorf("got %d entries, foreign %v, %+v, %v", s.Len(), s.Foreign(), s.Config(), s.Segments())
		}
		if again, err := cache.Refresh(ctx); err != nil || again != s {
			t.Errorf("unchanged: got a new snapshot, %v", err)
		}
		before, err := repo.Resolve(ctx, format.RootTag)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := indextest.Publish(t, repo, index.WriterOptions{}, indextest.NewEntry(t, repo, "c")); !errors.Is(err, format.ErrForeign) {
			t.Errorf("publishing: got %v, want ErrForeign", err)
		}
		if after, err := repo.Resolve(ctx, format.RootTag); err != nil || after != before {
			t.Errorf("the root was changed: %v", err)
		}
	})
}

// Where nixcache-oci has overwritten our root, readers still find what we had.
func TestForeignRootOverOurs(t *testing.T) {
	ctx := context.Background()
	repo, err := registry.Open("oci:"+t.TempDir(), registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	ours := indextest.NewEntry(t, repo, "ours")
	indextest.MustPublish(t, repo, ours)
	indextest.PutForeign(t, repo, map[string]any{"version": 1, "entries": map[string]any{}})
	s, err := index.Open(repo, indextest.Quick()).Refresh(ctx)
	if err != nil {
		t.Fatal(err)
	}
	indextest.Has(t, s, ours)
}
