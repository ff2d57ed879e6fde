package bincache

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixhash"

	"github.com/org/nixoci-action/internal/storepath"
)

// MaxNarinfo is the size in bytes up to which a narinfo is read.
const MaxNarinfo = 1 << 20

// Field is a line of a narinfo.
type Field struct{ Key, Value string }

// Fields are the lines of a narinfo, in their order.
type Fields []Field

// WriteField appends a line to a narinfo.
func WriteField(b *strings.Builder, key, value string) {
	b.WriteString(key)
	b.WriteString(": ")
	b.WriteString(value)
	b.WriteByte('\n')
}

// ParseNarinfo reads a narinfo that somebody else has written. What it returns is
// the same in the form in which Nix writes it, so that every supported version of
// Nix can parse each of its fields: one that it cannot parse makes Nix fail a
// build, where a missing narinfo would not.
//
// It is lenient where that changes nothing. Empty and repeated lines are passed
// over, unknown fields are kept. Signatures that nobody can verify are left out,
// and so are a FileHash, FileSize or Deriver that cannot be read: nothing depends
// on them. Anything else that Nix would not take is an error: a line that is none,
// two that contradict each other, a missing StorePath, URL, NarHash or NarSize, and
// a CA that Nix refuses. Without its CA a path would be another thing.
func ParseNarinfo(text string) (Fields, error) {
	fs := make(Fields, 0, 12)
	seen := make(map[string]string, 12)
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			if key == "" {
				continue
			}
			return nil, fmt.Errorf("a narinfo has the line %q", key)
		}
		value = strings.TrimSpace(value)
		if key == "Sig" { // early versions of oranc wrote all in one line
			for _, s := range Signatures(strings.Fields(value)) {
				fs = append(fs, Field{key, s})
			}
			continue
		}
		if old, ok := seen[key]; ok {
			if old != value {
				return nil, fmt.Errorf("a narinfo has two lines %q", key)
			}
			continue
		}
		seen[key] = value
		value, err := checkField(key, value)
		if err != nil {
			return nil, fmt.Errorf("a narinfo's %s: %w", key, err)
		}
		if value != "" || key == "References" {
			fs = append(fs, Field{key, value})
		}
	}
	for _, key := range []string{"StorePath", "URL", "NarHash", "NarSize"} {
		if !fs.Has(key) {
			return nil, fmt.Errorf("a narinfo has no %s", key)
		}
	}
	return fs, nil
}

// checkField returns a field's value as Nix writes it, or "" if the line is better
// left out.
func checkField(key, value string) (string, error) {
	switch key {
	case "StorePath":
		_, err := storepath.Parse(value)
		return value, err
	case "Compression":
		if value != "" && !slices.Contains(nixCompressions, value) {
			return "", fmt.Errorf("%q is none that every Nix knows", value)
		}
	case "FileHash":
		if _, err := parseHash(value); err != nil {
			return "", nil //nolint:nilerr // Nix compares it with nothing
		}
	case "FileSize":
		n, err := parseSize(value)
		if err != nil {
			return "", nil //nolint:nilerr // Nix compares it with nothing
		}
		return strconv.FormatInt(n, 10), nil
	case "NarHash":
		return ParseHash(value)
	case "NarSize":
		n, err := parseSize(value)
		if err == nil && n == 0 {
			err = errors.New("it is 0")
		}
		return strconv.FormatInt(n, 10), err
	case "References":
		refs := strings.Fields(value)
		for _, r := range refs {
			if _, err := storepath.ParseBase(r); err != nil {
				return "", err
			}
		}
		return strings.Join(refs, " "), nil
	case "Deriver":
		p, err := storepath.ParseBase(value[strings.LastIndexByte(value, '/')+1:])
		if err != nil {
			return "", nil //nolint:nilerr // as "unknown-deriver"
		}
		return p.Base(), nil
	case "CA":
		if value != "" {
			return value, CheckCA(value)
		}
	}
	return value, nil
}

// nixCompressions are those that every supported Nix decodes. On names that it does
// not know Nix 2.34 crashes.
var nixCompressions = []string{CompressionNone, CompressionZstd, CompressionXZ, CompressionBzip2, CompressionGzip, "br", "lz4"}

// parseSize takes a plus sign and leading zeros, as Nix does.
func parseSize(s string) (int64, error) {
	if strings.HasPrefix(s, "-") {
		return 0, fmt.Errorf("%q is no size", s)
	}
	return strconv.ParseInt(s, 10, 64)
}

// CheckCA makes sure that every supported Nix can parse a content address, without
// experimental features: "text:sha256:HASH", "fixed:HASH" or "fixed:r:HASH", with a
// hash in one of Nix's notations but that with a dash.
func CheckCA(ca string) error {
	hash, text := strings.CutPrefix(ca, "text:")
	fixed := false
	if !text {
		hash, fixed = strings.CutPrefix(ca, "fixed:")
		hash = strings.TrimPrefix(hash, "r:")
	}
	if (text || fixed) && strings.Contains(hash, ":") {
		if h, err := parseHash(hash); err == nil && (fixed || h.Algo() == nixhash.SHA256) {
			return nil
		}
	}
	return fmt.Errorf("%q is no content address that every Nix knows", ca)
}

// Signatures returns those signatures, "name:base64", that somebody could verify,
// each as Nix writes it. Nix 2.34 fails on some of the others, where older versions
// pass over them.
func Signatures(sigs []string) []string {
	var good []string
	for _, s := range sigs {
		name, text, _ := strings.Cut(s, ":")
		sig, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
		if name != "" && err == nil && len(sig) == ed25519.SignatureSize && Printable(s) {
			good = append(good, name+":"+base64.StdEncoding.EncodeToString(sig))
		}
	}
	return good
}

// Printable reports whether s is ASCII without spaces and control characters,
// as what stands in a line of a narinfo has to be.
func Printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func (fs Fields) index(key string) int {
	return slices.IndexFunc(fs, func(f Field) bool { return f.Key == key })
}

// Has reports whether there is a line with the key.
func (fs Fields) Has(key string) bool { return fs.index(key) >= 0 }

// Get returns the value of the first line with the key, or "".
func (fs Fields) Get(key string) string {
	if i := fs.index(key); i >= 0 {
		return fs[i].Value
	}
	return ""
}

// All returns the values of the lines with the key.
func (fs Fields) All(key string) []string {
	var values []string
	for _, f := range fs {
		if f.Key == key {
			values = append(values, f.Value)
		}
	}
	return values
}

// Set changes the value of the first line with the key, if there is one.
func (fs Fields) Set(key, value string) {
	if i := fs.index(key); i >= 0 {
		fs[i].Value = value
	}
}

// String is the narinfo.
func (fs Fields) String() string {
	n := 0
	for _, f := range fs {
		n += len(f.Key) + len(f.Value) + 3
	}
	var b strings.Builder
	b.Grow(n)
	for _, f := range fs {
		WriteField(&b, f.Key, f.Value)
	}
	return b.String()
}

// defaultPriority lets a cache be asked before cache.nixos.org, which has 40.
// Without the line Nix would take 0.
const defaultPriority = 30

// Info is what nix-cache-info says.
type Info struct {
	// StoreDir is the store directory, or "".
	StoreDir string
	// Priority of the substituter; 0 or less means that none was chosen.
	Priority int
}

// ParseInfo reads nix-cache-info. What cannot be read counts as absent.
func ParseInfo(text string) Info {
	var info Info
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch value = strings.TrimSpace(value); key {
		case "StoreDir":
			info.StoreDir = value
		case "Priority":
			info.Priority, _ = strconv.Atoi(value)
		}
	}
	return info
}

// String is nix-cache-info.
func (i Info) String() string {
	if i.Priority <= 0 {
		i.Priority = defaultPriority
	}
	return fmt.Sprintf("StoreDir: %s\nWantMassQuery: 1\nPriority: %d\n", i.StoreDir, i.Priority)
}
