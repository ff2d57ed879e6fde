// Package oranc reads the names and manifests that oranc gives to the files of
// a binary cache in a registry. Each file has a key. The file is the one layer
// of a manifest, and the manifest's tag is the key, encoded. The package knows
// neither what narinfos say nor how a registry is asked.
//
// It follows https://github.com/linyinfeng/oranc, src/convert.rs and
// src/registry.rs.
package oranc

import (
	"encoding/base32"
	"strings"
	"unicode/utf8"
)

// digits are those of the code of a character in a tag.
const digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-."

// oldEncoding is that of tags before realisations: RFC 5155's base32, which
// writes small letters and no padding.
var oldEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// Tag returns the tag of a key. Letters, digits, and but at the start '-' and
// '.' stand for themselves; any other character is its code point in base 64
// between underscores: "nar/x" is "nar_L_x".
func Tag(key string) string {
	var b strings.Builder
	for i, r := range key {
		if strings.ContainsRune(digits, r) && (i > 0 || r != '-' && r != '.') {
			b.WriteRune(r)
			continue
		}
		code := ""
		for n := r; n > 0; n /= 64 {
			code = digits[n%64:][:1] + code
		}
		b.WriteString("_" + code + "_")
	}
	return b.String()
}

// OldTag returns the tag that older versions of oranc gave to a key.
func OldTag(key string) string { return oldEncoding.EncodeToString([]byte(key)) }

// Key returns the key of a tag in either encoding. It is false for what oranc
// never makes a tag of.
//
// A tag in the old encoding is also one in the newer, for a key of letters and
// digits alone. No file of a binary cache has such a name, and what Key returns
// for one in the newer encoding has no old one that could be meant.
func Key(tag string) (string, bool) {
	if raw, err := oldEncoding.DecodeString(tag); err == nil && isName(raw) && OldTag(string(raw)) == tag {
		return string(raw), true
	}
	return decode(tag)
}

// isName reports whether b can be the name of a file of a binary cache: it is
// text, with more than letters and digits in it.
func isName(b []byte) bool {
	special := false
	for _, c := range b {
		if c <= ' ' || c > '~' {
			return false
		}
		special = special || c == '.' || c == '/' || c == '-'
	}
	return special
}

// decode is the reverse of Tag.
func decode(tag string) (string, bool) {
	var b strings.Builder
	for rest := tag; rest != ""; {
		plain, code, coded := strings.Cut(rest, "_")
		b.WriteString(plain)
		if !coded {
			break
		}
		code, after, closed := strings.Cut(code, "_")
		r := rune(0)
		for _, c := range code {
			n := strings.IndexRune(digits, c)
			if n < 0 || r > utf8.MaxRune {
				return "", false
			}
			r = r*64 + rune(n) //nolint:gosec // n is below 64
		}
		if !closed || !utf8.ValidRune(r) {
			return "", false
		}
		b.WriteRune(r)
		rest = after
	}
	// each key has one tag
	return b.String(), b.Len() > 0 && Tag(b.String()) == tag
}
