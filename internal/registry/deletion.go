package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/org/nixoci-action/internal/stall"
)

// deletePatience is for distribution, which looks at every tag of the
// repository when it deletes a manifest; in a bucket each is a request.
const deletePatience = 4 * time.Minute

func (r *remote) DeleteManifest(ctx context.Context, tag string, digest v1.Hash) error {
	if r.packages != nil {
		return r.packages.delete(ctx, tag, digest)
	}
	if err := r.delete(ctx, digest.String()); err != nil {
		return fmt.Errorf("deleting manifest %s: %w", digest, err)
	}
	if tag == "" {
		return nil
	}
	// most registries have deleted its tags as well; not all
	have, err := r.Resolve(ctx, tag)
	if errors.Is(err, ErrNotFound) || err == nil && have != digest {
		return nil
	}
	if err == nil {
		err = r.delete(ctx, tag)
	}
	if err != nil {
		return fmt.Errorf("deleting tag %s: %w", tag, err)
	}
	return nil
}

// delete deletes what ref, a tag or a digest, names. What is absent counts as
// deleted.
func (r *remote) delete(ctx context.Context, ref string) error {
	q := request{
		method: http.MethodDelete, url: r.endpoint("manifests", ref), delete: true,
		accept: []int{http.StatusAccepted, http.StatusOK, http.StatusNoContent},
	}
	err := r.call(stall.WithPatience(ctx, r.deletePatience), q, nil)
	var te *transport.Error
	if !errors.As(err, &te) {
		return err
	}
	if te.StatusCode == http.StatusNotFound {
		if te.Request != nil && te.Request.URL.Path == q.url.Path && has(te, transport.ManifestUnknownErrorCode) {
			return nil
		}
		// what was not found? Some hide so what somebody may not do
		if _, look := r.Resolve(ctx, ref); errors.Is(look, ErrNotFound) {
			return nil
		} else if look != nil {
			return look
		}
	}
	if refused := r.refusal(ref, te); refused != nil {
		return refused
	}
	return err
}

// has reports whether the registry named one of the codes.
func has(te *transport.Error, codes ...transport.ErrorCode) bool {
	for _, d := range te.Errors {
		for _, c := range codes {
			if d.Code == c {
				return true
			}
		}
	}
	return false
}

func (r *remote) Untagged(ctx context.Context, before time.Time) ([]v1.Hash, error) {
	if r.packages != nil {
		return r.packages.untagged(ctx, before)
	}
	return nil, nil
}

// Collect frees nothing: that is the registry's own affair. A blob that one
// deletes by hand may be in use, and some registries delete it all the same.
func (r *remote) Collect(context.Context, time.Time) (Freed, error) { return Freed{}, nil }
