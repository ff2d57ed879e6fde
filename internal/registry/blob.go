package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// errTruncated is a body that ended before its announced length.
var errTruncated = retryable{errors.New("the registry sent too few bytes")}

func (r *remote) BlobSize(ctx context.Context, digest v1.Hash) (int64, error) {
	var size int64
	q := request{method: http.MethodHead, url: r.endpoint("blobs", digest.String()), accept: []int{http.StatusOK}}
	err := r.call(ctx, q, func(resp *http.Response) error {
		if size = resp.ContentLength; size < 0 {
			return permanentError{errors.New("the registry does not tell its size")}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("looking for blob %s: %w", digest, err)
	}
	return size, nil
}

func (r *remote) Blob(ctx context.Context, digest v1.Hash, offset, length int64) (io.ReadCloser, error) {
	if err := checkPart(digest, offset, length); err != nil {
		return nil, err
	}
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
		resp, err := r.send(ctx, q)
		if err != nil {
			return err
		}
		if body, err = newBlobReader(resp, offset, length); err != nil {
			resp.Body.Close()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", digest, r.describe(ctx, err))
	}
	body.side = "registry " + r.repo.RegistryStr()
	if whole {
		body.sum, body.want = sha256.New(), digest
	}
	return body, nil
}

// checkPart refuses what is no part of any blob.
func checkPart(digest v1.Hash, offset, length int64) error {
	if offset < 0 || length < -1 || length == 0 || length > math.MaxInt64-offset {
		return fmt.Errorf("reading blob %s: there are no %d bytes from %d", digest, length, offset)
	}
	return nil
}

// blobReader reads one answer's part of a blob and checks that all of it came.
type blobReader struct {
	side string // who is to blame
	body io.ReadCloser
	left int64     // bytes still to come; -1 if unknown
	sum  hash.Hash // nil for a part
	want v1.Hash
}

func newBlobReader(resp *http.Response, offset, length int64) (*blobReader, error) {
	left := resp.ContentLength
	if resp.StatusCode == http.StatusPartialContent {
		start, end, ok := contentRange(resp.Header.Get("Content-Range"))
		if !ok || start != offset {
			return nil, permanentError{fmt.Errorf("asked for bytes from %d, the registry sent %q", offset, resp.Header.Get("Content-Range"))}
		}
		left = end - start + 1
	} else if offset > 0 { // no ranges here: read on from the start
		if _, err := io.CopyN(io.Discard, resp.Body, offset); errors.Is(err, io.EOF) {
			return nil, errTruncated
		} else if err != nil {
			return nil, err
		}
		if left >= 0 {
			left -= offset
		}
	}
	if length >= 0 {
		left = length
	}
	return &blobReader{body: resp.Body, left: left}, nil
}

// contentRange parses "bytes START-END/SIZE"; END is inclusive.
func contentRange(h string) (start, end int64, ok bool) {
	rest, ok1 := strings.CutPrefix(h, "bytes ")
	rest, _, ok2 := strings.Cut(rest, "/")
	from, to, ok3 := strings.Cut(rest, "-")
	a, err1 := strconv.ParseUint(from, 10, 63)
	b, err2 := strconv.ParseUint(to, 10, 62) // so that the length fits too
	if !ok1 || !ok2 || !ok3 || err1 != nil || err2 != nil || a > b {
		return 0, 0, false
	}
	return int64(a), int64(b), true
}

func (b *blobReader) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, b.end()
	}
	if b.left > 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.body.Read(p)
	if b.left > 0 {
		b.left -= int64(n)
	}
	if b.sum != nil {
		b.sum.Write(p[:n])
	}
	switch {
	case errors.Is(err, io.EOF) && b.left > 0:
		err = fmt.Errorf("%s: %w", b.side, errTruncated)
	case errors.Is(err, io.EOF):
		err = b.end()
	case err != nil:
		err = fmt.Errorf("%s: %w", b.side, err)
	}
	return n, err
}

func (b *blobReader) end() error {
	if b.sum != nil {
		if got := hex.EncodeToString(b.sum.Sum(nil)); got != b.want.Hex {
			return fmt.Errorf("%s: blob %s has the digest sha256:%s", b.side, b.want, got)
		}
	}
	return io.EOF
}

func (b *blobReader) Close() error { return b.body.Close() }
