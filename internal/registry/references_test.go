package registry

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A collection of a directory overlooks no digest in a manifest, wherever it
// stands.
func FuzzParseReferences(f *testing.F) {
	hex := strings.Repeat("a1", 32)
	for _, seed := range []string{
		`{"layers":[{"digest":"sha256:` + hex + `"}]}`,
		`{"manifests":[{"digest":"sha256:` + hex + `"}]}`,
		`{"a":{"sha256:` + hex + `":["sha256:` + hex + `"]}}`,
		`{"manifests":[]}`, `null`, `[]`, `{"manifests":[{"digest":"md5:00"}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		refs, err := parseReferences(raw)
		if err != nil {
			return
		}
		for _, m := range refs.manifests {
			if m != (v1.Hash{}) && !slices.Contains(refs.blobs, m.Hex) {
				t.Errorf("the manifest %s is not kept", m)
			}
		}
		var all map[string]any
		if err := json.Unmarshal(raw, &all); err != nil {
			t.Fatal(err)
		}
		all["added"] = []any{map[string]any{"x": "sha256:" + hex}}
		more, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		refs, err = parseReferences(more)
		if err != nil || !slices.Contains(refs.blobs, hex) {
			t.Errorf("got %v, %v for %s", refs, err, more)
		}
	})
}
