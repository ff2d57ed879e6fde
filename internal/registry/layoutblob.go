package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/atomicfile"
)

func (l *layout) BlobSize(_ context.Context, digest v1.Hash) (int64, error) {
	p, err := l.blobPath(digest)
	if err != nil {
		return 0, err
	}
	st, err := os.Stat(p)
	if err != nil {
		return 0, l.absent(err)
	}
	return st.Size(), nil
}

func (l *layout) Blob(ctx context.Context, digest v1.Hash, offset, length int64) (io.ReadCloser, error) {
	p, err := l.blobPath(digest)
	if err != nil {
		return nil, err
	}
	if err := checkPart(digest, offset, length); err != nil {
		return nil, err
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, l.absent(err)
	}
	st, err := f.Stat()
	if err == nil && (offset > st.Size() || length > st.Size()-offset) {
		err = fmt.Errorf("blob %s has %d bytes, asked for %d from %d", digest, st.Size(), length, offset)
	}
	if err != nil {
		f.Close()
		return nil, l.fail(err)
	}
	if length < 0 {
		length = st.Size() - offset
	}
	r := &fileReader{ctx: ctx, r: io.NewSectionReader(f, offset, length), f: f}
	if offset == 0 && length == st.Size() {
		r.sum, r.want = sha256.New(), digest
	}
	return r, nil
}

func (l *layout) PutBlob(ctx context.Context, data []byte) (v1.Descriptor, error) {
	return l.WriteBlob(ctx, func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(data))
		return err
	})
}

func (l *layout) WriteBlob(ctx context.Context, write func(io.Writer) error) (v1.Descriptor, error) {
	if err := l.prepare(ctx); err != nil {
		return v1.Descriptor{}, err
	}
	f, err := os.CreateTemp(l.blobs(), uploadPrefix+"*")
	if err != nil {
		return v1.Descriptor{}, l.fail(err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // fails once it is renamed
	defer f.Close()
	sum := &counting{sum: sha256.New()}
	var failed error // of the directory, not of the writer
	if err := write(writerFunc(func(p []byte) (n int, err error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if n, err = f.Write(p); err != nil {
			failed = l.fail(err)
		}
		_, _ = sum.Write(p[:n])
		return n, err
	})); err != nil {
		if failed != nil {
			return v1.Descriptor{}, failed
		}
		return v1.Descriptor{}, err
	}
	desc := sum.descriptor()
	return desc, l.fail(atomicfile.Commit(f, filepath.Join(l.blobs(), desc.Digest.Hex), blobMode, true))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// writeFile replaces a file in one step.
func writeFile(name string, data []byte) error {
	return atomicfile.Write(name, uploadPrefix, data, blobMode, true)
}

// blobMode is the mode of all files: what a registry would give to everybody.
const blobMode = 0o644

// fileReader reads a part of a blob's file; the whole of it is verified. Only
// Read is offered, so that nothing passes by the verification.
type fileReader struct {
	ctx  context.Context //nolint:containedctx // of the call that opened it
	r    *io.SectionReader
	f    *os.File
	sum  hash.Hash // nil for a part
	want v1.Hash
}

func (r *fileReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	n, err := r.r.Read(p)
	if r.sum == nil {
		return n, err
	}
	r.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(r.sum.Sum(nil)); got != r.want.Hex {
			return n, fmt.Errorf("cache directory: blob %s is damaged: it has the digest sha256:%s", r.want, got)
		}
	}
	return n, err
}

func (r *fileReader) Close() error { return r.f.Close() }
