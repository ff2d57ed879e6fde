package index

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/nixoci-action/internal/hint"
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

// form is the form in which manifests are written.
func (c *Cache) form() form { return form(max(c.taken.Load()-1, 0)) }

// learn remembers a form that the registry has taken. None that is less plain is
// tried again.
func (c *Cache) learn(f form) {
	for {
		old := c.taken.Load()
		if int32(f)+1 <= old || c.taken.CompareAndSwap(old, int32(f)+1) {
			return
		}
	}
}

// putManifest writes a manifest under a tag, or if that is empty under its
// digest alone, in the first form that the registry does not refuse. Its blobs
// must be there, and the config of the present form.
func (c *Cache) putManifest(ctx context.Context, tag, kind string, layers []v1.Descriptor, created time.Time) (v1.Hash, error) {
	for f := c.form(); ; f++ {
		m, err := f.manifest(kind, layers, created)
		if err != nil {
			return v1.Hash{}, err
		}
		ref := tag
		if ref == "" {
			ref = digestOf(m.Raw).String()
		}
		digest, err := c.repo.PutManifest(ctx, ref, m)
		if err == nil {
			c.learn(f)
			return digest, nil
		}
		if !registry.Refused(err) {
			return v1.Hash{}, err
		}
		if f == formImage {
			return v1.Hash{}, hint.Wrap(fmt.Errorf("the registry refuses the cache's manifest in every form, that of a container image included: %w", err),
				"have the registry's administrator allow what its answer names, or name another registry with --cache")
		}
		c.opts.Logger.Info("the registry refuses a manifest, trying a plainer form", "error", err)
		now, _ := f.config()
		if next, b := (f + 1).config(); next.Digest != now.Digest {
			if _, err := c.repo.PutBlob(ctx, b); err != nil {
				return v1.Hash{}, err
			}
		}
	}
}

// Prepare proves that the repository can be written to, before work is done
// that a refusal would waste. It stores the config that every manifest of the
// index names. Where no root says in which form the registry takes manifests, it
// also stores one that is good for nothing: without a tag, and always the same
// one.
//
// For its errors registry.Denied or registry.Refused may be true: then another
// try would fail, too.
func (c *Cache) Prepare(ctx context.Context) error {
	if err := c.lookForForm(ctx); err != nil {
		return err
	}
	_, config := c.form().config()
	if _, err := c.repo.PutBlob(ctx, config); err != nil {
		return err
	}
	if c.taken.Load() == 0 {
		layers := []v1.Descriptor{
			{MediaType: mediaEntries},
			{MediaType: layerType(false, CompressionZstd)}, {MediaType: layerType(true, CompressionZstd)}, {MediaType: mediaExtras},
			{MediaType: mediaCompat}, {MediaType: mediaSegmentList}, {MediaType: mediaRetired},
		}
		for i := range layers {
			layers[i].Digest, layers[i].Size = emptyConfig.Digest, emptyConfig.Size
		}
		if _, err := c.putManifest(ctx, "", mediaSegment, layers, time.Unix(0, 0)); err != nil {
			return fmt.Errorf("finding out whether the registry takes a cache: %w", err)
		}
	}
	c.prepared.Store(true)
	return nil
}

// lookForForm learns the form of the root, unless some form is known.
func (c *Cache) lookForForm(ctx context.Context) error {
	if c.taken.Load() != 0 {
		return nil
	}
	m, err := c.repo.Manifest(ctx, RootTag)
	if errors.Is(err, registry.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if root, err := rootLayers(m); err == nil && root.foreign.Size == 0 {
		c.learn(root.form)
	}
	return nil // reading the index tells what is wrong with another root
}
