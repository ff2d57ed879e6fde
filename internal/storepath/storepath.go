// Package storepath parses and checks Nix store paths.
//
// It takes what today's Nix takes, no more and no less: what comes from a
// network goes through it before it reaches a narinfo.
package storepath

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"path"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/nix-community/go-nix/pkg/nixhash"
)

const (
	// DefaultDir is the store directory of ordinary Nix installations.
	DefaultDir = "/nix/store"
	// HashPartLen is the length of a hash part in characters.
	HashPartLen = 32
	// maxNameLen is Nix's limit for the name after the dash.
	maxNameLen = 211
)

// Path is a store path: DIR/HASHPART-NAME.
type Path struct {
	// Dir is the store directory, without a trailing slash.
	Dir string
	// HashPart is the 32 Nix-base32 characters, the key of a cache lookup.
	HashPart string
	// Name is what follows the dash.
	Name string
}

// Parse parses an absolute store path, for example
// "/nix/store/<hash part>-hello-1.0". Paths below a store path are refused.
func Parse(s string) (Path, error) {
	i := strings.LastIndexByte(s, '/')
	if i <= 0 || s[0] != '/' {
		return Path{}, fmt.Errorf("%q is not an absolute store path", s)
	}
	p, err := ParseBase(s[i+1:])
	if err != nil {
		return Path{}, err
	}
	if p.Dir = s[:i]; !ValidDir(p.Dir) {
		return Path{}, fmt.Errorf("%q is not in a store directory", s)
	}
	return p, nil
}

// ValidDir reports whether s can be a store directory: an absolute path in its
// shortest form, without spaces and control characters, so that it fits a line.
func ValidDir(s string) bool {
	if s == "" || s[0] != '/' || path.Clean(s) != s {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// ParseBase parses a base name, "<hash part>-<name>". Dir is left empty.
func ParseBase(s string) (Path, error) {
	if len(s) < HashPartLen+2 || s[HashPartLen] != '-' {
		return Path{}, fmt.Errorf("%q is not the name of a store path", s)
	}
	p := Path{HashPart: s[:HashPartLen], Name: s[HashPartLen+1:]}
	if !ValidHashPart(p.HashPart) {
		return Path{}, fmt.Errorf("%q does not start with a hash part", s)
	}
	if err := validName(p.Name); err != nil {
		return Path{}, fmt.Errorf("%q: %w", s, err)
	}
	return p, nil
}

// ValidHashPart reports whether s is 32 characters of Nix base32.
func ValidHashPart(s string) bool {
	if len(s) != HashPartLen {
		return false
	}
	for i := range len(s) {
		if !nixbase32.Is(s[i]) {
			return false
		}
	}
	return true
}

func validName(s string) error {
	if len(s) > maxNameLen {
		return fmt.Errorf("name longer than %d characters", maxNameLen)
	}
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("+-._?=", c) >= 0 {
			continue
		}
		return fmt.Errorf("character %q is not allowed in a name", c)
	}
	// NixOS/nix#9867: nothing that could be taken for "." or ".."
	if first, _, _ := strings.Cut(s, "-"); first == "." || first == ".." {
		return fmt.Errorf("a name must not begin with %q", first)
	}
	return nil
}

// Base returns the base name, "<hash part>-<name>".
func (p Path) Base() string { return p.HashPart + "-" + p.Name }

// String returns the absolute path, or the base name where Dir is empty.
func (p Path) String() string {
	if p.Dir == "" {
		return p.Base()
	}
	return p.Dir + "/" + p.Base()
}

// Source returns where the sources with a NAR hash are that Nix fetches for a
// flake: "sha256-" and base64.
func Source(dir, narHash string) (Path, error) {
	text, ok := strings.CutPrefix(narHash, "sha256-")
	sum, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(sum) != sha256.Size {
		return Path{}, fmt.Errorf("%q is not the hash of a source", narHash)
	}
	fingerprint := sha256.Sum256(fmt.Appendf(nil, "source:sha256:%x:%s:source", sum, dir))
	return Path{Dir: dir, HashPart: nixbase32.EncodeToString(nixhash.CompressHash(fingerprint[:], 20)), Name: "source"}, nil
}
