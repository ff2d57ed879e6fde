package index

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// listingNode is a file, link or directory in a listing.
type listingNode struct {
	Type    string                  `json:"type"`
	Entries map[string]*listingNode `json:"entries"`
}

// CheckListing checks that a document from elsewhere is a listing as Nix writes
// it, and returns the ELF build IDs whose debug symbols it names, sorted, at
// most MaxBuildIDs.
func CheckListing(doc []byte) (buildIDs []string, err error) {
	if len(doc) > MaxDocument {
		return nil, fmt.Errorf("a listing of %d bytes", len(doc))
	}
	var l struct {
		Version int          `json:"version"`
		Root    *listingNode `json:"root"`
	}
	if err := json.Unmarshal(doc, &l); err != nil {
		return nil, fmt.Errorf("reading a listing: %w", err)
	}
	if l.Version != 1 || l.Root == nil {
		return nil, errors.New("reading a listing: it has no root, or not version 1")
	}
	dir := l.Root
	for _, name := range []string{"lib", "debug", ".build-id"} {
		if dir = dir.Entries[name]; dir == nil {
			return nil, nil
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
	return buildIDs, nil
}
