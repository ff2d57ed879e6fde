package index

import (
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// content is what a segment holds besides its header: the lines of its
// entries, and the blobs that they name, each once.
type content struct {
	lines  []byte
	count  int
	layers []v1.Descriptor

	seen map[v1.Hash]bool
}

func newContent(entries []Entry) (content, error) {
	var c content
	var err error
	for i := range entries {
		if err == nil {
			err = c.add(&entries[i])
		}
	}
	return c, err
}

func (c *content) add(e *Entry) (err error) {
	if c.lines, err = appendLine(c.lines, e); err == nil {
		c.count++
		c.layer(v1.Descriptor{MediaType: layerType(e.NAR.Packed(), e.Compression), Digest: e.NAR.Blob, Size: e.NAR.BlobSize})
		for _, l := range e.locations() {
			c.layer(v1.Descriptor{MediaType: mediaExtras, Digest: l.Blob, Size: l.BlobSize})
		}
	}
	return err
}

func (c *content) layer(l v1.Descriptor) {
	if c.seen == nil {
		c.seen = map[v1.Hash]bool{}
	}
	if !c.seen[l.Digest] {
		c.seen[l.Digest] = true
		c.layers = append(c.layers, l)
	}
}

func layerType(packed bool, compression string) types.MediaType {
	switch {
	case packed:
		return types.MediaType(mediaPack + compression)
	case compression == CompressionNone:
		return mediaNAR
	}
	return types.MediaType(mediaNAR + "+" + compression)
}

// content takes over lines as they are, but for those whose NAR or documents
// have moved, or whose documents are lost.
func (t *table) content(rows []int32, moved map[Location]Location) (content, error) {
	var c content
	for _, n := range rows {
		r := &t.rows[n]
		if !t.changes(r, moved) {
			c.lines = append(append(c.lines, t.line(n)...), '\n')
			c.count++
			for _, b := range t.blobsOf(r) {
				c.layer(t.blobs[b].layer())
			}
			continue
		}
		e, err := decodeLine(t.line(n), t.snapshot.config.storeDir())
		if err != nil {
			return c, err
		}
		for _, l := range []*Location{&e.NAR, &e.Listing, &e.Log} {
			if to, ok := moved[*l]; ok {
				*l = to
			}
		}
		e.without(t.lost)
		if err := c.add(&e); err != nil {
			return c, err
		}
	}
	return c, nil
}

// changes reports whether a row's line cannot be taken over as it is.
func (t *table) changes(r *row, moved map[Location]Location) bool {
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
	d := v1.Descriptor{MediaType: layerType(b.packed, b.comp), Digest: b.digest, Size: b.size}
	if b.extras {
		d.MediaType = mediaExtras
	}
	return d
}

func (t *table) location(r *row) Location {
	return Location{Blob: t.blobs[r.blob].digest, BlobSize: r.blobSize, Offset: r.offset, Size: r.fileSize}
}

func (t *table) extraLocation(x extra) Location {
	b := &t.blobs[x.blob]
	return Location{Blob: b.digest, BlobSize: b.size, Offset: int64(x.offset), Size: int64(x.size)}
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
func (t *table) position(n int32) position {
	// the last segment that starts there or before, behind empty ones
	i, _ := slices.BinarySearchFunc(t.start, int(n), func(start, n int) int {
		if start <= n {
			return -1
		}
		return 1
	})
	return position{int32(i - 1), n - int32(t.start[i-1])} //nolint:gosec // bounded by maxEntries
}

// line returns a row's line, without the newline.
func (t *table) line(n int32) []byte {
	p := t.position(n)
	return t.snapshot.segments[p.segment].line(int(p.line))
}
