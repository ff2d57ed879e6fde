package index

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/registry"
)

// putForeign writes a root as nixcache-oci does.
func putForeign(t *testing.T, repo registry.Repository, idx map[string]any) {
	t.Helper()
	ctx := context.Background()
	b, err := json.Marshal(idx)
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range [][]byte{b, emptyConfigBytes} {
		if _, err := repo.PutBlob(ctx, blob); err != nil {
			t.Fatal(err)
		}
	}
	sum, size, err := sha(b)
	if err != nil {
		t.Fatal(err)
	}
	m, err := newManifest("", []v1.Descriptor{{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: sum, Size: size}}, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.PutManifest(ctx, RootTag, m); err != nil {
		t.Fatal(err)
	}
}

// foreignIndexOf is nixcache-oci's index of entries, with their times.
func foreignIndexOf(entries ...Entry) map[string]any {
	m := map[string]any{}
	for _, e := range entries {
		m[e.Path.HashPart] = map[string]any{
			"name": e.Path.Name, "narinfo": e.Narinfo(), "nar_digest": e.NAR.Blob.String(), "nar_size": e.NAR.BlobSize,
			"added": e.Added.UTC().Format(time.RFC3339),
		}
	}
	return map[string]any{"version": 1, "repo": "o/r", "entries": m, "gc_roots": []string{}, "public_key": foreignKey}
}

const foreignKey = "k-1:KfkQg/uPdyL8LgT8v2igbxY2zG5MuLqz1WHmWbX0J1A="

// A cache of nixcache-oci is read as it is. What nobody could use of it is
// left out, and nothing is written to it.
func TestForeignCacheIsRead(t *testing.T) {
	backends(t, func(t *testing.T, open func() registry.Repository) {
		ctx := context.Background()
		repo := open()
		a, b := newEntry(t, repo, "a"), newEntry(t, repo, "b")
		b.References, b.Deriver, b.Compression = []string{a.Path.Base()}, a.Path.Base(), CompressionXZ
		entry := func(e Entry, narinfo string) map[string]any {
			return map[string]any{"name": e.Path.Name, "narinfo": narinfo, "nar_digest": e.NAR.Blob.String(), "nar_size": e.NAR.BlobSize, "added": "2026-01-02T03:04:05Z"}
		}
		idx := map[string]any{
			"version": 1, "gc_roots": []string{}, "public_key": foreignKey + "\n",
			"entries": map[string]any{
				a.Path.HashPart:                    entry(a, a.Narinfo()),
				b.Path.HashPart:                    entry(b, b.Narinfo()+"SomethingNew: 1\n"),
				"00000000000000000000000000000000": entry(a, a.Narinfo()), // of another path
				"11111111111111111111111111111111": entry(b, "no narinfo"),
			},
		}
		putForeign(t, repo, idx)
		cache := Open(open(), quick())
		s, err := cache.Refresh(ctx)
		if err != nil {
			t.Fatal(err)
		}
		has(t, s, a, b)
		if s.Len() != 2 || !s.Foreign() || len(s.Config().PublicKeys) != 1 || len(s.Segments()) != 0 {
			t.Errorf("got %d entries, foreign %v, %+v, %v", s.Len(), s.Foreign(), s.Config(), s.Segments())
		}
		if again, err := cache.Refresh(ctx); err != nil || again != s {
			t.Errorf("unchanged: got a new snapshot, %v", err)
		}
		before, err := repo.Resolve(ctx, RootTag)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := publish(t, repo, WriterOptions{}, newEntry(t, repo, "c")); !errors.Is(err, ErrForeign) {
			t.Errorf("publishing: got %v, want ErrForeign", err)
		}
		if after, err := repo.Resolve(ctx, RootTag); err != nil || after != before {
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
	ours := newEntry(t, repo, "ours")
	mustPublish(t, repo, ours)
	putForeign(t, repo, map[string]any{"version": 1, "entries": map[string]any{}})
	s, err := Open(repo, quick()).Refresh(ctx)
	if err != nil {
		t.Fatal(err)
	}
	has(t, s, ours)
}

func FuzzForeignIndex(f *testing.F) {
	f.Add([]byte(`{"version":1,"entries":{"00000000000000000000000000000000":{"narinfo":"StorePath: /nix/store/00000000000000000000000000000000-x\nNarHash: sha256:0000000000000000000000000000000000000000000000000000\nNarSize: 1\nCompression: xz\nSig: a","nar_digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","nar_size":2}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		seg, _, err := parseForeign(b)
		if err != nil {
			return
		}
		for e := range newSnapshot(v1.Hash{}, segmentList{foreign: seg}, []*segment{seg}, nil).All {
			if err := e.Validate(); err != nil {
				t.Error(err)
			}
		}
	})
}

func sha(b []byte) (v1.Hash, int64, error) { return v1.SHA256(bytes.NewReader(b)) }
