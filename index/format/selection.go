package format

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"regexp"
	"slices"

	"github.com/org/nixoci-action/internal/storepath"
)

// maxSelection bounds a selection's text; a longer one is recorded as its hash.
const maxSelection = 512

// Selection makes a publication's Selection of what tells it apart.
func Selection(v url.Values) string {
	s := v.Encode() // sorted
	if len(s) > maxSelection {
		sum := sha256.Sum256([]byte(s))
		return "sha256:" + hex.EncodeToString(sum[:])
	}
	return s
}

// SelectPaths is what tells apart publications of store paths: their series,
// if it has a name, else the packages, given by the base names of the paths.
func SelectPaths(series string, bases []string) url.Values {
	if series != "" {
		return url.Values{"series": {series}}
	}
	if names := packageNames(bases); len(names) > 0 {
		return url.Values{"package": names}
	}
	return url.Values{}
}

// version starts at the first dash that no letter follows.
var version = regexp.MustCompile(`-[^A-Za-z]`)

// packageNames are the sorted names of store paths without their versions, as
// Nix's parseDrvName takes them apart.
func packageNames(bases []string) []string {
	var names []string
	for _, b := range bases {
		p, err := storepath.ParseBase(b)
		if err != nil {
			continue // Nix will say what is wrong with it
		}
		name := p.Name
		if i := version.FindStringIndex(name); i != nil {
			name = name[:i[0]]
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
