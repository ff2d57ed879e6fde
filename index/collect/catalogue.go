package collect

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/storepath"
)

// Catalogue is all that a snapshot has, for people who look around in it. It
// is the caller's: the snapshot keeps nothing of it.
type Catalogue struct {
	// Paths are the store paths that clients can get, by name and then by hash
	// part.
	Paths []CataloguePath
	// Verdicts are about the publications, in the order in which they were
	// made.
	Verdicts []Verdict
}

// CataloguePath is a store path, and what a collection would do to it.
type CataloguePath struct {
	HashPart, Name string
	// NarSize and FileSize are in bytes, uncompressed and compressed.
	NarSize, FileSize int64
	// Added is when the path was last known to be wanted, in Unix seconds.
	Added int64
	// References are positions in Paths: of the references that the cache
	// has, without the path itself.
	References []int32
	// Keep and Reason are what a Plan says of the path.
	Keep   bool
	Reason string
}

// NewCatalogue decodes every entry, on all processors. What it says of keeping
// is what a plan with the same options says, but a plan needs the tag list, and
// this does not. At 100,000 entries it takes some tenths of a second.
func NewCatalogue(s *index.Snapshot, o PlanOptions) *Catalogue {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	c := &Catalogue{Verdicts: o.Retention.Judge(s.Publications(), unpin(s, o.Unpin, o.Now), o.Now)}
	t := newTable(s)
	t.reach(&o, c.Verdicts)
	rows, keys := t.listed()
	place := make([]int32, len(t.rows)) // in Paths, counted from 1
	for i, r := range rows {
		place[r] = int32(i) + 1
	}
	c.Paths = make([]CataloguePath, len(rows))
	for i, n := range rows {
		r := &t.rows[n]
		reason := r.kept
		if reason == 0 {
			reason = r.gone
		}
		refs := slices.DeleteFunc(r.refs, func(ref int32) bool { return place[ref] == 0 })
		for j, ref := range refs {
			refs[j] = place[ref] - 1
		}
		slices.Sort(refs)
		c.Paths[i] = CataloguePath{
			HashPart: keys[n], Name: r.name, NarSize: r.narSize, FileSize: r.fileSize, Added: r.added,
			References: slices.Compact(refs), Keep: r.kept != 0, Reason: t.why[reason],
		}
	}
	return c
}

// listed returns the rows that readers see, sorted, and the hash parts of all
// of them.
func (t *table) listed() (rows []int32, hashParts []string) {
	hashParts = make([]string, len(t.rows))
	for i, seg := range t.segments {
		for line := range seg.Len() {
			n := t.start[i] + line
			r := &t.rows[n]
			if !r.current || r.damaged {
				continue
			}
			k, _, _, _ := format.LineKeys(seg.Line(line))
			hashParts[n] = string(k)
			if _, err := storepath.ParseBase(hashParts[n] + "-" + r.name); err == nil {
				rows = append(rows, int32(n)) //nolint:gosec // bounded by maxEntries
			}
		}
	}
	slices.SortFunc(rows, func(a, b int32) int {
		return cmp.Or(strings.Compare(t.rows[a].name, t.rows[b].name), strings.Compare(hashParts[a], hashParts[b]))
	})
	return rows, hashParts
}
