package oranc

import (
	"slices"
	"strings"

	"github.com/org/nixoci-action/internal/storepath"
)

// HashPart returns the hash part for which a key is the narinfo.
func HashPart(key string) (string, bool) {
	k, ok := strings.CutSuffix(key, ".narinfo")
	return k, ok && storepath.ValidHashPart(k)
}

// Paths returns the hash parts, sorted, of the narinfos among the files that
// tags are for.
func Paths(tags []string) []string {
	var paths []string
	for _, tag := range tags {
		if key, ok := Key(tag); ok {
			if hashPart, ok := HashPart(key); ok {
				paths = append(paths, hashPart)
			}
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}
