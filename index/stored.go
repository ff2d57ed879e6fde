package index

import "github.com/org/nixoci-action/index/format"

// Stored returns the size in bytes, compressed, of all NARs in the cache: of
// each blob that an entry names, once.
func (s *Snapshot) Stored() int64 {
	type key [64]byte // hex
	seen := make(map[key]bool, len(s.entries))
	size := int64(0)
	for _, p := range s.entries {
		blob, n, ok := format.LineBlob(s.segments[p.Segment].Line(int(p.Line)))
		if !ok || len(blob) != len(key{}) || seen[key(blob)] {
			continue
		}
		seen[key(blob)] = true
		size += n
	}
	return size
}
