package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/nixoci-action/internal/registry"
)

// A cache that nixcache-oci has made is served as it is: its NARs are blobs
// without a manifest, its index is one JSON document. The narinfos and NARs
// here are Nix's own.
func TestServesNixcacheOCI(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	flake := w.flake(flakeText(t.Name(), ""))
	files := filepath.Join(w.Dir, "files")
	w.Nix(t, flake, "copy", "--to", "file://"+files+"?compression=xz&secret-key="+w.keyFile, "path:"+flake+"#app")
	paths := strings.Fields(w.Env.Run(t, flake, "nix-store", "--query", "--requisites", w.Nix(t, flake, "eval", "--raw", "path:"+flake+"#app.outPath")))

	cache := inDistribution(t)
	repo, err := registry.Open(cache, registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) v1.Descriptor {
		t.Helper()
		d, err := repo.PutBlob(ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	entries := map[string]any{}
	for _, p := range paths {
		hashPart, name, _ := strings.Cut(filepath.Base(p), "-")
		narinfo, err := os.ReadFile(filepath.Join(files, hashPart+".narinfo"))
		if err != nil {
			t.Fatal(err)
		}
		_, url, _ := strings.Cut(string(narinfo), "URL: ")
		url, _, _ = strings.Cut(url, "\n")
		nar, err := os.ReadFile(filepath.Join(files, url))
		if err != nil {
			t.Fatal(err)
		}
		d := put(nar)
		entries[hashPart] = map[string]any{"name": name, "narinfo": string(narinfo), "nar_digest": d.Digest, "nar_size": d.Size, "added": "2026-01-02T03:04:05Z"}
	}
	index, err := json.Marshal(map[string]any{"version": 1, "entries": entries, "gc_roots": paths, "public_key": w.publicKey})
	if err != nil {
		t.Fatal(err)
	}
	layer, config := put(index), put([]byte("{}"))
	layer.MediaType, config.MediaType = "application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.empty.v1+json"
	manifest, err := json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config, Layers: []v1.Descriptor{layer}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.PutManifest(ctx, "cache-index", registry.Manifest{MediaType: string(types.OCIManifestSchema1), Raw: manifest}); err != nil {
		t.Fatal(err)
	}

	w.newClient(w.proxy(cache)).substitute(paths...)
	r := w.tryPublish(cache, "--upstream", "none", "--flake", flake)
	if r.code != 1 || !strings.Contains(r.stderr, "another program") {
		t.Errorf("publishing into it: got %d\n%s", r.code, r.stderr)
	}
}
