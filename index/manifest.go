package index

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/nixoci-action/internal/registry"
)

// form is how a manifest says what it is. Some registries take only the media
// types that they know, so there are plainer forms. They say the same, and
// readers know them all.
type form int32

const (
	// formFull has an artifactType, and media types of our own.
	formFull form = iota
	// formUntyped has no artifactType. GitLab's registry takes it.
	formUntyped
	// formImage has the media types of a container image, and no others.
	formImage
)

// kindAnnotation has in plainer forms what is the artifactType in the full one.
const kindAnnotation = "vnd.nixoci.type"

// places are the media types of layers that readers look for, by the place that
// they have in each kind of manifest.
var places = map[string][]types.MediaType{
	mediaSegment: {mediaEntries},
	mediaRoot:    {mediaCompat, mediaSegmentList, mediaRetired},
}

// emptyConfigBytes is the config of manifests that are no images
// (image-spec, manifest.md, "guidance for an empty descriptor").
var emptyConfigBytes = []byte("{}")

var emptyConfig = describe(mediaEmpty, emptyConfigBytes)

// imageConfigBytes is the config of an image without contents. It has what
// image-spec requires, because registries that know images look into it.
var imageConfigBytes = []byte(`{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":[]}}`)

var imageConfig = describe(types.OCIConfigJSON, imageConfigBytes)

// config is the config that manifests of a form name.
func (f form) config() (v1.Descriptor, []byte) {
	if f == formImage {
		return imageConfig, imageConfigBytes
	}
	return emptyConfig, emptyConfigBytes
}

func isConfig(h v1.Hash) bool { return h == emptyConfig.Digest || h == imageConfig.Digest }

// manifest makes a manifest of a kind, mediaSegment or mediaRoot, in a form. The
// layers are given with the media types of the full form.
func (f form) manifest(kind string, layers []v1.Descriptor, created time.Time) (registry.Manifest, error) {
	m := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: kind, Layers: layers,
		Annotations: map[string]string{"org.opencontainers.image.created": created.UTC().Format(time.RFC3339)},
	}
	m.Config, _ = f.config()
	if f != formFull {
		m.ArtifactType, m.Annotations[kindAnnotation] = "", kind
	}
	if f == formImage {
		m.Layers = make([]v1.Descriptor, len(layers))
		for i, l := range layers {
			l.MediaType = imageLayer(l.MediaType)
			m.Layers[i] = l
		}
	}
	raw, err := json.Marshal(m)
	return registry.Manifest{MediaType: string(types.OCIManifestSchema1), Raw: raw}, err
}

// imageLayer is the media type of an image's layer with the same compression.
func imageLayer(t types.MediaType) types.MediaType {
	switch {
	case strings.HasSuffix(string(t), "+zstd"):
		return types.OCILayerZStd
	case strings.HasSuffix(string(t), "+gzip"):
		return types.OCILayer
	}
	return types.OCIUncompressedLayer
}

// decodeManifest decodes a manifest in any form, as if it were in the full one
// as far as readers look, and says which form it is.
func decodeManifest(raw []byte) (v1.Manifest, form, error) {
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, formFull, err
	}
	kind, ok := m.Annotations[kindAnnotation]
	if !ok || m.ArtifactType != "" {
		return m, formFull, nil
	}
	m.ArtifactType = kind
	if m.Config.MediaType != imageConfig.MediaType {
		return m, formUntyped, nil
	}
	for i, t := range places[kind] {
		if i < len(m.Layers) {
			m.Layers[i].MediaType = t
		}
	}
	return m, formImage, nil
}

// rootManifest are the layers of a root.
type rootManifest struct {
	stub              v1.Hash
	segments, retired v1.Descriptor
	foreign           v1.Descriptor // if there is no segment list
	form              form
}

// parseRoot decodes the manifest of a root. Its error is ErrForeign if that
// has no layers.
func parseRoot(raw []byte) (rootManifest, error) {
	im, f, err := decodeManifest(raw)
	if err != nil {
		return rootManifest{}, fmt.Errorf("decoding the cache index's manifest: %w", err)
	}
	r := rootManifest{form: f}
	for _, l := range im.Layers {
		switch l.MediaType {
		case mediaSegmentList:
			r.segments, r.stub = l, im.Layers[0].Digest
		case mediaRetired:
			r.retired = l
		}
	}
	switch {
	case r.segments.MediaType != "":
	case len(im.Layers) == 0:
		return r, ErrForeign
	default:
		r.foreign = im.Layers[0]
	}
	return r, nil
}

// newRoot makes the layers of a root, and their blobs. compat is the first.
func newRoot(compat []byte, list segmentList, replaced []Retired) ([]v1.Descriptor, [][]byte, error) {
	segments, err := encodeSegmentList(list)
	if err != nil {
		return nil, nil, err
	}
	blobs := [][]byte{compat, segments}
	layers := []v1.Descriptor{describe(mediaCompat, compat), describe(mediaSegmentList, segments)}
	if len(replaced) > 0 {
		retired, err := json.Marshal(replaced)
		if err != nil {
			return nil, nil, err
		}
		retired = compress(retired)
		blobs = append(blobs, retired)
		layers = append(layers, describe(mediaRetired, retired))
	}
	return layers, blobs, nil
}

func describe(mediaType types.MediaType, blob []byte) v1.Descriptor {
	return v1.Descriptor{MediaType: mediaType, Digest: digestOf(blob), Size: int64(len(blob))}
}

func digestOf(b []byte) v1.Hash {
	sum := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}
