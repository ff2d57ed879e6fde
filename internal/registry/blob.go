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
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func (r *remote) BlobSize(ctx context.Context, digest v1.Hash) (int64, error) {
	size := int64(-1)
	q := func() request {
		return request{method: http.MethodHead, url: r.endpoint("blobs", digest.String()), accept: []int{http.StatusOK}}
	}
	err := r.call(ctx, q, func(resp *http.Response) error {
		size = resp.ContentLength
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("looking for blob %s: %w", digest, err)
	}
	return size, nil
}

func (r *remote) Blob(ctx context.Context, digest v1.Hash, offset, length int64) (io.ReadCloser, error) {
	q := request{method: http.MethodGet, url: r.endpoint("blobs", digest.String()), header: http.Header{}, accept: []int{http.StatusOK, http.StatusPartialContent}}
	whole := offset == 0 && length < 0
	switch {
	case whole:
	case length < 0:
		q.header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	default:
		q.header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	}
	var body *blobReader
	err := r.retry.do(ctx, r.opts.Logger, "GET "+q.url.Path, func() error {
		// the context lives as long as the body, so end is the reader's
		ctx, w := watch(ctx, r.stall)
		resp, err := r.send(ctx, request{method: q.method, url: q.url, header: q.header.Clone(), accept: q.accept})
		if err == nil {
			body, err = newBlobReader(ctx, w, resp, offset, length)
			if err != nil {
				resp.Body.Close()
			}
		}
		if err != nil {
			err = explain(ctx, err)
			w.end()
			return err
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", digest, r.describe(err))
	}
	if whole {
		body.verify(digest)
	}
	return body, nil
}

// blobReader reads one answer's part of a blob, with a limit on how long it
// may stand still, and checks that all of it came.
type blobReader struct {
	ctx   context.Context //nolint:containedctx // the body's own, cancelled by Close
	body  io.ReadCloser
	w     *watchdog
	left  int64 // bytes still to come; -1 if unknown
	sum   hash.Hash
	want  v1.Hash
	close func()
}

func newBlobReader(ctx context.Context, w *watchdog, resp *http.Response, offset, length int64) (*blobReader, error) {
	left := length
	if length < 0 {
		left = resp.ContentLength
	}
	if resp.StatusCode == http.StatusPartialContent {
		if start, ok := rangeStart(resp.Header.Get("Content-Range")); !ok || start != offset {
			return nil, permanentError{fmt.Errorf("asked for bytes from %d, the registry sent %q", offset, resp.Header.Get("Content-Range"))}
		}
	} else if offset > 0 { // no ranges here: read on from the start
		if _, err := io.CopyN(io.Discard, feeding{resp.Body, w}, offset); err != nil {
			return nil, err
		}
		if length < 0 && left >= 0 {
			left -= offset
		}
	}
	return &blobReader{ctx: ctx, body: resp.Body, w: w, left: left, close: sync.OnceFunc(func() {
		w.end()
		resp.Body.Close()
	})}, nil
}

func rangeStart(h string) (int64, bool) {
	rest, ok := strings.CutPrefix(h, "bytes ")
	start, _, ok2 := strings.Cut(rest, "-")
	n, err := strconv.ParseInt(start, 10, 64)
	return n, ok && ok2 && err == nil
}

func (b *blobReader) verify(want v1.Hash) { b.sum, b.want = sha256.New(), want }

func (b *blobReader) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, b.end()
	}
	if b.left > 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.body.Read(p)
	b.w.feed()
	if b.left > 0 {
		b.left -= int64(n)
	}
	if b.sum != nil {
		b.sum.Write(p[:n])
	}
	switch {
	case errors.Is(err, io.EOF) && b.left > 0:
		err = errTruncated
	case errors.Is(err, io.EOF):
		err = b.end()
	case err != nil:
		err = explain(b.ctx, err)
	}
	return n, err
}

func (b *blobReader) end() error {
	if b.sum != nil {
		if got := hex.EncodeToString(b.sum.Sum(nil)); got != b.want.Hex {
			return fmt.Errorf("blob %s has the digest sha256:%s", b.want, got)
		}
	}
	return io.EOF
}

func (b *blobReader) Close() error {
	b.close()
	return nil
}

func (r *remote) PutBlob(ctx context.Context, data []byte) (v1.Descriptor, error) {
	sum := sha256.Sum256(data)
	desc := v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}, Size: int64(len(data))}
	err := r.retry.do(ctx, r.opts.Logger, "upload of blob "+desc.Digest.String(), func() error {
		ctx, w := watch(ctx, r.stall)
		defer w.end()
		loc, err := r.startUpload(ctx)
		if err != nil {
			return explain(ctx, err)
		}
		return explain(ctx, r.finishUpload(ctx, w, loc, desc.Digest, data))
	})
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("uploading blob %s: %w", desc.Digest, r.describe(err))
	}
	return desc, nil
}

func (r *remote) startUpload(ctx context.Context) (*url.URL, error) {
	// the trailing slash belongs to the path in the specification
	u := r.endpoint("blobs", "uploads", "")
	resp, err := r.send(ctx, request{method: http.MethodPost, url: u, body: http.NoBody, accept: []int{http.StatusAccepted}})
	if err != nil {
		return nil, err
	}
	defer drain(resp.Body)
	return uploadLocation(resp)
}

// uploadLocation is where the upload goes on. Another host is allowed only
// with TLS; credentials never go there.
func uploadLocation(resp *http.Response) (*url.URL, error) {
	u, err := resp.Location()
	if err != nil {
		return nil, permanentError{fmt.Errorf("the registry named no upload location: %w", err)}
	}
	if u.Host != resp.Request.URL.Host && u.Scheme != "https" {
		return nil, permanentError{fmt.Errorf("the registry's upload location is on another host without TLS: %s", u.Redacted())}
	}
	return u, nil
}

// finishUpload completes an upload with one PUT that carries data.
func (r *remote) finishUpload(ctx context.Context, w *watchdog, loc *url.URL, digest v1.Hash, data []byte) error {
	u := *loc
	q := u.Query()
	q.Set("digest", digest.String())
	u.RawQuery = q.Encode()
	put := request{
		method: http.MethodPut, url: &u, header: http.Header{"Content-Type": {"application/octet-stream"}},
		body: feeding{bytes.NewReader(data), w}, length: int64(len(data)), accept: []int{http.StatusCreated, http.StatusNoContent},
	}
	if len(data) == 0 {
		put.body = http.NoBody
	}
	resp, err := r.send(ctx, put)
	if err != nil {
		return err
	}
	drain(resp.Body)
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != digest.String() {
		return permanentError{fmt.Errorf("the registry stored %s as %s", digest, got)}
	}
	return nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

func (r *remote) WriteBlob(ctx context.Context, write func(io.Writer) error) (v1.Descriptor, error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	var desc v1.Descriptor
	err := r.retry.do(ctx, r.opts.Logger, "streamed upload", func() error {
		src := newProducer(write)
		defer src.stop()
		n, err := io.ReadFull(src, (*buf)[:r.small])
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			// all of it is in memory, so repeating needs no second write
			desc, err = r.PutBlob(ctx, (*buf)[:n])
			if err != nil {
				return permanentError{err}
			}
			return nil
		case err != nil:
			return err
		}
		desc, err = r.stream(ctx, io.MultiReader(bytes.NewReader((*buf)[:n]), src))
		return err
	})
	var pe *producerError
	if errors.As(err, &pe) {
		return v1.Descriptor{}, pe.err // the source's failure, not the registry's
	}
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("uploading a blob: %w", r.describe(err))
	}
	return desc, nil
}

// stream sends body in one PATCH of unknown length, in three requests in all.
func (r *remote) stream(ctx context.Context, body io.Reader) (v1.Descriptor, error) {
	ctx, w := watch(ctx, r.stall)
	defer w.end()
	loc, err := r.startUpload(ctx)
	if err != nil {
		return v1.Descriptor{}, explain(ctx, err)
	}
	sum := &counting{sum: sha256.New()}
	resp, err := r.send(ctx, request{
		method: http.MethodPatch, url: loc, header: http.Header{"Content-Type": {"application/octet-stream"}},
		body: io.TeeReader(feeding{body, w}, sum), length: -1, accept: []int{http.StatusAccepted, http.StatusNoContent},
	})
	if err != nil {
		r.abandon(ctx, loc)
		return v1.Descriptor{}, patchError(explain(ctx, err))
	}
	drain(resp.Body)
	if loc, err = uploadLocation(resp); err != nil {
		return v1.Descriptor{}, err
	}
	desc := v1.Descriptor{Digest: sum.digest(), Size: sum.n}
	return desc, explain(ctx, r.finishUpload(ctx, w, loc, desc.Digest, nil))
}

// abandon tells the registry to forget an upload, if it listens.
func (r *remote) abandon(ctx context.Context, loc *url.URL) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if resp, err := r.send(ctx, request{method: http.MethodDelete, url: loc, accept: []int{http.StatusNoContent, http.StatusOK, http.StatusAccepted}}); err == nil {
		drain(resp.Body)
	}
}

type counting struct {
	sum hash.Hash
	n   int64
}

func (c *counting) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.sum.Write(p)
}

func (c *counting) digest() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(c.sum.Sum(nil))}
}
