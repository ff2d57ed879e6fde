// Package oranctest fills repositories as oranc does, for tests: as its
// src/registry.rs, src/push.rs and src/convert.rs say.
package oranctest

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/registry"
)

// Put stores a file under a tag.
func Put(tb testing.TB, repo registry.Repository, tag, key, contentType string, data []byte) v1.Descriptor {
	tb.Helper()
	ctx := context.Background()
	put := func(b []byte) v1.Descriptor {
		d, err := repo.PutBlob(ctx, b)
		if err != nil {
			tb.Fatal(err)
		}
		return d
	}
	layer := put(data)
	config := put([]byte(`{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":["` + layer.Digest.String() + `"]}}`))
	config.MediaType = types.OCIConfigJSON
	layer.MediaType = "application/octet-stream"
	layer.Annotations = map[string]string{"com.linyinfeng.oranc.content.type": contentType}
	raw, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config, Layers: []v1.Descriptor{layer},
		Annotations: map[string]string{"com.linyinfeng.oranc.key": key, "org.opencontainers.image.description": key},
	})
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := repo.PutManifest(ctx, tag, registry.Manifest{MediaType: string(types.OCIManifestSchema1), Raw: raw}); err != nil {
		tb.Fatal(err)
	}
	return layer
}

// Copy stores all files of a binary cache that Nix has made in a folder, as
// oranc's server does when Nix copies the same to it.
func Copy(tb testing.TB, repo registry.Repository, dir string, tag func(key string) string) {
	tb.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		key, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil || len(data) == 0 {
			return err
		}
		contentType := "application/octet-stream"
		switch bincache.Parse(key).Kind {
		case bincache.Narinfo:
			contentType = "text/x-nix-narinfo"
		case bincache.NAR:
			contentType = "application/x-nix-nar"
		case bincache.CacheInfo:
			contentType = "text/x-nix-cache-info"
		}
		Put(tb, repo, tag(key), key, contentType, data)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
}
