package collect

import (
	"slices"
	"time"

	"github.com/org/nixoci-action/index/format"
)

// Limits of the segments that a collection writes. It runs once a day or a
// week, so it may make readers fetch more than a publish does.
const (
	maxCollected = 32 << 10 // entries
	// mergedPart is the part of the largest segment from which on one is left
	// as it is.
	mergedPart = 4
)

// rewrite is a set of segments and what replaces them.
type rewrite struct {
	old     []int         // positions of the segments, oldest first
	new     [][]int32     // the rows of each new segment
	header  format.Header // of the last new segment: the replacement counts when all of them are there
	removed []int32       // rows of paths that the cache will no longer have
}

// empty reports whether there is nothing to do.
func (rw *rewrite) empty() bool { return len(rw.new) == 0 }

// rewrite finds the segments with lines or blobs that nobody needs, and those
// that have piled up.
func (t *table) rewrite(o *PlanOptions, verdicts []Verdict, unpinned []format.Unpin) rewrite {
	var rw rewrite
	s := t.snapshot
	stale := make([]bool, len(t.segments))
	for i, seg := range t.segments {
		forget := len(seg.Header.Removed) > 0 && seg.Header.Created.Before(o.Now.Add(-2*o.Delay))
		stale[i] = forget || t.stale(i)
	}
	for _, class := range s.PiledUp(maxCollected/mergedPart, o.SegmentLayers/mergedPart) {
		for _, i := range class {
			stale[i] = true
		}
	}
	t.withCopies(stale)
	for i := range t.segments {
		if stale[i] {
			rw.old = append(rw.old, i)
		}
	}
	rw.new = t.divide(t.staying(rw.old), o.SegmentLayers)
	rw.header = t.header(rw.old, verdicts, o.Now.Add(-o.Delay))
	rw.header.Unpinned = s.PinEnds(unpinned)
	rw.removed, rw.header.Removed = t.removals(o.Now.Add(-o.Delay))
	if len(rw.header.Removed) > 0 || len(rw.new) == 0 && (len(rw.old) > 0 || !slices.Equal(rw.header.Unpinned, s.Unpinned())) {
		// what was removed is of interest for as long as somebody may copy
		// it: a segment of its own is cheap to replace
		rw.new = append(rw.new, nil)
	}
	return rw
}

// withCopies adds the segments that have the current copies of lines in those
// that will be replaced. A copy in a segment that stays is no reason to leave a
// line out: who has made it, another collection or a compaction, may be about to
// replace that segment by the one that we replace. A copy has the same time; what
// was added again later is no copy.
func (t *table) withCopies(stale []bool) {
	s := t.snapshot
	var todo []int
	for i := range stale {
		if stale[i] {
			todo = append(todo, i)
		}
	}
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for line := range t.segments[i].Len() {
			r := &t.rows[t.start[i]+line]
			if r.current || r.damaged || r.hidden {
				continue
			}
			k, _, _, _ := format.LineKeys(t.segments[i].Line(line))
			winner, ok := s.Position(string(k))
			if ok && !stale[winner.Segment] && t.rows[t.row(winner)].added == r.added {
				stale[winner.Segment] = true
				todo = append(todo, int(winner.Segment))
			}
		}
	}
}

// removals lists the rows of paths that go, and what is to be remembered of
// them and of copies of what was removed before.
func (t *table) removals(until time.Time) (rows []int32, remember []format.Removal) {
	for i, seg := range t.segments {
		for line := range seg.Len() {
			n := t.start[i] + line
			r := &t.rows[n]
			goes := r.current && r.kept == 0
			if goes {
				rows = append(rows, int32(n)) //nolint:gosec // bounded by maxEntries
			}
			if (goes || r.hidden) && !r.damaged && r.added <= until.Unix() {
				k, _, _, _ := format.LineKeys(seg.Line(line))
				remember = append(remember, format.Removal{HashPart: string(k), Added: r.added})
			}
		}
	}
	return rows, remember
}

// stale reports whether a segment names a path or a blob that is to go.
func (t *table) stale(segment int) bool {
	s := t.snapshot
	seg := t.segments[segment]
	for line := range seg.Len() {
		r := &t.rows[t.start[segment]+line]
		if r.damaged {
			return true
		}
		for _, b := range t.blobsOf(r) {
			if !t.blobs[b].needed || t.blobs[b].sparse() {
				return true
			}
		}
		k, _, _, _ := format.LineKeys(seg.Line(line))
		// a line that is superseded would come back without the one that
		// supersedes it
		winner, ok := s.Position(string(k))
		if !ok || r.hidden || !t.rows[t.row(winner)].stays() {
			return true
		}
	}
	return false
}

// staying lists the rows of segments that stay.
func (t *table) staying(segments []int) []int32 {
	var rows []int32
	for _, i := range segments {
		for line := range t.segments[i].Len() {
			if n := t.start[i] + line; t.rows[n].stays() {
				rows = append(rows, int32(n)) //nolint:gosec // bounded by maxEntries
			}
		}
	}
	return rows
}

// divide cuts rows into those of one segment each.
func (t *table) divide(rows []int32, maxLayers int) [][]int32 {
	var out [][]int32
	start := 0
	blobs := map[int32]bool{}
	for i, n := range rows {
		named := t.blobsOf(&t.rows[n])
		more := 0
		for _, b := range named {
			if !blobs[b] {
				more++
			}
		}
		if i-start == maxCollected || i > start && more > 0 && len(blobs)+more > maxLayers {
			out = append(out, rows[start:i])
			start, blobs = i, map[int32]bool{}
		}
		for _, b := range named {
			blobs[b] = true
		}
	}
	if start < len(rows) {
		out = append(out, rows[start:])
	}
	return out
}

// header gathers what the headers of segments say. Publications that have not
// been kept since the given time are forgotten; until then they tell why a
// path is no longer wanted.
func (t *table) header(segments []int, verdicts []Verdict, since time.Time) format.Header {
	h := t.snapshot.Replacing(segments)
	h.Publications = slices.DeleteFunc(h.Publications, func(p format.Publication) bool {
		i := slices.IndexFunc(verdicts, func(v Verdict) bool { return v.Publication.Time.Equal(p.Time) && v.Publication.Same(p) })
		return i >= 0 && !verdicts[i].Keep && verdicts[i].Until.Before(since)
	})
	return h
}
