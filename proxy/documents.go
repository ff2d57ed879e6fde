package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/singleflight"

	"github.com/org/nixoci-action/index/format"
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

// documents reads listings and logs. A blob that holds them can be verified
// only as a whole, so it is read as a whole, and held for the others in it.
type documents struct {
	flight singleflight.Group
	slots  chan struct{}

	mu   sync.Mutex
	size int64
	tick int64
	held map[v1.Hash]*documentsBlob
}

type documentsBlob struct {
	data []byte
	used int64 // tick of the last use
}

func newDocuments() *documents {
	return &documents{slots: make(chan struct{}, documentsReads), held: map[v1.Hash]*documentsBlob{}}
}

var errMissing = errors.New("the registry does not have the document, or another one in its place")

// read returns the compressed document at l.
func (d *documents) read(ctx context.Context, s *Server, l format.Location) ([]byte, error) {
	data, ok := d.get(l.Blob)
	if !ok {
		// others wait for it too, so it outlives the request that began it
		own := context.WithoutCancel(ctx)
		ch := d.flight.DoChan(l.Blob.Hex, func() (any, error) { return d.fetch(own, s, l.Blob, l.BlobSize) })
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

func (d *documents) get(blob v1.Hash) ([]byte, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.held[blob]
	if b == nil {
		return nil, false
	}
	d.tick++
	b.used = d.tick
	return b.data, true
}

// hold keeps a blob, and drops those that were not used for the longest time.
func (d *documents) hold(blob v1.Hash, data []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.size+int64(len(data)) > documentsMemory && len(d.held) > 0 {
		var oldest v1.Hash
		for h, b := range d.held {
			if oldest == (v1.Hash{}) || b.used < d.held[oldest].used {
				oldest = h
			}
		}
		d.size -= int64(len(d.held[oldest].data))
		delete(d.held, oldest)
	}
	d.tick++
	d.held[blob] = &documentsBlob{data, d.tick}
	d.size += int64(len(data))
}

// fetch reads a blob and verifies it.
func (d *documents) fetch(ctx context.Context, s *Server, blob v1.Hash, size int64) ([]byte, error) {
	if data, ok := d.get(blob); ok { // read meanwhile
		return data, nil
	}
	if s.corrupt.has(blob.Hex) {
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
	if !s.registry.allow() {
		return nil, errUnwell
	}
	data, err := s.readBlob(ctx, blob, size)
	s.report(context.WithoutCancel(ctx), err)
	if err == nil {
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != blob.Hex {
			err = fmt.Errorf("%w: its digest is sha256:%x", errMissing, sum)
		}
	}
	if errors.Is(err, registry.ErrNotFound) || errors.Is(err, errMissing) {
		s.corrupt.add(blob.Hex, corruptTTL)
	}
	if err != nil {
		return nil, err
	}
	d.hold(blob, data)
	return data, nil
}

// readBlob reads a whole blob, which the registry may be slow to begin, but not
// to go on with.
func (s *Server) readBlob(ctx context.Context, blob v1.Hash, size int64) ([]byte, error) {
	src := newSource(ctx, s.opts.Blobs, blob, 0, size)
	defer src.close()
	data := make([]byte, size)
	limit := s.opts.FirstByte
	for at := int64(0); at < size; at += pieceSize {
		if err := src.fill(data[at:min(at+pieceSize, size)], limit); err != nil {
			return nil, err
		}
		limit = s.opts.Stall
	}
	return data, nil
}
