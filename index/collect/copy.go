package collect

import (
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
)

// content takes over lines as they are, but for those whose NAR or documents
// have moved, or whose documents are lost.
func (t *table) content(rows []int32, moved map[format.Location]format.Location) (format.Content, error) {
	var c format.Content
	var layers []v1.Descriptor
	for _, n := range rows {
		r := &t.rows[n]
		if !t.changes(r, moved) {
			layers = layers[:0]
			for _, b := range t.blobsOf(r) {
				layers = append(layers, t.blobs[b].layer())
			}
			c.CopyLine(t.line(n), layers...)
			continue
		}
		e, err := format.DecodeLine(t.line(n), t.snapshot.Config().Dir())
		if err != nil {
			return c, err
		}
		for _, l := range []*format.Location{&e.NAR, &e.Listing, &e.Log} {
			if to, ok := moved[*l]; ok {
				*l = to
			}
		}
		e.DropDocuments(t.lost)
		if err := c.Add(&e); err != nil {
			return c, err
		}
	}
	return c, nil
}

// changes reports whether a row's line cannot be taken over as it is.
func (t *table) changes(r *row, moved map[format.Location]format.Location) bool {
	if _, ok := moved[t.location(r)]; ok {
		return true
	}
	for _, x := range r.extras {
		if _, ok := moved[t.extraLocation(x)]; ok || t.blobs[x.blob].lost {
			return true
		}
	}
	return false
}

func (b *blob) layer() v1.Descriptor {
	d := v1.Descriptor{MediaType: format.LayerType(b.packed, b.comp), Digest: b.digest, Size: b.size}
	if b.extras {
		d.MediaType = format.MediaExtras
	}
	return d
}

func (t *table) location(r *row) format.Location {
	return format.Location{Blob: t.blobs[r.blob].digest, BlobSize: r.blobSize, Offset: r.offset, Size: r.fileSize}
}

func (t *table) extraLocation(x extra) format.Location {
	b := &t.blobs[x.blob]
	return format.Location{Blob: b.digest, BlobSize: b.size, Offset: int64(x.offset), Size: int64(x.size)}
}

// blobsOf returns the blobs that a row names.
func (t *table) blobsOf(r *row) []int32 {
	bs := append(make([]int32, 0, 3), r.blob)
	for _, x := range r.extras {
		bs = append(bs, x.blob)
	}
	return bs
}

// position finds the line of a row.
func (t *table) position(n int32) index.Position {
	// the last segment that starts there or before, behind empty ones
	i, _ := slices.BinarySearchFunc(t.start, int(n), func(start, n int) int {
		if start <= n {
			return -1
		}
		return 1
	})
	return index.Position{Segment: int32(i - 1), Line: n - int32(t.start[i-1])} //nolint:gosec // bounded by maxEntries
}

// line returns a row's line, without the newline.
func (t *table) line(n int32) []byte {
	p := t.position(n)
	return t.segments[p.Segment].Line(int(p.Line))
}
