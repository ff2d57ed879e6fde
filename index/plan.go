package index

import (
	"errors"
	"time"

	"github.com/org/nixoci-action/internal/storepath"
)

// PlanOptions says what a collection is to keep.
type PlanOptions struct {
	// Now is the time of the plan; zero means the current time.
	Now       time.Time
	Retention Retention
	// Keep are store paths to keep besides the publications' roots.
	Keep []Keep
	// Unpin are names of pins to end.
	Unpin []string
	// Delay is the age below which no entry is removed, and the time for
	// which a replaced segment stays. Publishes that take longer than half of
	// it, or readers that have not looked at the index for so long, may miss
	// something. 24 h is safe for every reader and writer of this module.
	Delay time.Duration
}

// Keep is a reason to keep store paths.
type Keep struct {
	Reason string
	// Paths are base names. Those that the cache does not have are passed
	// over.
	Paths []string
}

// Plan is what a collection would do to a cache. It is a value: making it
// writes nothing.
type Plan struct {
	// Verdicts are about the publications, oldest first.
	Verdicts []Verdict
	// Paths are all store paths in the cache: those to be removed first, each
	// part with the largest first.
	Paths []PlannedPath
	// Kept and Removed count them.
	Kept, Removed Total
	// Freed is the size in bytes of the blobs that no segment will name any
	// more: what the registry can free in the end.
	Freed int64
	// Rewritten are the segments that will be replaced by Written new ones.
	Rewritten []SegmentInfo
	Written   int
	// Deletable are manifests that were replaced long enough ago to be
	// deleted now, Waiting those that were not.
	Deletable, Waiting []Retired
}

// PlannedPath is what becomes of one store path.
type PlannedPath struct {
	Path storepath.Path
	// NarSize and FileSize are in bytes, uncompressed and compressed.
	NarSize, FileSize int64
	Added             time.Time
	Keep              bool
	Reason            string
}

// Total counts store paths and their sizes in bytes.
type Total struct {
	Paths    int   `json:"paths"`
	NarSize  int64 `json:"narSize"`
	FileSize int64 `json:"fileSize"`
}

// Plan decides what a collection removes and what it keeps.
func (s *Snapshot) Plan(o PlanOptions) (*Plan, error) { return nil, errors.ErrUnsupported }
