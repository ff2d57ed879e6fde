package page

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
)

// A cache of nixcache-oci is shown as it is. No collection of ours would touch
// it, so none is announced.
func TestForeignCache(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	lib := f.entry("lib-1")
	app := f.entry("app-1", lib.Path.Base())
	entries := map[string]any{}
	for _, e := range []*format.Entry{&lib, &app} {
		blob, err := f.repo.PutBlob(t.Context(), f.random(1000))
		if err != nil {
			t.Fatal(err)
		}
		e.NAR = format.Location{Blob: blob.Digest, BlobSize: blob.Size, Size: blob.Size}
		entries[e.Path.HashPart] = map[string]any{"name": e.Path.Name, "narinfo": e.Narinfo(), "nar_digest": blob.Digest.String(), "nar_size": blob.Size, "added": "2026-01-02T03:04:05Z"}
	}
	text, err := json.Marshal(map[string]any{"version": 1, "repo": "o/r", "entries": entries, "gc_roots": []string{}, "public_key": testKey})
	if err != nil {
		t.Fatal(err)
	}
	put := func(body []byte, mediaType types.MediaType) v1.Descriptor {
		d, err := f.repo.PutBlob(t.Context(), body)
		if err != nil {
			t.Fatal(err)
		}
		d.MediaType = mediaType
		return d
	}
	raw, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: put([]byte("{}"), "application/vnd.oci.empty.v1+json"),
		Layers: []v1.Descriptor{put(text, "application/vnd.oci.image.layer.v1.tar")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.repo.PutManifest(t.Context(), format.RootTag, registry.Manifest{MediaType: string(types.OCIManifestSchema1), Raw: raw}); err != nil {
		t.Fatal(err)
	}
	p := f.page()
	seen := crawl(t, "http://cache.test/", func(u *url.URL) (int, string) { return get(t, mounted(p), u.String()) })
	if body := seen["/"]; !strings.Contains(body, "2 store paths") || !strings.Contains(body, testKey) || strings.Contains(body, "would remove") {
		t.Errorf("got %s", body)
	}
	if body := seen["/_page/path/"+lib.Path.HashPart]; !strings.Contains(body, "Kept: nixcache-oci") || !strings.Contains(body, "app-1") {
		t.Errorf("got %s", body)
	}
	s, err := p.Summary(t.Context())
	if err != nil || s.Removable.Paths != 0 || s.Paths.Paths != 2 {
		t.Errorf("got %+v, %v", s, err)
	}
}
