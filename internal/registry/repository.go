// Package registry stores the manifests and blobs of one repository: in an OCI
// registry over HTTP, or in a directory in the OCI image layout.
//
// It knows the OCI protocol, authentication, retries and rate limits. It does
// not know what the blobs mean.
package registry

import (
	"context"
	"errors"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// ErrNotFound is wrapped by the errors of look-ups whose object is certainly
// absent: the registry answered 404, or the layout has no such file. No other
// failure wraps it: "could not read" is never "absent".
var ErrNotFound = errors.New("not found")

// MaxManifestSize is the largest manifest that is read, in bytes; most
// registries accept no larger one.
const MaxManifestSize = 4 << 20

// Manifest is a manifest as stored.
type Manifest struct {
	// MediaType is the manifest's own media type.
	MediaType string
	// Digest is the digest of Raw. PutManifest ignores it.
	Digest v1.Hash
	// Raw is the JSON document, byte for byte.
	Raw []byte
}

// Repository is one repository of a registry. Implementations are safe for
// concurrent use. Every method observes its context; transient failures are
// retried inside, with backoff, so callers add no second loop.
type Repository interface {
	// String is the name as a user would write it for --cache.
	String() string

	// Manifest fetches the manifest that ref, a tag or a digest
	// ("sha256:<hex>"), names. Reading by digest is verified.
	Manifest(ctx context.Context, ref string) (Manifest, error)

	// Resolve returns the digest that tag points to, without fetching it.
	Resolve(ctx context.Context, tag string) (v1.Hash, error)

	// PutManifest stores m under ref and returns its digest. ref is a tag, or
	// the digest of m, under which it gets no tag. If blobs that the manifest
	// names are missing, the error is a *MissingBlobsError; if the registry does
	// not take such a manifest, Refused is true for it.
	PutManifest(ctx context.Context, ref string, m Manifest) (v1.Hash, error)

	// Tags lists all tags, in no particular order. A repository that does
	// not exist has none.
	Tags(ctx context.Context) ([]string, error)

	// Blob opens length bytes of a blob, beginning at offset; length -1 means
	// up to the end, and 0 is refused. The reader fails if the registry sends fewer bytes. A
	// read of a whole blob (0, -1) is verified against its digest at the
	// end; a partial read is not and must be verified by the caller. The
	// caller closes the reader.
	Blob(ctx context.Context, digest v1.Hash, offset, length int64) (io.ReadCloser, error)

	// BlobSize returns the size of a blob in bytes.
	BlobSize(ctx context.Context, digest v1.Hash) (int64, error)

	// PutBlob stores data, without asking first whether it is there.
	PutBlob(ctx context.Context, data []byte) (v1.Descriptor, error)

	// WriteBlob stores what write writes, as it is written; only a bounded
	// part is held in memory. write is called again from the start if the
	// transfer must be repeated. If write fails nothing is stored and its
	// error is returned. The descriptor has no media type.
	WriteBlob(ctx context.Context, write func(w io.Writer) error) (v1.Descriptor, error)

	// DeleteManifest deletes the manifest with the digest, and tag unless it
	// is "" or points elsewhere. What is absent counts as deleted. If the
	// registry refuses, and would again, the error is a *RefusedError. No
	// blob is deleted.
	DeleteManifest(ctx context.Context, tag string, digest v1.Hash) error

	// Untagged lists the manifests that have no tag and were stored before
	// the given time, as far as the registry tells; most tell nothing.
	Untagged(ctx context.Context, before time.Time) ([]v1.Hash, error)

	// Collect frees the blobs that no manifest names and that were stored
	// before the given time, where nobody else does: in a directory. A
	// registry frees blobs itself; then the result is zero.
	Collect(ctx context.Context, before time.Time) (Freed, error)
}

// Freed tells what Collect has freed.
type Freed struct {
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
}

// RefusedError tells that a registry does not delete a manifest, and will not
// if it is asked again.
type RefusedError struct {
	// All says that it would refuse to delete anything else, too.
	All bool
	// Reason is what the registry says, Remedy what the user can do; "" if
	// nothing is known.
	Reason, Remedy string
	Err            error
}

func (e *RefusedError) Error() string { return "the registry does not delete: " + e.Reason }
func (e *RefusedError) Unwrap() error { return e.Err }

// MissingBlobsError tells that a manifest was refused because blobs that it
// names are not in the repository.
type MissingBlobsError struct {
	// Digests are the missing blobs the registry named; empty if it did not
	// say which.
	Digests []v1.Hash
	Err     error
}

func (e *MissingBlobsError) Error() string { return "blobs are missing: " + e.Err.Error() }
func (e *MissingBlobsError) Unwrap() error { return e.Err }
