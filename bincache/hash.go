package bincache

import (
	"fmt"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/nix-community/go-nix/pkg/nixhash"
)

// The hashes of a binary cache are "sha256:" and HashLen digits of Nix base32
// in a narinfo, and the digits alone in a URL.
const (
	hashPrefix = "sha256:"
	// HashLen is the number of digits.
	HashLen = 52
)

// FormatHash writes a SHA-256.
func FormatHash(sum []byte) string { return hashPrefix + nixbase32.EncodeToString(sum) }

// HashOf is the hash with these digits.
func HashOf(digits string) string { return hashPrefix + digits }

// HashDigits returns a hash's digits.
func HashDigits(hash string) string { return strings.TrimPrefix(hash, hashPrefix) }

// ValidDigits reports whether s are the digits of a hash.
func ValidDigits(s string) bool { return len(s) == HashLen && nixbase32.ValidateString(s) == nil }

// CheckHash makes sure that s is what FormatHash writes.
func CheckHash(s string) error {
	if digits, ok := strings.CutPrefix(s, hashPrefix); !ok || !ValidDigits(digits) {
		return fmt.Errorf("%q is not sha256 in Nix base32", s)
	}
	return nil
}

// ParseHash reads a SHA-256 in any of Nix's notations, and writes it as
// FormatHash does.
func ParseHash(s string) (string, error) {
	h, err := parseHash(s)
	if err != nil {
		return "", err
	}
	if h.Algo() != nixhash.SHA256 {
		return "", fmt.Errorf("%q is no SHA-256", s)
	}
	return FormatHash(h.Digest()), nil
}

// parseHash reads a hash in any of Nix's notations, and of the algorithms that
// every Nix knows.
func parseHash(s string) (*nixhash.HashWithEncoding, error) {
	h, err := nixhash.ParseAny(s, nil)
	if err != nil {
		return nil, err
	}
	// base64 without padding may have a byte more, and line ends in it
	if len(h.Digest()) != h.Algo().Func().Size() || !Printable(s) {
		return nil, fmt.Errorf("%q is no hash", s)
	}
	return h, nil
}
