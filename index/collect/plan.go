package collect

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
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
	// SegmentLayers is the largest number of blobs in one segment; if less
	// than or equal to 0, 2,000.
	SegmentLayers int

	lost map[v1.Hash]bool // blobs that the registry does not have any more
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
	Kept, Removed index.Total
	// Freed is the size in bytes of the blobs that no segment will name any
	// more: what the registry can free in the end.
	Freed int64
	// Rewritten are the segments that will be replaced by Written new ones.
	Rewritten []format.SegmentInfo
	Written   int
	// Deletable are manifests that were replaced long enough ago to be
	// deleted now, Waiting those that were not.
	Deletable, Waiting []format.Retired

	opts    PlanOptions
	table   *table
	rewrite rewrite
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

// NewPlan decides what a collection removes and what it keeps. The snapshot must
// come from Sweep. Its error wraps ErrForeign if the cache was written by
// nixcache-oci.
func NewPlan(s *index.Snapshot, o PlanOptions) (*Plan, error) {
	if s.Foreign() {
		return nil, format.ErrForeign
	}
	if err := s.Damage(); err != nil {
		return nil, err
	}
	if s.Retired() == nil {
		return nil, errors.New("planning needs a snapshot that was read with the tag list")
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	if o.SegmentLayers <= 0 {
		o.SegmentLayers = index.DefaultSegmentLayers
	}
	unpinned := unpin(s, o.Unpin, o.Now)
	p := &Plan{opts: o, Verdicts: o.Retention.Judge(s.Publications(), unpinned, o.Now), table: newTable(s)}
	p.table.reach(&o, p.Verdicts)
	p.table.measure()
	p.rewrite = p.table.rewrite(&o, p.Verdicts, unpinned)
	for _, i := range p.rewrite.old {
		p.Rewritten = append(p.Rewritten, p.table.segments[i].Info)
	}
	p.Written = len(p.rewrite.new)
	for i := range p.table.blobs {
		switch b := &p.table.blobs[i]; {
		case !b.needed:
			p.Freed += b.size
		case b.sparse():
			p.Freed += b.size - b.live
		}
	}
	p.Deletable, p.Waiting = deletable(s, o.Now.Add(-o.Delay))
	p.list()
	return p, nil
}

// unpin adds the ends of pins that are asked for now.
func unpin(s *index.Snapshot, names []string, now time.Time) []format.Unpin {
	ends := s.Unpinned()
	for _, n := range names {
		end := format.Unpin{Name: n, Time: now.UTC()}
		for _, p := range s.Publications() {
			if p.Pin == n && p.Time.After(end.Time) {
				end.Time = p.Time // by a clock that is ahead of ours
			}
		}
		ends = append(ends, end)
	}
	return ends
}

// deletable divides the manifests that were replaced: those replaced until the
// given time, and the others. What is live again is in neither.
func deletable(s *index.Snapshot, until time.Time) (now, later []format.Retired) {
	live := map[string]bool{s.Digest(): true}
	for _, seg := range s.Loaded() {
		live[seg.Info.Manifest.String()] = true
	}
	for _, r := range s.Retired() {
		switch {
		case live[r.Manifest.String()]:
		case r.Since.After(until):
			later = append(later, r)
		default:
			now = append(now, r)
		}
	}
	// what was replaced first goes first
	slices.SortStableFunc(now, func(a, b format.Retired) int { return a.Since.Compare(b.Since) })
	return now, later
}

// list fills in what becomes of each path.
func (p *Plan) list() {
	t := p.table
	dir := t.snapshot.Config().Dir()
	p.Paths = make([]PlannedPath, 0, t.snapshot.Len())
	for i, seg := range t.segments {
		for line := range seg.Len() {
			r := &t.rows[t.start[i]+line]
			if !r.current {
				continue
			}
			k, _, _, _ := format.LineKeys(seg.Line(line))
			path := PlannedPath{
				Path: storepath.Path{Dir: dir, HashPart: string(k), Name: r.name}, NarSize: r.narSize, FileSize: r.fileSize,
				Added: time.Unix(r.added, 0).UTC(), Keep: r.kept != 0, Reason: t.why[r.kept],
			}
			total := &p.Kept
			if !path.Keep {
				path.Reason, total = t.why[r.gone], &p.Removed
			}
			total.Add(r.narSize, r.fileSize)
			p.Paths = append(p.Paths, path)
		}
	}
	slices.SortFunc(p.Paths, func(a, b PlannedPath) int {
		switch {
		case a.Keep != b.Keep && b.Keep:
			return -1
		case a.Keep != b.Keep:
			return 1
		case a.FileSize != b.FileSize:
			return cmp.Compare(b.FileSize, a.FileSize)
		}
		return strings.Compare(a.Path.HashPart, b.Path.HashPart)
	})
}
