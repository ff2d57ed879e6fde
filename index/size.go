package index

import (
	"unsafe"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/storepath"
)

// Memory estimates how many bytes of memory the snapshot holds, and what it
// shares with other snapshots of the same Cache. The tables that LookupNAR and
// LookupNARHash make on their first use are counted from the beginning, the
// first of them only, because a proxy needs no other.
func (s *Snapshot) Memory() int64 {
	n := int64(unsafe.Sizeof(*s))
	for _, seg := range s.segments {
		n += seg.Memory()
	}
	const entry = int64(storepath.HashPartLen + unsafe.Sizeof(Position{}))
	const file = int64(bincache.HashLen + unsafe.Sizeof(Position{}))
	const removal = int64(storepath.HashPartLen + 8)
	lines := 0
	for _, seg := range s.segments {
		lines += seg.Len()
	}
	return n + tableSize(lines, entry) + tableSize(len(s.entries), file) + tableSize(len(s.removed), removal)
}

// tableSize is what Go's maps take: groups of eight slots, as many as a power
// of two, of which seven eighths are used at most.
func tableSize(n int, slot int64) int64 {
	if n == 0 {
		return 0
	}
	slots := int64(8)
	for slots*7/8 < int64(n) {
		slots *= 2
	}
	return slots*slot + slots // a control byte each
}

// Total counts store paths and their sizes in bytes.
type Total struct {
	Paths    int   `json:"paths"`
	NarSize  int64 `json:"narSize"`
	FileSize int64 `json:"fileSize"`
}

// Add counts a store path with so many bytes, uncompressed and compressed.
func (t *Total) Add(narSize, fileSize int64) {
	t.Paths++
	t.NarSize += narSize
	t.FileSize += fileSize
}
