package collect

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
)

const (
	// repackedSize is the size in bytes from which on a new pack is complete.
	repackedSize = 8 << 20
	// repackJobs is how many packs are read at once.
	repackJobs = 8
)

// packed is a compressed NAR in a pack, or a document.
type packed struct {
	from format.Location
	file string // file hash; "" for a document
	comp string
	data []byte
}

// full is the size in bytes at which what is copied makes a new blob.
func (p *packed) full() int64 {
	if p.file == "" {
		return format.ExtrasSize
	}
	return repackedSize
}

// repack copies what is needed of packs, and of blobs with documents, that are
// mostly waste into new ones. It returns where each NAR and document is now. A
// pack that is damaged is left as it is. The error of a pack that the registry has lost
// is a *registry.MissingBlobsError.
func (c *collection) repack(ctx context.Context, t *table) (map[format.Location]format.Location, error) {
	moved := map[format.Location]format.Location{}
	open := map[string]*[]packed{} // by compression, waiting for a pack to fill; documents by ""
	for batch := range slices.Chunk(t.sparse(), repackJobs) {
		nars := make([][]packed, len(batch))
		g, gctx := errgroup.WithContext(ctx)
		for i, parts := range batch {
			g.Go(func() (err error) {
				nars[i], err = c.readParts(gctx, parts)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		for _, n := range slices.Concat(nars...) {
			if open[n.comp] == nil {
				open[n.comp] = &[]packed{}
			}
			*open[n.comp] = append(*open[n.comp], n)
			if size(*open[n.comp]) < n.full() {
				continue
			}
			if err := c.putPack(ctx, *open[n.comp], moved); err != nil {
				return nil, err
			}
			*open[n.comp] = nil
		}
	}
	for _, nars := range open {
		if len(*nars) > 0 {
			if err := c.putPack(ctx, *nars, moved); err != nil {
				return nil, err
			}
		}
	}
	return moved, nil
}

func size(nars []packed) (n int64) {
	for i := range nars {
		n += nars[i].from.Size
	}
	return n
}

// sparse lists what is to be copied out of each pack, in the order in which it
// is there.
func (t *table) sparse() [][]packed {
	byBlob := map[int32][]packed{}
	seen := map[format.Location]bool{}
	for i := range t.rows {
		r := &t.rows[i]
		if !r.stays() {
			continue
		}
		for _, x := range r.extras {
			if from := t.extraLocation(x); t.blobs[x.blob].sparse() && !seen[from] {
				seen[from] = true
				byBlob[x.blob] = append(byBlob[x.blob], packed{from: from})
			}
		}
		if !t.blobs[r.blob].sparse() || seen[t.location(r)] {
			continue
		}
		seen[t.location(r)] = true
		_, _, file, _ := format.LineKeys(t.line(int32(i)))
		byBlob[r.blob] = append(byBlob[r.blob], packed{from: t.location(r), file: bincache.HashOf(string(file)), comp: r.comp})
	}
	var all [][]packed
	for n := range t.blobs {
		if parts := byBlob[int32(n)]; parts != nil {
			slices.SortFunc(parts, func(a, b packed) int { return int(a.from.Offset - b.from.Offset) })
			all = append(all, parts)
		}
	}
	return all
}

// readParts reads parts of one pack with one request.
func (c *collection) readParts(ctx context.Context, parts []packed) ([]packed, error) {
	digest := parts[0].from.Blob
	if parts[0].file == "" {
		return c.readDocuments(ctx, parts)
	}
	first := parts[0].from.Offset
	end := first
	for i := range parts {
		if parts[i].from.Offset < end {
			return c.leave(digest, errors.New("its parts overlap"))
		}
		end = parts[i].from.Offset + parts[i].from.Size
	}
	if end-first > maxRepacked {
		return c.leave(digest, errors.New("it is too large"))
	}
	span, err := registry.ReadPart(ctx, c.cache.Repository(), digest, first, end-first)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, &registry.MissingBlobsError{Digests: []v1.Hash{digest}, Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("reading pack %s: %w", digest, err)
	}
	for i := range parts {
		p := &parts[i]
		p.data = bytes.Clone(span[p.from.Offset-first:][:p.from.Size]) // most of the span is waste
		if sum := sha256.Sum256(p.data); bincache.FormatHash(sum[:]) != p.file {
			return c.leave(digest, fmt.Errorf("it is damaged: %s is not at %d", p.file, p.from.Offset))
		}
	}
	return parts, nil
}

// readDocuments reads documents out of one blob, which is verified as a whole.
func (c *collection) readDocuments(ctx context.Context, parts []packed) ([]packed, error) {
	from := parts[0].from
	blob, err := registry.ReadPart(ctx, c.cache.Repository(), from.Blob, 0, from.BlobSize)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, &registry.MissingBlobsError{Digests: []v1.Hash{from.Blob}, Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("reading documents in %s: %w", from.Blob, err)
	}
	if got := format.DigestOf(blob); got != from.Blob {
		return c.leave(from.Blob, fmt.Errorf("it is damaged: its digest is %s", got))
	}
	for i := range parts {
		p := &parts[i]
		if p.from.BlobSize != from.BlobSize {
			return c.leave(from.Blob, errors.New("its entries do not agree on its size"))
		}
		p.data = bytes.Clone(blob[p.from.Offset : p.from.Offset+p.from.Size])
	}
	return parts, nil
}

// maxRepacked bounds what is read of one pack, in bytes. Packs are written with
// little more than repackedSize.
const maxRepacked = 64 << 20

func (c *collection) leave(pack v1.Hash, why error) ([]packed, error) {
	c.cache.Options().Logger.Warn("a pack was left as it is", "blob", pack, "error", why)
	return nil, nil
}

func (c *collection) putPack(ctx context.Context, nars []packed, moved map[format.Location]format.Location) error {
	var b bytes.Buffer
	b.Grow(int(size(nars)))
	for i := range nars {
		b.Write(nars[i].data)
	}
	desc, err := c.cache.Repository().PutBlob(ctx, b.Bytes())
	if err != nil {
		return fmt.Errorf("writing a pack: %w", err)
	}
	offset := int64(0)
	for i := range nars {
		n := &nars[i]
		moved[n.from] = format.Location{Blob: desc.Digest, BlobSize: desc.Size, Offset: offset, Size: n.from.Size}
		offset += n.from.Size
	}
	c.Repacked += desc.Size
	return nil
}
