package index

import (
	"encoding/hex"
	"runtime"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/internal/storepath"
)

// table is every line of a snapshot's segments, decoded as far as a collection
// needs it. References are row numbers, so that a closure is a walk over
// numbers.
type table struct {
	snapshot *Snapshot
	start    []int // of each segment's rows
	rows     []row
	blobs    []blob
	why      []string // the reasons that rows name
}

// row is one line.
type row struct {
	name     string
	refs     []int32 // rows of the references that the cache has, without itself
	narSize  int64
	fileSize int64
	offset   int64 // in the blob
	blobSize int64
	added    int64 // in Unix seconds
	blob     int32
	// kept is the number of the reason to keep the path, gone that of the
	// reason why nothing keeps it; 0 is none.
	kept, gone int32
	// current: no other line supersedes this one.
	current bool
	damaged bool // it does not decode: readers do not see it
	sum     [32]byte
	comp    string
}

func (r *row) packed() bool { return r.fileSize != r.blobSize }

// blob is a blob that lines name.
type blob struct {
	digest v1.Hash
	size   int64
	comp   string
	packed bool
	live   int64 // bytes of it that kept rows name
	needed bool  // a kept row names it
}

// newTable decodes a snapshot on all processors.
func newTable(s *Snapshot) *table {
	t := &table{snapshot: s, why: []string{""}}
	n := 0
	for _, seg := range s.segments {
		t.start = append(t.start, n)
		n += len(seg.lines)
	}
	t.rows = make([]row, n)
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range s.segments {
		g.Go(func() error {
			t.decode(i)
			return nil
		})
	}
	_ = g.Wait()
	t.intern()
	return t
}

// decode fills the rows of one segment.
func (t *table) decode(segment int) {
	s := t.snapshot
	seg := s.segments[segment]
	dir := s.config.storeDir()
	for line := range seg.lines {
		r := &t.rows[t.start[segment]+line]
		k, _, _, _ := linePrefix(seg.line(line))
		r.current = s.entries[[storepath.HashPartLen]byte(k)] == position{int32(segment), int32(line)} //nolint:gosec // bounded by maxEntries
		e, err := decodeLine(seg.line(line), dir)
		if err != nil {
			r.damaged = true
			continue
		}
		r.name, r.narSize, r.added = e.Path.Name, e.NarSize, e.Added.Unix()
		r.fileSize, r.offset, r.blobSize = e.NAR.Size, e.NAR.Offset, e.NAR.BlobSize
		r.comp = compression(e.Compression)
		r.refs = t.references(e)
		r.sum = blobSum(e.NAR.Blob)
	}
}

// compression returns the constant, so that rows do not hold their lines.
func compression(s string) string {
	switch s {
	case CompressionXZ:
		return CompressionXZ
	case CompressionNone:
		return CompressionNone
	}
	return CompressionZstd
}

func blobSum(h v1.Hash) (sum [32]byte) {
	_, _ = hex.Decode(sum[:], []byte(h.Hex)) // it has been validated
	return sum
}

func (t *table) references(e Entry) []int32 {
	refs := make([]int32, 0, len(e.References))
	for _, r := range e.References {
		key := [storepath.HashPartLen]byte([]byte(r))
		if p, ok := t.snapshot.entries[key]; ok && r[:storepath.HashPartLen] != e.Path.HashPart {
			refs = append(refs, t.row(p))
		}
	}
	return slices.Clip(refs)
}

func (t *table) row(p position) int32 { return int32(t.start[p.segment]) + p.line } //nolint:gosec // bounded by maxEntries

// intern gives each blob one number.
func (t *table) intern() {
	number := map[[32]byte]int32{}
	for i, seg := range t.snapshot.segments {
		for line := range seg.lines {
			r := &t.rows[t.start[i]+line]
			if r.damaged {
				r.blob = -1
				continue
			}
			n, ok := number[r.sum]
			if !ok {
				n = int32(len(t.blobs)) //nolint:gosec // not more than rows
				number[r.sum] = n
				t.blobs = append(t.blobs, blob{
					digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(r.sum[:])},
					size:   r.blobSize, comp: r.comp,
				})
			}
			r.blob = n
			t.blobs[n].packed = t.blobs[n].packed || r.packed()
		}
	}
}
