package indextest

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
)

// ForeignKey is the public key in ForeignIndexOf.
const ForeignKey = "k-1:KfkQg/uPdyL8LgT8v2igbxY2zG5MuLqz1WHmWbX0J1A="

// Sha is the digest of b, and its size.
func Sha(b []byte) (v1.Hash, int64, error) { return v1.SHA256(bytes.NewReader(b)) }

// PutForeign writes a root as nixcache-oci does.
func PutForeign(t *testing.T, repo registry.Repository, idx map[string]any) {
	t.Helper()
	ctx := context.Background()
	b, err := json.Marshal(idx)
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range [][]byte{b, []byte("{}")} {
		if _, err := repo.PutBlob(ctx, blob); err != nil {
			t.Fatal(err)
		}
	}
	sum, size, err := Sha(b)
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewManifest("", []v1.Descriptor{{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: sum, Size: size}}, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.PutManifest(ctx, format.RootTag, m); err != nil {
		t.Fatal(err)
	}
}

// ForeignIndexOf is nixcache-oci's index of entries, with their times.
func ForeignIndexOf(entries ...format.Entry) map[string]any {
	m := map[string]any{}
	for _, e := range entries {
		m[e.Path.HashPart] = map[string]any{
			"name": e.Path.Name, "narinfo": e.Narinfo(), "nar_digest": e.NAR.Blob.String(), "nar_size": e.NAR.BlobSize,
			"added": e.Added.UTC().Format(time.RFC3339),
		}
	}
	return map[string]any{"version": 1, "repo": "o/r", "entries": m, "gc_roots": []string{}, "public_key": ForeignKey}
}
