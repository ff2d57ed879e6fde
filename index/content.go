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

// content takes over lines as they are, but for those whose NAR has moved.
func (t *table) content(rows []int32, moved map[Location]Location) (content, error) {
	var c content
	for _, n := range rows {
		r := &t.rows[n]
		line := t.line(n)
		to, ok := moved[t.location(r)]
		if !ok {
			b := &t.blobs[r.blob]
			c.lines = append(append(c.lines, line...), '\n')
			c.count++
			c.layer(v1.Descriptor{MediaType: layerType(b.packed, b.comp), Digest: b.digest, Size: b.size})
			continue
		}
		e, err := decodeLine(line, t.snapshot.config.storeDir())
		if err != nil {
			return c, err
		}
		e.NAR = to
		if err := c.add(&e); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (t *table) location(r *row) Location {
	return Location{Blob: t.blobs[r.blob].digest, BlobSize: r.blobSize, Offset: r.offset, Size: r.fileSize}
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
