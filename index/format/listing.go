package format

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// listingNode is a file, link or directory in a listing.
type listingNode struct {
	Type    string                  `json:"type"`
	Size    int64                   `json:"size"`
	Offset  int64                   `json:"narOffset"`
	Entries map[string]*listingNode `json:"entries"`
}

// end is where the last of the files ends in the NAR, or -1 if one of them is
// nowhere.
func (n *listingNode) end() int64 {
	if n == nil { // as passed over below
		return 0
	}
	if n.Size < 0 || n.Offset < 0 || n.Size > math.MaxInt64-n.Offset {
		return -1
	}
	end := int64(0)
	if n.Type == "regular" {
		end = n.Offset + n.Size
	}
	for _, sub := range n.Entries {
		e := sub.end()
		if e < 0 {
			return -1
		}
		end = max(end, e)
	}
	return end
}

// CheckListing checks that a document from elsewhere is a listing as Nix writes
// it, and returns the ELF build IDs whose debug symbols it names, sorted, at
// most MaxBuildIDs. end is where the last file ends in the NAR, which is so
// many bytes long at least.
func CheckListing(doc []byte) (buildIDs []string, end int64, err error) {
	if len(doc) > MaxDocument {
		return nil, 0, fmt.Errorf("a listing of %d bytes", len(doc))
	}
	var l struct {
		Version int          `json:"version"`
		Root    *listingNode `json:"root"`
	}
	if err := json.Unmarshal(doc, &l); err != nil {
		return nil, 0, fmt.Errorf("reading a listing: %w", err)
	}
	if l.Version != 1 || l.Root == nil {
		return nil, 0, errors.New("reading a listing: it has no root, or not version 1")
	}
	if end = l.Root.end(); end < 0 {
		return nil, 0, errors.New("reading a listing: a file in it is nowhere in the NAR")
	}
	dir := l.Root
	for _, name := range []string{"lib", "debug", ".build-id"} {
		if dir = dir.Entries[name]; dir == nil {
			return nil, end, nil
		}
	}
	for _, first := range slices.Sorted(maps.Keys(dir.Entries)) {
		sub := dir.Entries[first]
		if sub == nil || len(first) != 2 {
			continue
		}
		for _, rest := range slices.Sorted(maps.Keys(sub.Entries)) {
			name, ok := strings.CutSuffix(rest, ".debug")
			if file := sub.Entries[rest]; ok && file != nil && file.Type == "regular" && ValidBuildID(first+name) && len(buildIDs) < MaxBuildIDs {
				buildIDs = append(buildIDs, first+name)
			}
		}
	}
	return buildIDs, end, nil
}
