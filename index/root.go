package index

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

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
	mediaRetired     = "application/vnd.nixoci.retired.v1+json+zstd"
	mediaCompat      = "application/vnd.nixcache.index.v1+json"
	mediaPack        = "application/vnd.nixoci.pack.v1+"
	mediaNAR         = "application/vnd.nixoci.nar.v1"
	mediaExtras      = "application/vnd.nixoci.extras.v1+zstd"
	mediaEmpty       = "application/vnd.oci.empty.v1+json"
)

const (
	maxSegmentListBlob = 32 << 20  // compressed, in bytes
	maxSegmentList     = 256 << 20 // uncompressed, in bytes
)

// ErrForeign tells that the repository's cache-index was written by another
// program. It is left alone, unless that is nixcache-oci: see Adopt.
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
	// Count is the number of entries, Layers that of the blobs they name.
	Count   int       `json:"count"`
	Layers  int       `json:"layers"`
	Created time.Time `json:"created"`
}

// Retired is a segment that no longer counts, because another replaces it, or
// an old root. Its manifest may be deleted some time after Since.
type Retired struct {
	// Tag is the segment's tag; empty for a root.
	Tag      string    `json:"tag,omitempty"`
	Manifest v1.Hash   `json:"manifest"`
	Since    time.Time `json:"since"`
}

// segmentList is the root's own layer.
type segmentList struct {
	Version   int           `json:"version"`
	MinReader int           `json:"minReader"`
	Segments  []SegmentInfo `json:"segments"`
	Config    Config        `json:"config"`

	// retired is a layer of its own, which readers of the root do not need;
	// nil if it was not read.
	retired []Retired
	// foreign are the entries of nixcache-oci's index; nil for a root of ours.
	foreign *segment
	skipped []string // hash parts of entries there that cannot be used
	// oranc are the hash parts of oranc's narinfos, if the tags were listed.
	oranc []string

	// stub is the digest of the root's first layer, as far as it is known to
	// be in the repository.
	stub v1.Hash
	// form is the root's.
	form form

	// For writing: compat is the root's first layer; over, unless it is zero,
	// the digest of the only root that may be overwritten, or if hasty of the
	// only one of nixcache-oci.
	compat []byte
	over   v1.Hash
	hasty  bool
}

// readRoot reads the root, and its segment list unless the root is the one
// already known; the retired segments only if they are wanted. Its errors wrap
// registry.ErrNotFound if there is no root, ErrForeign if it is not ours.
//
// The manifest is fetched at once, without asking for its digest first: it is
// smaller than what a further request costs. Reserve is that of Options.
func readRoot(ctx context.Context, repo registry.Repository, known v1.Hash, retired bool, reserve func(int64) error) (v1.Hash, segmentList, error) {
	// layers may have been superseded and collected between the reads
	for try := 0; ; try++ {
		m, err := repo.Manifest(ctx, RootTag)
		if err != nil {
			return v1.Hash{}, segmentList{}, err
		}
		if m.Digest == known {
			return known, segmentList{}, nil
		}
		list, err := readLayers(ctx, repo, m, retired, reserve)
		if !errors.Is(err, registry.ErrNotFound) {
			return m.Digest, list, err
		}
		if try == 3 {
			return v1.Hash{}, list, fmt.Errorf("the cache index's layers are missing: %v", err) //nolint:errorlint // present root, so never "absent"
		}
	}
}

func readLayers(ctx context.Context, repo registry.Repository, m registry.Manifest, retired bool, reserve func(int64) error) (segmentList, error) {
	layers, err := rootLayers(m)
	if err != nil {
		return segmentList{}, err
	}
	if layers.foreign.Size > 0 {
		// the document, what is decoded of it, and the segment made of that
		if err := ask(reserve, 4*layers.foreign.Size); err != nil {
			return segmentList{}, err
		}
		return readForeign(ctx, repo, layers.foreign)
	}
	if err := ask(reserve, layers.segments.Size); err != nil {
		return segmentList{}, err
	}
	blob, err := readLayer(ctx, repo, layers.segments, maxSegmentListBlob)
	if err != nil {
		return segmentList{}, err
	}
	if err := ask(reserve, int64(unpackedSize(blob, maxSegmentList))); err != nil { //nolint:gosec // at most maxSegmentList
		return segmentList{}, err
	}
	list, err := parseSegmentList(blob)
	list.stub, list.form = layers.stub, layers.form
	if err != nil || !retired {
		return list, err
	}
	list.retired = []Retired{}
	if layers.retired.Size == 0 {
		return list, nil
	}
	if err := ask(reserve, layers.retired.Size); err != nil {
		return list, err
	}
	if blob, err = readLayer(ctx, repo, layers.retired, maxSegmentListBlob); err != nil {
		return list, err
	}
	if err := ask(reserve, int64(unpackedSize(blob, maxSegmentList))); err != nil { //nolint:gosec // at most maxSegmentList
		return list, err
	}
	list.retired, err = parseRetired(blob)
	return list, err
}

func readForeign(ctx context.Context, repo registry.Repository, d v1.Descriptor) (segmentList, error) {
	blob, err := readLayer(ctx, repo, d, maxForeignIndex)
	if err != nil {
		return segmentList{}, err
	}
	seg, skipped, err := parseForeign(blob)
	return segmentList{foreign: seg, skipped: skipped, retired: []Retired{}}, err
}

func readLayer(ctx context.Context, repo registry.Repository, d v1.Descriptor, limit int64) ([]byte, error) {
	if d.Size <= 0 || d.Size > limit {
		return nil, fmt.Errorf("a layer of the cache index has %d bytes", d.Size)
	}
	return registry.ReadBlob(ctx, repo, d.Digest, d.Size)
}

// rootManifest are the layers of a root.
type rootManifest struct {
	stub              v1.Hash
	segments, retired v1.Descriptor
	foreign           v1.Descriptor // if there is no segment list
	form              form
}

func rootLayers(m registry.Manifest) (rootManifest, error) {
	im, f, err := decodeManifest(m.Raw)
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

func parseSegmentList(blob []byte) (segmentList, error) {
	var list segmentList
	raw, err := decompress(blob, unpackedSize(blob, maxSegmentList))
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
	return list, list.Config.validate()
}

func parseRetired(blob []byte) ([]Retired, error) {
	raw, err := decompress(blob, unpackedSize(blob, maxSegmentList))
	if err != nil {
		return nil, fmt.Errorf("decompressing the retired segments: %w", err)
	}
	rs := []Retired{}
	if err := json.Unmarshal(raw, &rs); err != nil {
		return nil, fmt.Errorf("decoding the retired segments: %w", err)
	}
	for _, r := range rs {
		if invalidDigest(r.Manifest) {
			return nil, fmt.Errorf("the cache index names the retired segment %q as %s", r.Tag, r.Manifest)
		}
	}
	return rs, nil
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
