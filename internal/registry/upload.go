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
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/org/nixoci-action/internal/stall"
)

// chunkSize is the largest chunk that ghcr.io takes, in bytes.
const chunkSize = 4 << 20

func (r *remote) PutBlob(ctx context.Context, data []byte) (v1.Descriptor, error) {
	desc, err := r.putBlob(ctx, data)
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("uploading blob %s: %w", desc.Digest, r.describe(ctx, err))
	}
	return desc, nil
}

// putBlob uploads data in two requests.
func (r *remote) putBlob(ctx context.Context, data []byte) (v1.Descriptor, error) {
	sum := counting{sum: sha256.New()}
	_, _ = sum.Write(data)
	desc := sum.descriptor()
	return desc, r.retry.do(ctx, r.opts.Logger, "upload of blob "+desc.Digest.String(), func() error {
		loc, err := r.startUpload(ctx)
		if err != nil {
			return err
		}
		return r.finishUpload(ctx, loc, desc, data)
	})
}

func (r *remote) startUpload(ctx context.Context) (*url.URL, error) {
	// the trailing slash belongs to the path in the specification
	u := r.endpoint("blobs", "uploads", "")
	resp, err := r.send(ctx, request{method: http.MethodPost, url: u, accept: []int{http.StatusAccepted}})
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
		return nil, permanentError{fmt.Errorf("the registry's upload location is on another host, %s, without TLS", u.Host)}
	}
	return u, nil
}

// A registry may have to copy the whole blob before it answers the last
// request: it gets a second more for each so many bytes.
const copiedPerSecond = 16 << 20

// finishUpload completes an upload with one PUT that carries data.
func (r *remote) finishUpload(ctx context.Context, loc *url.URL, desc v1.Descriptor, data []byte) error {
	u := *loc
	if u.RawQuery != "" {
		u.RawQuery += "&" // and byte for byte as it was: it may be signed
	}
	u.RawQuery += "digest=" + url.QueryEscape(desc.Digest.String())
	ctx = stall.WithPatience(ctx, time.Duration(desc.Size/copiedPerSecond)*time.Second)
	resp, err := r.send(ctx, request{
		method: http.MethodPut, url: &u, header: http.Header{"Content-Type": {"application/octet-stream"}},
		data: data, accept: []int{http.StatusCreated, http.StatusNoContent},
	})
	if err != nil {
		return lostUpload(err)
	}
	drain(resp.Body)
	if got := resp.Header.Get(digestHeader); got != "" && got != desc.Digest.String() {
		return permanentError{fmt.Errorf("the registry stored %s as %s", desc.Digest, got)}
	}
	return nil
}

// lostUpload marks the answers of a registry that has forgotten an upload, or
// got other bytes than were sent: beginning again may help.
func lostUpload(err error) error {
	var te *transport.Error
	if !errors.As(err, &te) {
		return err
	}
	if te.StatusCode == http.StatusNotFound || te.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return retryable{err}
	}
	for _, d := range te.Errors {
		switch d.Code {
		case transport.BlobUploadUnknownErrorCode, transport.BlobUploadInvalidErrorCode, transport.DigestInvalidErrorCode, transport.SizeInvalidErrorCode:
			return retryable{err}
		}
	}
	return err
}

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

func (r *remote) WriteBlob(ctx context.Context, write func(io.Writer) error) (v1.Descriptor, error) {
	var desc v1.Descriptor
	err := r.retry.do(ctx, r.opts.Logger, "streamed upload", func() (err error) {
		desc, err = r.writeOnce(ctx, write)
		return err
	})
	var pe *producerError
	if errors.As(err, &pe) {
		return v1.Descriptor{}, pe.err // the source's failure, not the registry's
	}
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("uploading a blob: %w", r.describe(ctx, err))
	}
	return desc, nil
}

// writeOnce runs write once. What it writes is sent in two requests if it fits
// a buffer, else in three.
func (r *remote) writeOnce(ctx context.Context, write func(io.Writer) error) (desc v1.Descriptor, err error) {
	buf := buffers.Get().(*[]byte)
	defer func() {
		if err == nil { // else the transport may still be reading it
			buffers.Put(buf)
		}
	}()
	src := newProducer(write)
	defer src.stop()
	n, err := io.ReadFull(src, (*buf)[:r.small])
	head := (*buf)[:n]
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		// all of it is in memory, so repeating needs no second write
		if desc, err = r.putBlob(ctx, head); err != nil {
			err = permanentError{err}
		}
		return desc, err
	case err != nil:
		return desc, err
	}
	body := io.MultiReader(bytes.NewReader(head), src)
	if r.chunked.Load() {
		return r.sendChunks(ctx, body)
	}
	return r.sendStream(ctx, body)
}

// sendStream sends body in one PATCH of unknown length.
func (r *remote) sendStream(ctx context.Context, body io.Reader) (v1.Descriptor, error) {
	loc, err := r.startUpload(ctx)
	if err != nil {
		return v1.Descriptor{}, err
	}
	s := &stream{r: body, sum: counting{sum: sha256.New()}}
	resp, err := r.send(ctx, request{
		method: http.MethodPatch, url: loc, header: http.Header{"Content-Type": {"application/octet-stream"}},
		stream: s, accept: []int{http.StatusAccepted, http.StatusNoContent},
	})
	if err == nil {
		drain(resp.Body)
		loc, err = uploadLocation(resp)
	}
	switch {
	case s.done.Load() && s.failed != nil:
		if err == nil {
			r.abandon(ctx, loc)
		}
		return v1.Descriptor{}, s.failed
	case err != nil:
		return v1.Descriptor{}, r.streamFailed(err)
	case !s.done.Load():
		return v1.Descriptor{}, errEarly
	}
	desc := s.sum.descriptor()
	return desc, r.finishUpload(ctx, loc, desc, nil)
}

// streamFailed decides what follows a stream that was not taken.
func (r *remote) streamFailed(err error) error {
	var te *transport.Error
	if errors.As(err, &te) && (te.StatusCode == http.StatusRequestEntityTooLarge || te.StatusCode == http.StatusRequestedRangeNotSatisfiable) {
		r.chunked.Store(true) // from now on
		return retryable{err}
	}
	return lostUpload(err)
}

// sendChunks sends body in requests that are small enough for every registry.
func (r *remote) sendChunks(ctx context.Context, body io.Reader) (v1.Descriptor, error) {
	loc, err := r.startUpload(ctx)
	if err != nil {
		return v1.Descriptor{}, err
	}
	sum := counting{sum: sha256.New()}
	for last := false; !last; {
		buf := make([]byte, r.chunk) // a new one: the transport may hold the one before
		n, err := io.ReadFull(body, buf)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			last = true
		case err != nil:
			r.abandon(ctx, loc)
			return v1.Descriptor{}, err
		}
		if n == 0 {
			break
		}
		if loc, err = r.sendChunk(ctx, loc, sum.n, buf[:n]); err != nil {
			return v1.Descriptor{}, err
		}
		_, _ = sum.Write(buf[:n])
	}
	desc := sum.descriptor()
	return desc, r.finishUpload(ctx, loc, desc, nil)
}

// sendChunk sends one chunk, which begins at offset, and returns where the
// upload goes on. A chunk that the registry refused for the moment is repeated
// by itself.
func (r *remote) sendChunk(ctx context.Context, loc *url.URL, offset int64, data []byte) (next *url.URL, err error) {
	q := request{
		method: http.MethodPatch, url: loc, data: data, accept: []int{http.StatusAccepted, http.StatusNoContent},
		header: http.Header{
			"Content-Type":  {"application/octet-stream"},
			"Content-Range": {fmt.Sprintf("%d-%d", offset, offset+int64(len(data))-1)},
		},
	}
	err = r.retry.do(ctx, r.opts.Logger, "upload of a chunk", func() error {
		resp, err := r.send(ctx, q)
		if err != nil {
			return err
		}
		drain(resp.Body)
		next, err = uploadLocation(resp)
		return err
	})
	if err != nil && transient(err) { // it has had its tries
		err = permanentError{err}
	}
	return next, lostUpload(err)
}

// abandon tells the registry to forget an upload, if it listens.
func (r *remote) abandon(ctx context.Context, loc *url.URL) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if resp, err := r.send(ctx, request{method: http.MethodDelete, url: loc, accept: []int{http.StatusNoContent, http.StatusOK, http.StatusAccepted}}); err == nil {
		drain(resp.Body)
	}
}

// counting hashes and counts what is written to it.
type counting struct {
	sum hash.Hash
	n   int64
}

func (c *counting) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.sum.Write(p)
}

func (c *counting) descriptor() v1.Descriptor {
	return v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(c.sum.Sum(nil))}, Size: c.n}
}
