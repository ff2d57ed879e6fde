package format

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Extras is what a cache may have of a store path besides its narinfo and its
// NAR. All of it is optional, and nothing depends on it. The zero value is
// nothing.
type Extras struct {
	// Listing is where the listing of the NAR's files is, in Nix's JSON, and
	// Log the log of the build, of the entry's Deriver. Both are documents, as
	// EncodeDocument makes them; a Size of 0 means that there is none.
	Listing, Log Location
	// BuildIDs are the ELF build IDs, 40 hex digits each, whose debug symbols
	// the path has in lib/debug/.build-id.
	BuildIDs []string
	// Realisations are the outputs of content-addressed derivations that are
	// this path.
	Realisations []Realisation
}

// Limits of what one entry may carry.
const (
	// MaxBuildIDs bounds an entry's build IDs.
	MaxBuildIDs     = 4096
	MaxRealisations = 256
)

// ValidateExtras checks every field.
func (x *Extras) ValidateExtras() error {
	for what, l := range map[string]Location{"listing": x.Listing, "log": x.Log} {
		if l == (Location{}) {
			continue
		}
		if invalidDigest(l.Blob) || !l.inBlob() || l.BlobSize > MaxExtrasBlob {
			return fmt.Errorf("%s at %d+%d in blob %s of %d bytes", what, l.Offset, l.Size, l.Blob, l.BlobSize)
		}
	}
	if len(x.BuildIDs) > MaxBuildIDs || len(x.Realisations) > MaxRealisations {
		return fmt.Errorf("%d build IDs and %d realisations", len(x.BuildIDs), len(x.Realisations))
	}
	for _, id := range x.BuildIDs {
		if !ValidBuildID(id) {
			return fmt.Errorf("build ID %q", id)
		}
	}
	for i := range x.Realisations {
		if err := x.Realisations[i].Validate(); err != nil {
			return err
		}
	}
	return nil
}

// ValidBuildID reports whether s is a build ID: 40 lower-case hex digits.
func ValidBuildID(s string) bool { return len(s) == 40 && isHex(s) }

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// DocumentLocations are where the entry's documents are.
func (x *Extras) DocumentLocations() []Location {
	var ls []Location
	for _, l := range []Location{x.Listing, x.Log} {
		if l.Size > 0 {
			ls = append(ls, l)
		}
	}
	return ls
}

// Blobs returns every blob that the entry names.
func (e *Entry) Blobs() []v1.Hash {
	bs := []v1.Hash{e.NAR.Blob}
	for _, l := range e.DocumentLocations() {
		bs = append(bs, l.Blob)
	}
	return bs
}

// DropDocuments drops the documents in the given blobs. It reports whether there
// were any.
func (x *Extras) DropDocuments(blobs []v1.Hash) bool {
	found := false
	for _, l := range []*Location{&x.Listing, &x.Log} {
		if l.Size > 0 && slices.Contains(blobs, l.Blob) {
			*l, found = Location{}, true
		}
	}
	return found
}

// Inherit takes over from an older entry of the same path what e lacks, if it
// is about the same contents.
func (e *Entry) Inherit(old *Entry) {
	if old.NarHash != e.NarHash {
		return
	}
	if e.Listing.Size == 0 {
		e.Listing = old.Listing
	}
	if len(e.BuildIDs) == 0 {
		e.BuildIDs = old.BuildIDs
	}
	if e.Log.Size == 0 && old.Deriver == e.Deriver {
		e.Log = old.Log
	}
	e.Realisations = mergeRealisations(e.Realisations, old.Realisations)
}

// Realise adds realisations to the entry, and their signatures to those that
// it has. It reports whether that changes anything.
func (e *Entry) Realise(rs ...Realisation) bool {
	merged := mergeRealisations(e.Realisations, rs)
	if slices.EqualFunc(merged, e.Realisations, Realisation.Equal) {
		return false
	}
	e.Realisations = merged
	return true
}

// DocumentLocation is where a document is. In an entry's line it takes little room:
// ["<64 hex digits>",<blobSize>,<offset>,<size>]
type DocumentLocation Location

// MarshalJSON writes the short form.
func (d DocumentLocation) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, 100)
	b = append(b, `["`...)
	b = append(b, d.Blob.Hex...)
	b = append(b, `",`...)
	b = strconv.AppendInt(b, d.BlobSize, 10)
	b = append(b, ',')
	b = strconv.AppendInt(b, d.Offset, 10)
	b = append(b, ',')
	b = strconv.AppendInt(b, d.Size, 10)
	return append(b, ']'), nil
}

// UnmarshalJSON takes what it does not understand for no document: the path
// can be served without.
func (d *DocumentLocation) UnmarshalJSON(b []byte) error {
	*d = DocumentLocation{}
	parts := bytes.Split(bytes.Trim(b, "[]"), []byte{','})
	if len(parts) != 4 || len(parts[0]) != 66 || !isHex(string(parts[0][1:65])) {
		return nil
	}
	var n [3]int64
	var errs [3]error
	for i, p := range parts[1:] {
		n[i], errs[i] = strconv.ParseInt(string(bytes.TrimSpace(p)), 10, 64)
	}
	if errors.Join(errs[:]...) == nil {
		*d = DocumentLocation{Blob: v1.Hash{Algorithm: "sha256", Hex: string(parts[0][1:65])}, BlobSize: n[0], Offset: n[1], Size: n[2]}
	}
	return nil
}
