package gc

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/ui"
)

// A root of nixcache-oci over one of ours is repaired; a cache that is all
// nixcache-oci's is left to publish.
func TestReadRepairs(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	repo, err := registry.Open("oci:"+t.TempDir(), registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	overwrite := func() {
		t.Helper()
		idx, err := repo.PutBlob(ctx, []byte(`{"version":1,"entries":{},"gc_roots":[],"public_key":""}`))
		if err != nil {
			t.Fatal(err)
		}
		config, err := repo.PutBlob(ctx, []byte("{}\n"))
		if err != nil {
			t.Fatal(err)
		}
		const mediaType = "application/vnd.oci.image.manifest.v1+json"
		raw := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":3},`+
			`"layers":[{"mediaType":"application/vnd.nix.cache.index.v1+json","digest":%q,"size":%d}]}`, mediaType, config.Digest, idx.Digest, idx.Size)
		if _, err := repo.PutManifest(ctx, format.RootTag, registry.Manifest{MediaType: mediaType, Raw: []byte(raw)}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(dryRun bool) (*index.Snapshot, error) {
		c := &collector{
			cfg: config{DryRun: dryRun}, msg: ui.New(io.Discard, func(string) string { return "" }),
			cache: index.Open(repo, index.Options{Settle: time.Millisecond}),
		}
		return c.read(ctx)
	}
	overwrite()
	if _, err := read(false); !errors.Is(err, format.ErrForeign) {
		t.Errorf("without segments: got %v, want ErrForeign", err)
	}
	if _, _, err := index.Open(repo, index.Options{}).Adopt(ctx, index.AdoptOptions{}); err != nil {
		t.Fatal(err)
	}
	overwrite()
	if _, err := read(true); err == nil || !strings.Contains(hint.Of(err), "repair") {
		t.Errorf("a dry run with segments: got %v, want a hint", err)
	}
	if s, err := read(false); err != nil || s.Foreign() {
		t.Errorf("with segments: got %v", err)
	}
}
