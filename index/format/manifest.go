package format

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/registry"
)

// Form is how a manifest says what it is. Some registries take only the media
// types that they know, so there are plainer forms. They say the same, and
// readers know them all.
type Form int32

const (
	// FormFull has an artifactType, and media types of our own.
	FormFull Form = iota
	// FormUntyped has no artifactType. GitLab's registry takes it.
	FormUntyped
	// FormImage has the media types of a container image, and no others.
	FormImage
)

// kindAnnotation has in plainer forms what is the artifactType in the full one.
const kindAnnotation = "vnd.nixoci.type"

// places are the media types of layers that readers look for, by the place that
// they have in each kind of manifest.
var places = map[string][]types.MediaType{
	MediaSegment: {MediaEntries},
	MediaRoot:    {mediaCompat, mediaSegmentList, mediaRetired},
}

// emptyConfigBytes is the config of manifests that are no images
// (image-spec, manifest.md, "guidance for an empty descriptor").
var emptyConfigBytes = []byte("{}")

// EmptyConfig describes the config of manifests that are no images.
var EmptyConfig = describe(mediaEmpty, emptyConfigBytes)

// imageConfigBytes is the config of an image without contents. It has what
// image-spec requires, because registries that know images look into it.
var imageConfigBytes = []byte(`{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":[]}}`)

var imageConfig = describe(types.OCIConfigJSON, imageConfigBytes)

// Config is the config that manifests of a form name.
func (f Form) Config() (v1.Descriptor, []byte) {
	if f == FormImage {
		return imageConfig, imageConfigBytes
	}
	return EmptyConfig, emptyConfigBytes
}

// IsConfig reports whether a blob is the config of a form.
func IsConfig(h v1.Hash) bool { return h == EmptyConfig.Digest || h == imageConfig.Digest }

// Manifest makes a manifest of a kind, MediaSegment or MediaRoot, in a form. The
// layers are given with the media types of the full form, and source is the URL
// of the repository that they are of, or "".
func (f Form) Manifest(kind string, layers []v1.Descriptor, created time.Time, source string) (registry.Manifest, error) {
	m := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: kind, Layers: layers,
		Annotations: map[string]string{"org.opencontainers.image.created": created.UTC().Format(time.RFC3339)},
	}
	if source != "" {
		m.Annotations["org.opencontainers.image.source"] = source
	}
	m.Config, _ = f.Config()
	if f != FormFull {
		m.ArtifactType, m.Annotations[kindAnnotation] = "", kind
	}
	if f == FormImage {
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

// DecodeManifest decodes a manifest in any form, as if it were in the full one
// as far as readers look, and says which form it is.
func DecodeManifest(raw []byte) (v1.Manifest, Form, error) {
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, FormFull, err
	}
	kind, ok := m.Annotations[kindAnnotation]
	if !ok || m.ArtifactType != "" {
		return m, FormFull, nil
	}
	m.ArtifactType = kind
	if m.Config.MediaType != imageConfig.MediaType {
		return m, FormUntyped, nil
	}
	for i, t := range places[kind] {
		if i < len(m.Layers) {
			m.Layers[i].MediaType = t
		}
	}
	return m, FormImage, nil
}

// RootManifest are the layers of a root.
type RootManifest struct {
	Stub              v1.Hash // the first layer, if there is a segment list
	Segments, Retired v1.Descriptor
	Foreign           v1.Descriptor // if there is no segment list
	Form              Form
}

// ParseRoot decodes the manifest of a root. Its error is ErrForeign if that
// has no layers.
func ParseRoot(raw []byte) (RootManifest, error) {
	im, f, err := DecodeManifest(raw)
	if err != nil {
		return RootManifest{}, fmt.Errorf("decoding the cache index's manifest: %w", err)
	}
	r := RootManifest{Form: f}
	for _, l := range im.Layers {
		switch l.MediaType {
		case mediaSegmentList:
			r.Segments, r.Stub = l, im.Layers[0].Digest
		case mediaRetired:
			r.Retired = l
		}
	}
	switch {
	case r.Segments.MediaType != "":
	case len(im.Layers) == 0:
		return r, ErrForeign
	default:
		r.Foreign = im.Layers[0]
	}
	return r, nil
}

// NewRoot makes the layers of a root, and their blobs. compat is the first.
func NewRoot(compat []byte, list SegmentList, replaced []Retired) ([]v1.Descriptor, [][]byte, error) {
	segments, err := EncodeSegmentList(list)
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
	return v1.Descriptor{MediaType: mediaType, Digest: DigestOf(blob), Size: int64(len(blob))}
}

// DigestOf returns the digest of a blob.
func DigestOf(b []byte) v1.Hash {
	sum := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// EmptyLayers are an empty layer of each media type that the index stores: a
// registry that takes them takes a cache.
func EmptyLayers() []v1.Descriptor {
	layers := []v1.Descriptor{
		{MediaType: MediaEntries},
		{MediaType: LayerType(false, bincache.CompressionZstd)}, {MediaType: LayerType(true, bincache.CompressionZstd)}, {MediaType: MediaExtras},
		{MediaType: mediaCompat}, {MediaType: mediaSegmentList}, {MediaType: mediaRetired},
	}
	for i := range layers {
		layers[i].Digest, layers[i].Size = EmptyConfig.Digest, EmptyConfig.Size
	}
	return layers
}
