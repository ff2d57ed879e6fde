package format

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/nix-community/go-nix/pkg/nixhash"

	"github.com/org/nixoci-action/internal/storepath"
)

// ParseNarinfo reads a narinfo that somebody else has written. Like Nix it
// passes over fields that it does not know, and takes hashes in any notation
// and fields in any order.
//
// What it says of the compressed NAR is not trusted, except that url is its
// URL: the entry has neither FileHash nor NAR. Only when they are filled in can
// it pass Validate, which checks the rest as well.
func ParseNarinfo(text string) (e Entry, url string, err error) {
	e.Compression = CompressionBzip2 // Nix's default
	seen := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			if key == "" {
				continue
			}
			return e, "", fmt.Errorf("a narinfo has the line %q", key)
		}
		value = strings.TrimSpace(value)
		if key == "Sig" {
			e.Signatures = append(e.Signatures, value)
			continue
		}
		if old, ok := seen[key]; ok && old != value {
			return e, "", fmt.Errorf("a narinfo has two lines %q", key)
		}
		seen[key] = value
	}
	var errs []error
	try := func(key string, set func(value string) error) {
		if err := set(seen[key]); err != nil {
			errs = append(errs, fmt.Errorf("a narinfo's %s: %w", key, err))
		}
	}
	try("StorePath", func(s string) (err error) { e.Path, err = storepath.Parse(s); return err })
	try("NarHash", func(s string) (err error) { e.NarHash, err = NixBase32(s); return err })
	try("NarSize", func(s string) (err error) { e.NarSize, err = strconv.ParseInt(s, 10, 64); return err })
	if c := seen["Compression"]; c != "" {
		e.Compression = c
	}
	e.References = strings.Fields(seen["References"])
	slices.Sort(e.References)
	e.References = slices.Compact(e.References)
	if d := seen["Deriver"]; d != "unknown-deriver" && d != "" {
		e.Deriver = path.Base(d)
	}
	e.CA = seen["CA"]
	return e, seen["URL"], errors.Join(errs...)
}

// NixBase32 converts a SHA-256 in any of Nix's notations.
func NixBase32(s string) (string, error) {
	h, err := nixhash.ParseAny(s, nil)
	if err != nil {
		return "", err
	}
	if h.Algo() != nixhash.SHA256 {
		return "", fmt.Errorf("%q is no SHA-256", s)
	}
	return "sha256:" + nixbase32.EncodeToString(h.Digest()), nil
}
