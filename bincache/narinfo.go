package bincache

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
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

// ParseNarinfo reads the lines of a narinfo that somebody else has written.
// It passes over empty ones, and over repeated ones but for Sig. Two that
// contradict each other are an error, and so is what is no line of a narinfo.
// Which lines there must be, and what they may say, is for the caller to check.
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
		if old, ok := seen[key]; ok && key != "Sig" {
			if old != value {
				return nil, fmt.Errorf("a narinfo has two lines %q", key)
			}
			continue
		}
		seen[key] = value
		fs = append(fs, Field{key, value})
	}
	return fs, nil
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
