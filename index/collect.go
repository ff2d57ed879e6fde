package index

import (
	"context"
	"errors"

	"github.com/org/nixoci-action/internal/registry"
)

// Collected tells what a collection did.
type Collected struct {
	// Removed counts the store paths that are no longer in the cache.
	Removed Total
	// Rewritten is the number of segments that were replaced, Segments are
	// those that were written.
	Rewritten int
	Segments  []SegmentInfo
	// Repacked is the number of bytes that were copied into new packs.
	Repacked int64
	// Deleted is the number of manifests that were deleted, Waiting those
	// that must wait for the delay to pass.
	Deleted int
	Waiting []Retired
	// Refused are the manifests that the registry does not delete.
	Refused []Refusal
	// Freed is what was freed in a directory.
	Freed registry.Freed
	// Lost are entries that were removed because the registry has lost their
	// blobs, or those of something they refer to.
	Lost []Entry
}

// Refusal is a manifest that stays although nobody needs it. Err is a
// *registry.RefusedError or tells why it was not tried.
type Refusal struct {
	Retired
	Err error
}

// Collect does what a plan says: it writes the segments that replace others,
// then the root, then deletes the manifests that were replaced long enough
// ago. It can be interrupted at any point and called again with a new plan;
// other writers and other collections may run at the same time. If there is an
// error, Collected tells what was done until then.
func (c *Cache) Collect(ctx context.Context, p *Plan) (Collected, error) {
	return Collected{}, errors.ErrUnsupported
}
