package format

import (
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/nixoci-action/bincache"
)

// Content is what a segment holds besides its header: the lines of its
// entries, and the blobs that they name, each once.
type Content struct {
	Lines  []byte // each with its newline
	Count  int    // of the entries
	Layers []v1.Descriptor

	seen map[v1.Hash]bool
}

// NewContent returns the content with the given entries. It fails if one of them
// is not valid.
func NewContent(entries []Entry) (Content, error) {
	var c Content
	var err error
	for i := range entries {
		if err == nil {
			err = c.Add(&entries[i])
		}
	}
	return c, err
}

// Add appends an entry. It fails if that is not valid.
func (c *Content) Add(e *Entry) (err error) {
	if c.Lines, err = AppendLine(c.Lines, e); err == nil {
		c.Count++
		c.layer(v1.Descriptor{MediaType: LayerType(e.NAR.Packed(), e.Compression), Digest: e.NAR.Blob, Size: e.NAR.BlobSize})
		for _, l := range e.DocumentLocations() {
			c.layer(v1.Descriptor{MediaType: MediaExtras, Digest: l.Blob, Size: l.BlobSize})
		}
	}
	return err
}

// CopyLine takes over the line of an entry as it is, without its newline, and
// the blobs that it names.
func (c *Content) CopyLine(line []byte, layers ...v1.Descriptor) {
	c.Lines = append(append(c.Lines, line...), '\n')
	c.Count++
	for _, l := range layers {
		c.layer(l)
	}
}

func (c *Content) layer(l v1.Descriptor) {
	if c.seen == nil {
		c.seen = map[v1.Hash]bool{}
	}
	if !c.seen[l.Digest] {
		c.seen[l.Digest] = true
		c.Layers = append(c.Layers, l)
	}
}

// LayerType is the media type of a blob with one NAR, or with several of them, in
// a compression.
func LayerType(packed bool, compression string) types.MediaType {
	switch {
	case packed:
		return types.MediaType(mediaPack + compression)
	case compression == bincache.CompressionNone:
		return mediaNAR
	}
	return types.MediaType(mediaNAR + "+" + compression)
}
