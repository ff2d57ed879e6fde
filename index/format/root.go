package format

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// RootTag is the tag of the root; SegmentTagPrefix is what those of segments
// begin with.
const (
	RootTag          = "cache-index"
	SegmentTagPrefix = "segment-"
)

// Media types of what the index stores.
const (
	MediaSegment     = "application/vnd.nixoci.segment.v1"
	MediaEntries     = "application/vnd.nixoci.entries.v1+jsonl+zstd"
	MediaRoot        = "application/vnd.nixoci.root.v1"
	mediaSegmentList = "application/vnd.nixoci.segments.v1+json+zstd"
	mediaRetired     = "application/vnd.nixoci.retired.v1+json+zstd"
	mediaCompat      = "application/vnd.nixcache.index.v1+json"
	mediaPack        = "application/vnd.nixoci.pack.v1+"
	mediaNAR         = "application/vnd.nixoci.nar.v1"
	MediaExtras      = "application/vnd.nixoci.extras.v1+zstd"
	mediaEmpty       = "application/vnd.oci.empty.v1+json"
)

// Limits of a segment list, and of a list of what was replaced.
const (
	MaxSegmentListBlob = 32 << 20  // compressed, in bytes
	MaxSegmentList     = 256 << 20 // uncompressed, in bytes
)

// ErrForeign tells that the repository's cache-index was written by another
// program. It is left alone, unless that is nixcache-oci: see Adopt
// of package index.
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

// Same reports whether two names are for one segment.
func (s SegmentInfo) Same(o SegmentInfo) bool { return s.Manifest == o.Manifest }

// Retired is a segment that no longer counts, because another replaces it, or
// an old root. Its manifest may be deleted some time after Since.
type Retired struct {
	// Tag is the segment's tag; empty for a root.
	Tag      string    `json:"tag,omitempty"`
	Manifest v1.Hash   `json:"manifest"`
	Since    time.Time `json:"since"`
}

// SegmentList is the root's own layer.
type SegmentList struct {
	Version   int           `json:"version"`
	MinReader int           `json:"minReader"`
	Segments  []SegmentInfo `json:"segments"`
	Config    Config        `json:"config"`
}

// ParseSegmentList reads a segment list, compressed as it is stored. Its error is
// a *TooNewError if a newer program has to read it.
func ParseSegmentList(blob []byte) (SegmentList, error) {
	var list SegmentList
	raw, err := decompress(blob, UnpackedSize(blob, MaxSegmentList))
	if err != nil {
		return list, fmt.Errorf("decompressing the segment list: %w", err)
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return list, fmt.Errorf("decoding the segment list: %w", err)
	}
	if err := CheckVersion(list.Version, list.MinReader); err != nil {
		return list, err
	}
	for _, s := range list.Segments {
		if s.EntriesSize <= 0 || s.EntriesSize > MaxEntriesBlob || s.Tag == "" || invalidDigest(s.Manifest) || invalidDigest(s.Entries) {
			return list, fmt.Errorf("the segment list names segment %q as %s with %d bytes of entries in %s", s.Tag, s.Manifest, s.EntriesSize, s.Entries)
		}
	}
	return list, list.Config.Validate()
}

// ParseRetired reads a root's layer with what was replaced.
func ParseRetired(blob []byte) ([]Retired, error) {
	raw, err := decompress(blob, UnpackedSize(blob, MaxSegmentList))
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

// EncodeSegmentList makes the blob that ParseSegmentList reads.
func EncodeSegmentList(l SegmentList) ([]byte, error) {
	l.Version, l.MinReader = Version, Version
	raw, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	return compress(raw), nil
}
