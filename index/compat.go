package index

import (
	"slices"
	"time"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/storepath"
)

// MaxCompatIndex is the largest number of entries that the root carries in
// nixcache-oci's format: that is one document of more than a kilobyte an entry,
// which is written again with every root.
const MaxCompatIndex = 5000

// compat makes the first layer of a root with the entries of s, as the
// configuration asks for it. It names one key, of those that are trusted.
func (w *Writer) compat(s *Snapshot, c format.Config) ([]byte, error) {
	var entries []format.Entry
	var roots []string
	var generated time.Time
	if c.CompatIndex.On {
		if entries = w.compatible(s); len(entries) > 0 {
			roots = s.compatRoots(entries)
		}
		for _, e := range entries { // and no segment that changes none
			if e.Added.After(generated) {
				generated = e.Added
			}
		}
	}
	key := ""
	if keys := w.cache.keyChain(c).Trusted; len(keys) > 0 {
		key = keys[0]
	}
	return format.EncodeCompat(entries, roots, key, generated)
}

// compatible returns the entries that nixcache-oci's proxy can serve: it reads
// whole blobs only. What refers to others is left out, too, because a narinfo
// without one of its references breaks builds.
func (w *Writer) compatible(s *Snapshot) []format.Entry {
	whole := map[string]format.Entry{}
	packed := 0
	for e := range s.All {
		if e.NAR.Packed() {
			packed++
			continue
		}
		whole[e.Path.HashPart] = e
	}
	entries := Closed(whole, func(hashPart string) bool { return !s.Has(hashPart) })
	if len(entries) > MaxCompatIndex {
		w.warn("the cache is too large for an index that nixcache-oci can read: it sees no paths", "paths", len(entries), "limit", MaxCompatIndex)
		return nil
	}
	if len(entries) < s.Len() {
		w.warn("nixcache-oci does not see paths whose NARs share a blob, and what refers to them", "paths", s.Len()-len(entries), "sharing", packed)
	}
	return entries
}

// warn says once what the compat index leaves out: the root is written often.
func (w *Writer) warn(msg string, args ...any) {
	if !w.warned {
		w.cache.opts.Logger.Warn(msg, args...)
	}
	w.warned = true
}

// compatRoots returns the hash parts of what the newest publication of each
// line has published, as far as it is among the entries: the newest complete one, and
// the newest partial one, which takes the place of none that is complete.
func (s *Snapshot) compatRoots(entries []format.Entry) []string {
	has := map[string]bool{}
	for i := range entries {
		has[entries[i].Path.HashPart] = true
	}
	type kind struct {
		line    string
		partial bool
	}
	newest := map[kind]format.Publication{}
	for _, p := range s.Publications() {
		k := kind{p.Line(), p.Partial}
		if q, ok := newest[k]; !ok || !p.Time.Before(q.Time) {
			newest[k] = p
		}
	}
	var roots []string
	for _, p := range newest {
		for _, r := range p.Roots {
			if hashPart := r.Path[:min(len(r.Path), storepath.HashPartLen)]; has[hashPart] {
				roots = append(roots, hashPart)
			}
		}
	}
	slices.Sort(roots)
	return slices.Compact(roots)
}
