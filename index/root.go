package index

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/nixoci-action/internal/registry"
)

// RootTag is the tag of the root.
const RootTag = "cache-index"

// Media types of what the index stores.
const (
	mediaSegment     = "application/vnd.nixoci.segment.v1"
	mediaEntries     = "application/vnd.nixoci.entries.v1+jsonl+zstd"
	mediaRoot        = "application/vnd.nixoci.root.v1"
	mediaSegmentList = "application/vnd.nixoci.segments.v1+json+zstd"
	mediaCompat      = "application/vnd.nixcache.index.v1+json"
	mediaPack        = "application/vnd.nixoci.pack.v1+"
	mediaNAR         = "application/vnd.nixoci.nar.v1"
	mediaEmpty       = "application/vnd.oci.empty.v1+json"
)

const (
	maxSegmentListBlob = 32 << 20  // compressed, in bytes
	maxSegmentList     = 256 << 20 // uncompressed, in bytes
)

// ErrForeign tells that the repository's cache-index was written by another
// program. It is left alone.
var ErrForeign = errors.New("the repository holds an index of another program")

// SegmentInfo is what the root says of a segment: enough to fetch its entries
// blob and to know whether it still counts.
type SegmentInfo struct {
	Tag      string  `json:"tag"`
	Manifest v1.Hash `json:"manifest"`
	// Entries and EntriesSize are the entries blob's digest and size in
	// bytes, as stored.
	Entries     v1.Hash `json:"entries"`
	EntriesSize int64   `json:"entriesSize"`
	// Count is the number of entries.
	Count    int       `json:"count"`
	Created  time.Time `json:"created"`
	Replaces []v1.Hash `json:"replaces,omitempty"`
}

// Retired is a segment that no longer counts and whose manifest may be
// deleted some time after Since.
type Retired struct {
	Tag      string    `json:"tag"`
	Manifest v1.Hash   `json:"manifest"`
	Since    time.Time `json:"since"`
}

// segmentList is the root's own layer.
type segmentList struct {
	Version   int           `json:"version"`
	MinReader int           `json:"minReader"`
	Segments  []SegmentInfo `json:"segments"`
	Retired   []Retired     `json:"retired,omitempty"`
	Config    Config        `json:"config"`

	// stub is the digest of the root's first layer, as far as it is known to
	// be in the repository.
	stub v1.Hash
}

func newManifest(artifactType string, layers []v1.Descriptor, created time.Time) (registry.Manifest, error) {
	raw, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: artifactType,
		Config: emptyConfig, Layers: layers,
		Annotations: map[string]string{"org.opencontainers.image.created": created.UTC().Format(time.RFC3339)},
	})
	return registry.Manifest{MediaType: string(types.OCIManifestSchema1), Raw: raw}, err
}

// emptyConfigBytes is the config of manifests that are no images
// (image-spec, manifest.md, "guidance for an empty descriptor").
var emptyConfigBytes = []byte("{}")

var emptyConfig = v1.Descriptor{
	MediaType: mediaEmpty, Size: 2,
	Digest: v1.Hash{Algorithm: "sha256", Hex: "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},
}

// readRoot reads the root, and its segment list unless the root is the one
// already known. Its errors wrap registry.ErrNotFound if there is none,
// ErrForeign if it is not ours.
//
// The manifest is fetched at once, without asking for its digest first: it is
// smaller than what a further request costs.
func readRoot(ctx context.Context, repo registry.Repository, known v1.Hash) (v1.Hash, segmentList, error) {
	var list segmentList
	// the list may have been superseded and collected between the two reads
	for try := 0; ; try++ {
		m, err := repo.Manifest(ctx, RootTag)
		if err != nil {
			return v1.Hash{}, list, err
		}
		if m.Digest == known {
			return known, list, nil
		}
		layer, stub, err := rootLayers(m)
		if err != nil {
			return v1.Hash{}, list, err
		}
		blob, err := registry.ReadBlob(ctx, repo, layer.Digest, layer.Size)
		if errors.Is(err, registry.ErrNotFound) {
			if try < 3 {
				continue
			}
			return v1.Hash{}, list, fmt.Errorf("the cache index's segment list is missing: %v", err) //nolint:errorlint // present root, so never "absent"
		}
		if err != nil {
			return v1.Hash{}, list, err
		}
		list, err = parseSegmentList(blob)
		list.stub = stub
		return m.Digest, list, err
	}
}

// rootLayers returns the segment list's layer and the stub's digest.
func rootLayers(m registry.Manifest) (v1.Descriptor, v1.Hash, error) {
	var im v1.Manifest
	if err := json.Unmarshal(m.Raw, &im); err != nil {
		return v1.Descriptor{}, v1.Hash{}, fmt.Errorf("decoding the cache index's manifest: %w", err)
	}
	for _, l := range im.Layers {
		if l.MediaType != mediaSegmentList {
			continue
		}
		if l.Size <= 0 || l.Size > maxSegmentListBlob {
			return v1.Descriptor{}, v1.Hash{}, fmt.Errorf("the cache index's segment list has %d bytes", l.Size)
		}
		return l, im.Layers[0].Digest, nil
	}
	return v1.Descriptor{}, v1.Hash{}, ErrForeign
}

func parseSegmentList(blob []byte) (segmentList, error) {
	var list segmentList
	raw, err := decompress(blob, maxSegmentList)
	if err != nil {
		return list, fmt.Errorf("decompressing the segment list: %w", err)
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return list, fmt.Errorf("decoding the segment list: %w", err)
	}
	if err := checkVersion(list.Version, list.MinReader); err != nil {
		return list, err
	}
	for _, s := range list.Segments {
		if s.EntriesSize <= 0 || s.EntriesSize > maxEntriesBlob || s.Tag == "" || invalidDigest(s.Manifest) || invalidDigest(s.Entries) {
			return list, fmt.Errorf("the segment list names segment %q as %s with %d bytes of entries in %s", s.Tag, s.Manifest, s.EntriesSize, s.Entries)
		}
	}
	for _, s := range list.Segments {
		if slices.ContainsFunc(s.Replaces, invalidDigest) {
			return list, fmt.Errorf("the segment list says that segment %q replaces what is no digest", s.Tag)
		}
	}
	for _, r := range list.Retired {
		if invalidDigest(r.Manifest) {
			return list, fmt.Errorf("the segment list names the retired segment %q as %s", r.Tag, r.Manifest)
		}
	}
	return list, list.Config.validate()
}

// invalidDigest tells of what would not survive being written and read again.
func invalidDigest(h v1.Hash) bool {
	_, err := v1.NewHash(h.String())
	return err != nil || h.Algorithm != "sha256"
}

func encodeSegmentList(l segmentList) ([]byte, error) {
	l.Version, l.MinReader = formatVersion, formatVersion
	raw, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	return compress(raw), nil
}
