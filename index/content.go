package index

import (
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

// copyLine takes over the line of an entry as it is, without its newline, and
// the blobs that it names.
func (c *content) copyLine(line []byte, layers ...v1.Descriptor) {
	c.lines = append(append(c.lines, line...), '\n')
	c.count++
	for _, l := range layers {
		c.layer(l)
	}
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
