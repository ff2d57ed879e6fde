package index

import (
	"unsafe"

	"github.com/klauspost/compress/zstd"

	"github.com/org/nixoci-action/internal/storepath"
)

// Memory estimates how many bytes of memory the snapshot holds, and what it
// shares with other snapshots of the same Cache. The tables that LookupNAR and
// LookupNARHash make on their first use are counted from the beginning, the
// first of them only, because a proxy needs no other.
func (s *Snapshot) Memory() int64 {
	n := int64(unsafe.Sizeof(*s))
	for _, seg := range s.segments {
		n += seg.memory()
	}
	const entry = int64(storepath.HashPartLen + unsafe.Sizeof(position{}))
	const file = int64(hashLen + unsafe.Sizeof(position{}))
	const removal = int64(storepath.HashPartLen + 8)
	lines := 0
	for _, seg := range s.segments {
		lines += len(seg.lines)
	}
	return n + tableSize(lines, entry) + tableSize(len(s.entries), file) + tableSize(len(s.removed), removal)
}

func (s *segment) memory() int64 {
	const line = int64(unsafe.Sizeof(span{}) + 8)
	n := int64(unsafe.Sizeof(*s)) + int64(cap(s.data)) + int64(cap(s.lines))*line
	for _, p := range s.header.Publications {
		n += int64(unsafe.Sizeof(p)) + 256 // its strings, roughly
		for _, r := range p.Roots {
			n += int64(unsafe.Sizeof(r)) + int64(len(r.Attr)+len(r.Path)+16)
		}
	}
	for _, r := range s.header.Removed {
		n += int64(unsafe.Sizeof(r)) + int64(len(r.HashPart)+16)
	}
	return n + int64(len(s.header.Replaces))*160
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

// unpackedSize is what a blob says that it takes when it is decompressed, or
// limit if it says nothing, or more. To decompress it with this as the limit
// makes it true. What is very short does not say, and is looked at.
func unpackedSize(blob []byte, limit uint64) uint64 {
	var h zstd.Header
	if err := h.Decode(blob); err != nil {
		return limit
	}
	if h.HasFCS {
		return min(h.FrameContentSize, limit)
	}
	if b, err := decompress(blob, min(unsaid, limit)); err == nil {
		return uint64(len(b))
	}
	return limit
}

// unsaid is the size up to which a blob need not say its own, in bytes.
const unsaid = 1 << 20

// ask is Options.Reserve.
func ask(reserve func(int64) error, bytes int64) error {
	if reserve == nil {
		return nil
	}
	return reserve(max(bytes, 0))
}
