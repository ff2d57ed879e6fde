package collect

import (
	"encoding/hex"
	"encoding/json"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/storepath"
)

// table is every line of a snapshot's segments, decoded as far as a collection
// needs it. References are row numbers, so that a closure is a walk over
// numbers.
type table struct {
	snapshot *index.Snapshot
	segments []*format.Segment
	start    []int // of each segment's rows
	rows     []row
	blobs    []blob
	why      []string  // the reasons that rows name
	lost     []v1.Hash // blobs that the registry does not have any more
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
	hidden  bool // it has been removed, and copied by who did not know
	damaged bool // it does not decode: readers do not see it
	sum     [32]byte
	comp    string
	extras  []extra // nil for most
}

// extra is where a document is. Offset and size fit: see MaxExtrasBlob.
type extra struct {
	blob         int32 // of the segment's own extras until intern has run
	offset, size int32
}

func (r *row) packed() bool { return r.fileSize != r.blobSize }

// blob is a blob that lines name.
type blob struct {
	digest v1.Hash
	size   int64
	comp   string
	packed bool
	extras bool  // it holds documents
	lost   bool  // the registry does not have these documents any more
	live   int64 // bytes of it that kept rows name
	needed bool  // a kept row names it
}

// newTable decodes a snapshot on all processors.
func newTable(s *index.Snapshot) *table {
	t := &table{snapshot: s, segments: s.Loaded(), why: []string{""}}
	n := 0
	for _, seg := range t.segments {
		t.start = append(t.start, n)
		n += seg.Len()
	}
	t.rows = make([]row, n)
	extras := make([][]blob, len(t.segments))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range t.segments {
		g.Go(func() error {
			extras[i] = t.decode(i)
			return nil
		})
	}
	_ = g.Wait()
	t.intern(extras)
	return t
}

// decode fills the rows of one segment. It returns the blobs with documents
// that they name.
func (t *table) decode(segment int) []blob {
	var extras []blob
	s := t.snapshot
	seg := t.segments[segment]
	for line := range seg.Len() {
		r := &t.rows[t.start[segment]+line]
		k, _, _, _ := format.LineKeys(seg.Line(line))
		here := index.Position{Segment: int32(segment), Line: int32(line)} //nolint:gosec // bounded by maxEntries
		winner, ok := s.Position(string(k))
		r.current = ok && winner == here
		bases, ok := r.decode(seg.Line(line), &extras)
		if r.damaged = !ok; r.damaged {
			continue
		}
		r.refs = t.references(bases, k)
		until, removed := s.RemovedUntil(string(k))
		r.hidden = removed && r.added <= until
	}
	return extras
}

// rowLine are the fields of a line that a row needs. Decoding them takes half
// of the time of a whole entry with its checks.
type rowLine struct {
	Name   string                  `json:"name"`
	NS     int64                   `json:"narSize"`
	Refs   []string                `json:"refs"`
	Comp   string                  `json:"compression"`
	Blob   string                  `json:"blob"`
	BlobSz int64                   `json:"blobSize"`
	Off    int64                   `json:"offset"`
	Size   int64                   `json:"size"`
	Added  time.Time               `json:"added"`
	LS     format.DocumentLocation `json:"ls"`
	Log    format.DocumentLocation `json:"log"`
}

// decode reads one line. It returns the references, and whether a collection
// can use the line.
func (r *row) decode(line []byte, extras *[]blob) (bases []string, ok bool) {
	var l rowLine
	if json.Unmarshal(line, &l) != nil {
		return nil, false
	}
	if l.Size == 0 {
		l.Size = l.BlobSz
	}
	r.name, r.narSize, r.added = l.Name, l.NS, l.Added.Unix()
	r.fileSize, r.offset, r.blobSize = l.Size, l.Off, l.BlobSz
	c, ok := bincache.CompressionNamed(l.Comp) // its own name, not the line's
	if !ok {
		return nil, false
	}
	r.comp = c.Name
	hash, ok := strings.CutPrefix(l.Blob, "sha256:")
	if n, err := hex.Decode(r.sum[:], []byte(hash)[:min(len(hash), 2*len(r.sum))]); !ok || err != nil || n != len(r.sum) || len(hash) != 2*n {
		return nil, false
	}
	r.decodeExtras(&format.Extras{Listing: format.Location(l.LS), Log: format.Location(l.Log)}, extras)
	return l.Refs, l.Size > 0 && l.Off >= 0 && l.BlobSz >= l.Size && l.Off <= l.BlobSz-l.Size
}

func (r *row) decodeExtras(x *format.Extras, blobs *[]blob) {
	if x.ValidateExtras() != nil {
		return
	}
	r.extras = nil
	for _, l := range x.DocumentLocations() {
		// the last ones are the likeliest
		n := len(*blobs) - 1
		for n >= 0 && (*blobs)[n].digest != l.Blob {
			n--
		}
		if n < 0 {
			n = len(*blobs)
			*blobs = append(*blobs, blob{digest: l.Blob, size: l.BlobSize, extras: true})
		}
		if (*blobs)[n].size == l.BlobSize {
			r.extras = append(r.extras, extra{int32(n), int32(l.Offset), int32(l.Size)}) //nolint:gosec // at most MaxExtrasBlob
		}
	}
}

// references finds the rows of base names, but for the path itself.
func (t *table) references(bases []string, self []byte) []int32 {
	if len(bases) == 0 {
		return nil
	}
	refs := make([]int32, 0, len(bases))
	for _, b := range bases {
		if len(b) < storepath.HashPartLen || b[:storepath.HashPartLen] == string(self) {
			continue
		}
		if p, ok := t.snapshot.Position(b); ok {
			refs = append(refs, t.row(p))
		}
	}
	return refs
}

func (t *table) row(p index.Position) int32 { return int32(t.start[p.Segment]) + p.Line } //nolint:gosec // bounded by maxEntries

// intern gives each blob one number. extras are the blobs with documents of
// each segment.
func (t *table) intern(extras [][]blob) {
	number := map[[32]byte]int32{}
	add := func(sum [32]byte, b blob) int32 {
		n, ok := number[sum]
		if !ok {
			n = int32(len(t.blobs)) //nolint:gosec // not more than three times the rows
			number[sum] = n
			t.blobs = append(t.blobs, b)
		}
		return n
	}
	for i, seg := range t.segments {
		for line := range seg.Len() {
			r := &t.rows[t.start[i]+line]
			if r.damaged {
				r.blob = -1
				continue
			}
			r.blob = add(r.sum, blob{
				digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(r.sum[:])},
				size:   r.blobSize, comp: r.comp,
			})
			t.blobs[r.blob].packed = t.blobs[r.blob].packed || r.packed()
		}
	}
	for i, seg := range t.segments {
		numbers := make([]int32, len(extras[i]))
		for n, b := range extras[i] {
			var sum [32]byte
			_, _ = hex.Decode(sum[:], []byte(b.digest.Hex)) // checked when it was read
			if numbers[n] = add(sum, b); !t.blobs[numbers[n]].extras || t.blobs[numbers[n]].size != b.size {
				numbers[n] = -1 // somebody is wrong; a document may be missing
			}
		}
		for line := range seg.Len() {
			r := &t.rows[t.start[i]+line]
			if r.damaged {
				r.extras = nil
				continue
			}
			extras := r.extras[:0]
			for _, x := range r.extras {
				if x.blob = numbers[x.blob]; x.blob >= 0 {
					extras = append(extras, x)
				}
			}
			r.extras = extras
		}
	}
}
