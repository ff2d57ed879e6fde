package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"
)

var manifestTypes = strings.Join([]string{string(types.OCIManifestSchema1), string(types.DockerManifestSchema2), string(types.OCIImageIndex)}, ", ")

const digestHeader = "Docker-Content-Digest"

func (r *remote) Manifest(ctx context.Context, ref string) (Manifest, error) {
	var m Manifest
	q := request{method: http.MethodGet, url: r.endpoint("manifests", ref), header: http.Header{"Accept": {manifestTypes}}, accept: []int{http.StatusOK}}
	err := r.call(ctx, q, func(resp *http.Response) error {
		raw, err := readBounded(resp.Body, MaxManifestSize)
		if err != nil {
			return err
		}
		digest, _, err := v1.SHA256(bytes.NewReader(raw))
		if err != nil {
			return err
		}
		want := resp.Header.Get(digestHeader) // what Resolve says of a tag
		if _, err := v1.NewHash(ref); err == nil {
			want = ref
		}
		if want != "" && want != digest.String() {
			return fmt.Errorf("it was to have the digest %s and has %s", want, digest)
		}
		mediaType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
		m = Manifest{MediaType: mediaType, Digest: digest, Raw: raw}
		return nil
	})
	if err != nil {
		return Manifest{}, fmt.Errorf("reading manifest %s: %w", ref, err)
	}
	return m, nil
}

func (r *remote) Resolve(ctx context.Context, tag string) (v1.Hash, error) {
	var digest v1.Hash
	q := request{method: http.MethodHead, url: r.endpoint("manifests", tag), header: http.Header{"Accept": {manifestTypes}}, accept: []int{http.StatusOK}}
	err := r.call(ctx, q, func(resp *http.Response) (err error) {
		if h := resp.Header.Get(digestHeader); h != "" {
			digest, err = v1.NewHash(h)
		}
		return err
	})
	if err != nil {
		return v1.Hash{}, fmt.Errorf("resolving tag %s: %w", tag, err)
	}
	if digest == (v1.Hash{}) { // allowed by the specification
		m, err := r.Manifest(ctx, tag)
		return m.Digest, err
	}
	return digest, nil
}

func (r *remote) PutManifest(ctx context.Context, ref string, m Manifest) (v1.Hash, error) {
	digest, _, err := v1.SHA256(bytes.NewReader(m.Raw))
	if err != nil {
		return v1.Hash{}, err
	}
	q := request{
		method: http.MethodPut, url: r.endpoint("manifests", ref), header: http.Header{"Content-Type": {m.MediaType}},
		data: m.Raw, accept: []int{http.StatusCreated, http.StatusOK, http.StatusAccepted},
	}
	err = r.retry.do(ctx, r.opts.Logger, q.method+" "+q.url.Path, func() error {
		resp, err := r.send(ctx, q)
		if err != nil {
			return r.missingBlobs(ctx, m, err)
		}
		drain(resp.Body)
		return nil
	})
	if err != nil {
		return v1.Hash{}, fmt.Errorf("writing manifest %s: %w", ref, r.describe(ctx, err))
	}
	return digest, nil
}

// missingBlobs finds out whether err says that blobs are missing, and which. That
// may pass where all are there: distribution does not find a blob while somebody
// else stores the same one.
func (r *remote) missingBlobs(ctx context.Context, m Manifest, err error) error {
	var te *transport.Error
	if !errors.As(err, &te) || te.StatusCode < 400 || te.StatusCode >= 500 {
		return err
	}
	blobs := blobsOf(m)
	var missing []v1.Hash
	suspect, unknown := false, false
	for _, d := range te.Errors {
		switch d.Code {
		case transport.ManifestBlobUnknownErrorCode, transport.BlobUnknownErrorCode:
			suspect, unknown = true, true
			detail, _ := json.Marshal(d.Detail)
			for _, h := range digestsIn(string(detail)) {
				if slices.Contains(blobs, h) {
					missing = append(missing, h)
				}
			}
		case transport.ManifestInvalidErrorCode: // zot's, which may mean other things
			suspect = true
		}
	}
	if suspect && len(missing) == 0 { // not every registry says which
		missing = r.lookFor(ctx, blobs)
	}
	switch {
	case len(missing) == 0 && unknown:
		return retryable{err}
	case len(missing) == 0:
		return err
	}
	slices.SortFunc(missing, func(a, b v1.Hash) int { return strings.Compare(a.Hex, b.Hex) })
	return &MissingBlobsError{Digests: slices.Compact(missing), Err: err}
}

// lookFor returns those blobs that are certainly absent.
func (r *remote) lookFor(ctx context.Context, blobs []v1.Hash) []v1.Hash {
	var mu sync.Mutex
	var missing []v1.Hash
	var g errgroup.Group
	g.SetLimit(16)
	for _, b := range blobs {
		g.Go(func() error {
			if _, err := r.BlobSize(ctx, b); errors.Is(err, ErrNotFound) {
				mu.Lock()
				defer mu.Unlock()
				missing = append(missing, b)
			}
			return nil
		})
	}
	_ = g.Wait() // what could not be looked up is not known to be missing
	return missing
}

// blobsOf lists the blobs that an image manifest names.
func blobsOf(m Manifest) []v1.Hash {
	var im v1.Manifest
	if json.Unmarshal(m.Raw, &im) != nil {
		return nil
	}
	var blobs []v1.Hash
	if im.Config.Digest != (v1.Hash{}) {
		blobs = append(blobs, im.Config.Digest)
	}
	for _, l := range im.Layers {
		blobs = append(blobs, l.Digest)
	}
	return blobs
}

var digestRE = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

func digestsIn(s string) []v1.Hash {
	var hs []v1.Hash
	for _, m := range digestRE.FindAllString(s, -1) {
		if h, err := v1.NewHash(m); err == nil {
			hs = append(hs, h)
		}
	}
	return hs
}
