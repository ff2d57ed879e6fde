package blobs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/singleflight"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/lru"
	"github.com/org/nixoci-action/internal/pieces"
	"github.com/org/nixoci-action/internal/registry"
)

const (
	// documentsMemory is how many bytes of blobs with documents are held: some
	// ordinary ones, or the largest.
	documentsMemory = format.MaxExtrasBlob
	// documentsReads is how many of them are read at once, each into memory.
	documentsReads = 2
	// documentsTimeout bounds the reading of one.
	documentsTimeout = 2 * time.Minute
)

// Documents reads listings and logs. A blob that holds them can be verified
// only as a whole, so it is read as a whole, and held for the others in it. It
// is safe for concurrent use.
type Documents struct {
	opts   DocumentsOptions
	flight singleflight.Group
	slots  chan struct{}
	held   *lru.Map[v1.Hash, []byte]
}

// DocumentsOptions configures NewDocuments. All of it is required.
type DocumentsOptions struct {
	Store Store
	// Health and Corrupt are what is known, and what is added to.
	Health  *Health
	Corrupt Corrupt
	// FirstByte is how long the registry may be silent at first, Stall later.
	FirstByte, Stall time.Duration
}

// NewDocuments returns Documents that hold nothing yet.
func NewDocuments(o DocumentsOptions) *Documents {
	return &Documents{opts: o, slots: make(chan struct{}, documentsReads), held: lru.New[v1.Hash](documentsMemory, bytesOf)}
}

var errMissing = errors.New("the registry does not have the document, or another one in its place")

// Read returns the compressed document at l.
func (d *Documents) Read(ctx context.Context, l format.Location) ([]byte, error) {
	data, ok := d.held.Get(l.Blob)
	if !ok {
		// others wait for it too, so it outlives the request that began it
		own := context.WithoutCancel(ctx)
		ch := d.flight.DoChan(l.Blob.Hex, func() (any, error) { return d.fetch(own, l.Blob, l.BlobSize) })
		select {
		case res := <-ch:
			if res.Err != nil {
				return nil, res.Err
			}
			data = res.Val.([]byte)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if int64(len(data)) != l.BlobSize {
		return nil, errMissing // two entries disagree about it
	}
	// a copy, so that a slow client does not hold the whole blob
	return bytes.Clone(data[l.Offset : l.Offset+l.Size]), nil
}

func bytesOf(b []byte) int64 { return int64(len(b)) }

// fetch reads a blob and verifies it.
func (d *Documents) fetch(ctx context.Context, blob v1.Hash, size int64) ([]byte, error) {
	if data, ok := d.held.Get(blob); ok { // read meanwhile
		return data, nil
	}
	if d.opts.Corrupt.Has(blob.Hex) {
		return nil, errMissing
	}
	ctx, cancel := context.WithTimeout(ctx, documentsTimeout)
	defer cancel()
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if !d.opts.Health.Allow() {
		return nil, ErrUnwell
	}
	data, err := d.readBlob(ctx, blob, size)
	d.opts.Health.Note(context.WithoutCancel(ctx), err)
	if err == nil {
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != blob.Hex {
			err = fmt.Errorf("%w: its digest is sha256:%x", errMissing, sum)
		}
	}
	if errors.Is(err, registry.ErrNotFound) || errors.Is(err, errMissing) {
		d.opts.Corrupt.Add(blob.Hex)
	}
	if err != nil {
		return nil, err
	}
	d.held.Put(blob, data)
	return data, nil
}

// readBlob reads a whole blob, which the registry may be slow to begin, but not
// to go on with.
func (d *Documents) readBlob(ctx context.Context, blob v1.Hash, size int64) ([]byte, error) {
	src := Read(ctx, d.opts.Store, blob, 0, size)
	defer src.Close()
	data := make([]byte, size)
	limit := d.opts.FirstByte
	for at := int64(0); at < size; at += pieces.Size {
		if err := src.Fill(data[at:min(at+pieces.Size, size)], limit); err != nil {
			return nil, err
		}
		limit = d.opts.Stall
	}
	return data, nil
}
