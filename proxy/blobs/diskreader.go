package blobs

import (
	"context"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// diskReader reads a part of a blob from its file, perhaps while that grows.
// Where the file does not deliver, it goes on with the registry.
type diskReader struct {
	from  *Disk
	ctx   context.Context //nolint:containedctx // of the call that opened it
	blob  v1.Hash
	file  *os.File
	fetch *diskFetch // nil if the file was complete
	off   int64
	left  int64 // bytes
	begun bool  // some bytes came from the file

	direct io.ReadCloser // from the registry; nil as long as the file delivers
}

func (r *diskReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), r.left)]
	n, err := 0, error(nil)
	if r.direct == nil {
		n = r.fromFile(p)
	}
	if n == 0 {
		n, err = r.fromRegistry(p)
	}
	r.off += int64(n)
	r.left -= int64(n)
	return n, err
}

// fromFile returns 0 if the file does not deliver.
func (r *diskReader) fromFile(p []byte) int {
	if r.fetch != nil {
		patience := r.from.patience
		if r.begun {
			patience = 0
		}
		p = p[:min(int64(len(p)), r.fetch.wait(r.ctx, r.off, patience))]
	}
	n, _ := r.file.ReadAt(p, r.off) // another error comes with the next read
	if n == 0 && r.fetch == nil {
		r.from.Drop(r.blob)
	}
	r.begun = r.begun || n > 0
	return n
}

func (r *diskReader) fromRegistry(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	if r.direct == nil {
		body, err := r.from.next.Blob(r.ctx, r.blob, r.off, r.left)
		if err != nil {
			return 0, err
		}
		r.direct = body
		r.from.bypassed()
	}
	return r.direct.Read(p)
}

func (r *diskReader) Close() error {
	if r.direct != nil {
		r.direct.Close()
	}
	return r.file.Close()
}
