package format

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/storepath"
)

// MaxForeignIndex bounds the index of another program, in bytes: it is one
// uncompressed document for the whole cache.
const MaxForeignIndex = 512 << 20

// foreignIndex is the index of nixcache-oci, format version 1: the only layer
// of its cache-index.
type foreignIndex struct {
	Version   int                     `json:"version"`
	Entries   map[string]foreignEntry `json:"entries"` // by hash part
	PublicKey string                  `json:"public_key"`
	Generated string                  `json:"generated"` // RFC 3339
}

// foreignEntry is one store path there, whose NAR is a blob of its own.
type foreignEntry struct {
	Narinfo   string `json:"narinfo"`
	NarDigest string `json:"nar_digest"`
	NarSize   int64  `json:"nar_size"` // of the blob, in bytes
	Added     any    `json:"added"`    // a time in RFC 3339, or seconds
}

// ParseForeign makes a segment of nixcache-oci's index, so that it is read like
// any other. Entries that no Nix could use are left out; skipped are their hash parts.
func ParseForeign(blob []byte) (seg *Segment, skipped []string, err error) {
	var idx foreignIndex
	if err := json.Unmarshal(blob, &idx); err != nil || idx.Version != 1 || idx.Entries == nil {
		return nil, nil, ErrForeign
	}
	h := Header{Version: Version, MinReader: Version}
	if keys := strings.Fields(idx.PublicKey); len(keys) > 0 { // it is a file's text
		h.Config.PublicKeys = keys
	}
	if h.Config.Validate() != nil {
		h.Config.PublicKeys = nil // a key that is none helps nobody
	}
	var entries []Entry
	for _, hashPart := range slices.Sorted(maps.Keys(idx.Entries)) {
		e, err := idx.Entries[hashPart].entry()
		if err == nil && len(entries) == 0 && e.Path.Dir != storepath.DefaultDir {
			h.Config.StoreDir = e.Path.Dir // its index does not say
		}
		if err != nil || e.Path.HashPart != hashPart || e.Path.Dir != h.Config.Dir() {
			skipped = append(skipped, hashPart)
			continue
		}
		entries = append(entries, e)
	}
	if err := h.Config.Validate(); err != nil {
		return nil, skipped, err
	}
	c, err := NewContent(entries)
	if err != nil {
		return nil, skipped, err
	}
	encoded, err := EncodeSegment(h, c.Lines)
	if err != nil {
		return nil, skipped, err
	}
	if seg, err = ParseSegment(encoded, func(int64) error { return nil }); err != nil {
		return nil, skipped, err
	}
	seg.Generated, _ = time.Parse(time.RFC3339, idx.Generated) // for people only
	return seg, skipped, nil
}

// entry reads the narinfo, of which only what Nix itself needs must be there.
func (f foreignEntry) entry() (Entry, error) {
	e, _, err := ParseNarinfo(f.Narinfo)
	if err != nil {
		return e, err
	}
	if e.NAR.Blob, err = v1.NewHash(f.NarDigest); err != nil {
		return e, err
	}
	// the blob's digest is what the file hash should be, whatever is written
	e.FileHash, err = bincache.ParseHash(f.NarDigest)
	e.NAR.BlobSize, e.NAR.Size = f.NarSize, f.NarSize
	switch added := f.Added.(type) { // else it is as old as can be
	case string:
		e.Added, _ = time.Parse(time.RFC3339, added)
	case float64:
		e.Added = time.Unix(int64(min(max(added, 0), 1<<33)), 0)
	}
	return e, errors.Join(err, e.Validate())
}

// compatIndex is an index in the format of nixcache-oci as we write it.
type compatIndex struct {
	Version   int                    `json:"version"`
	Entries   map[string]compatEntry `json:"entries"` // by hash part
	GCRoots   []string               `json:"gc_roots"`
	PublicKey string                 `json:"public_key"`
	Generated string                 `json:"generated,omitempty"`
}

type compatEntry struct {
	Name string `json:"name"`
	foreignEntry
}

// EncodeCompat makes the first layer of a root: an index in the format of
// nixcache-oci, whose readers find a cache without entries instead of an error
// if there are none. roots are the hash parts of what its collector keeps, and
// generated is when the entries have changed; zero leaves that out.
func EncodeCompat(entries []Entry, roots []string, publicKey string, generated time.Time) ([]byte, error) {
	idx := compatIndex{Version: 1, Entries: map[string]compatEntry{}, GCRoots: append([]string{}, roots...), PublicKey: publicKey}
	if !generated.IsZero() {
		idx.Generated = generated.UTC().Format(time.RFC3339)
	}
	for i := range entries {
		e := &entries[i]
		idx.Entries[e.Path.HashPart] = compatEntry{e.Path.Name, foreignEntry{
			Narinfo: e.Narinfo(), NarDigest: e.NAR.Blob.String(), NarSize: e.NAR.BlobSize,
			Added: e.Added.UTC().Format(time.RFC3339),
		}}
	}
	return json.Marshal(idx)
}
