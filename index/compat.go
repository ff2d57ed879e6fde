package index

import (
	"encoding/json"
	"slices"

	"github.com/org/nixoci-action/internal/storepath"
)

// maxCompatIndex is the largest number of entries that the root carries in
// nixcache-oci's format: that is one document of more than a kilobyte an entry,
// which is written again with every root.
const maxCompatIndex = 5000

// compat makes the first layer of a root with the entries of s, as the
// configuration asks for it.
func (w *Writer) compat(s *Snapshot, c Config) ([]byte, error) {
	idx := compatIndex{Version: 1, Entries: map[string]compatEntry{}, GCRoots: []string{}}
	if len(c.PublicKeys) > 0 {
		idx.PublicKey = c.PublicKeys[0]
	}
	if c.CompatIndex.On {
		entries := w.compatible(s)
		for _, e := range entries {
			idx.Entries[e.Path.HashPart] = newCompatEntry(&e)
		}
		if len(entries) > 0 {
			idx.GCRoots = s.compatRoots(idx.Entries)
		}
	}
	return json.Marshal(idx)
}

// compatible returns the entries that nixcache-oci's proxy can serve: it reads
// whole blobs only. What refers to others is left out, too, because a narinfo
// without one of its references breaks builds.
func (w *Writer) compatible(s *Snapshot) []Entry {
	whole := map[string]Entry{}
	packed := 0
	for e := range s.All {
		if e.NAR.Packed() {
			packed++
			continue
		}
		whole[e.Path.HashPart] = e
	}
	entries := Closed(whole, func(hashPart string) bool { return !s.Has(hashPart) })
	if len(entries) > maxCompatIndex {
		w.warn("the cache is too large for an index that nixcache-oci can read: it sees no paths", "paths", len(entries), "limit", maxCompatIndex)
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
// line has published, as far as the index has it: the newest complete one, and
// the newest partial one, which takes the place of none that is complete.
func (s *Snapshot) compatRoots(entries map[string]compatEntry) []string {
	type kind struct {
		line    string
		partial bool
	}
	newest := map[kind]Publication{}
	for _, p := range s.Publications() {
		k := kind{p.line(), p.Partial}
		if q, ok := newest[k]; !ok || !p.Time.Before(q.Time) {
			newest[k] = p
		}
	}
	roots := []string{}
	for _, p := range newest {
		for _, r := range p.Roots {
			if hashPart := r.Path[:min(len(r.Path), storepath.HashPartLen)]; entries[hashPart].Name != "" {
				roots = append(roots, hashPart)
			}
		}
	}
	slices.Sort(roots)
	return slices.Compact(roots)
}
