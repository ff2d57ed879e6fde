// Package secret knows the secrets that a program has in hand, and finds them
// in what it is about to publish, store or print.
package secret

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"slices"
	"strings"
	"sync"
)

const (
	// MinLength is the least length in bytes of a secret that is looked for. A
	// shorter one is perhaps a word, which may be in any file.
	MinLength = 12
	// minRedacted is the same for Redact, where a word too many does no harm.
	minRedacted = 8
)

// Set is the secrets that a program has in hand, each with its kind: words such
// as "the signing key cache-1", which go into messages. The zero value is empty,
// and so is a nil *Set, to which nothing can be added. It is safe for concurrent
// use.
type Set struct {
	mu      sync.Mutex
	needles []needle
	finder  *finder // of the needles; nil if one was added since
}

type needle struct {
	kind string
	text []byte
	raw  bool // bytes that are no text
}

// Add adds secrets of one kind. Each line of a value is a secret of its own,
// without the spaces around it.
func (s *Set) Add(kind string, values ...string) {
	for _, v := range values {
		for line := range strings.Lines(v) {
			s.add(needle{kind: kind, text: []byte(strings.TrimSpace(line))})
		}
	}
}

// keySize is the size in bytes of a signing key's secret half, before the public
// one; keyDigits is how many digits of its base64 depend on nothing else.
const (
	keySize   = 32
	keyDigits = keySize * 8 / 6
)

// AddKeys adds signing keys, "name:base64", one a line. They are found in this
// form, as base64 alone, without the public half, and as bytes. A line that is
// no key is added as it is.
func (s *Set) AddKeys(text string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		name, digits, ok := strings.Cut(line, ":")
		if !ok {
			s.Add("a signing key", line)
			continue
		}
		kind := "the signing key " + name
		s.Add(kind, line, digits)
		if key, err := base64.StdEncoding.DecodeString(digits); err == nil && len(key) >= keySize {
			s.Add(kind, digits[:keyDigits])
			s.add(needle{kind: kind, text: key[:keySize], raw: true})
		}
	}
}

func (s *Set) add(n needle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(n.text) == 0 || slices.ContainsFunc(s.needles, func(o needle) bool { return bytes.Equal(o.text, n.text) }) {
		return
	}
	s.needles = append(s.needles, n)
	s.finder = nil
}

// Texts returns the secrets that are text, of at least 8 bytes, the longest
// first.
func (s *Set) Texts() []string {
	var all []string
	for _, n := range s.all() {
		if !n.raw && len(n.text) >= minRedacted {
			all = append(all, string(n.text))
		}
	}
	return all
}

// Redact returns b with *** in the place of each secret of at least 8 bytes. It
// may change b.
func (s *Set) Redact(b []byte) []byte {
	for _, n := range s.all() {
		if len(n.text) >= minRedacted {
			b = bytes.ReplaceAll(b, n.text, []byte("***"))
		}
	}
	return b
}

// all returns the secrets, the longest first: others may be parts of them.
func (s *Set) all() []needle {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedStableFunc(slices.Values(s.needles), func(a, b needle) int { return cmp.Compare(len(b.text), len(a.text)) })
}

// Find returns the kind of a secret of at least MinLength bytes in b.
func (s *Set) Find(b []byte) (kind string, found bool) {
	n := s.search().find(b)
	if n == nil {
		return "", false
	}
	return n.kind, true
}

// FoundError tells that there is a secret where none may be.
type FoundError struct {
	Kind string
}

func (e *FoundError) Error() string { return "it contains " + e.Kind }

func (s *Set) search() *finder {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finder == nil {
		s.finder = newFinder(s.needles)
	}
	return s.finder
}
