package index

import (
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/storepath"
)

// Snapshot is the cache index as it was at one moment. It is immutable and
// safe for concurrent use.
type Snapshot struct {
	digest   v1.Hash
	stub     v1.Hash // the root's first layer
	config   format.Config
	keys     format.KeyChain
	first    []string             // the keys with which that begins
	segments []*format.Segment    // oldest first
	retired  []format.Retired     // nil if they were not read
	listed   []format.SegmentInfo // by the root
	extra    []format.SegmentInfo // found by a sweep, unknown to the root
	foreign  bool                 // one of the segments is nixcache-oci's index
	skipped  []string             // hash parts of entries there that cannot be used
	oranc    []string             // hash parts of oranc's narinfos
	damage   []*DamageError       // what could not be used
	now      time.Time            // when it was read

	entries map[[storepath.HashPartLen]byte]Position
	removed map[[storepath.HashPartLen]byte]int64      // see Removal
	nars    func() map[[bincache.HashLen]byte]Position // by NAR hash, made on first use
	files   func() map[[bincache.HashLen]byte]Position // by file hash

	extraKeys func() *extraKeys
}

// Position is an entry's place: which segment, which line.
type Position struct{ Segment, Line int32 }

func newSnapshot(now time.Time, digest v1.Hash, list rootState, segments []*format.Segment, extra []format.SegmentInfo) *Snapshot {
	slices.SortFunc(segments, func(a, b *format.Segment) int {
		if c := a.Info.Created.Compare(b.Info.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Info.Tag, b.Info.Tag)
	})
	s := &Snapshot{
		digest: digest, stub: list.stub, segments: segments, retired: list.retired, listed: list.Segments, extra: extra,
		foreign: list.foreign != nil, skipped: list.skipped, oranc: list.oranc, damage: list.damage, now: now,
	}
	n := 0
	for _, seg := range segments {
		n += seg.Len()
		s.config = s.config.Merge(seg.Header.Config)
		s.remove(seg)
	}
	s.config = s.config.Merge(list.Config)
	s.entries = make(map[[storepath.HashPartLen]byte]Position, n)
	s.each(func(p Position, line []byte) {
		k, _, _, _ := format.LineKeys(line)
		key := [storepath.HashPartLen]byte(k)
		if s.hidden(key, p) {
			return
		}
		if old, ok := s.entries[key]; ok && s.newer(old, p) {
			return
		}
		s.entries[key] = p
	})
	byHash := func(pick func(line []byte) []byte) func() map[[bincache.HashLen]byte]Position {
		return sync.OnceValue(func() map[[bincache.HashLen]byte]Position {
			m := make(map[[bincache.HashLen]byte]Position, len(s.entries))
			for _, p := range s.entries {
				m[[bincache.HashLen]byte(pick(s.segments[p.Segment].Line(int(p.Line))))] = p
			}
			return m
		})
	}
	s.nars = byHash(func(line []byte) []byte { _, n, _, _ := format.LineKeys(line); return n })
	s.files = byHash(func(line []byte) []byte { _, _, f, _ := format.LineKeys(line); return f })
	s.extraKeys = sync.OnceValue(s.findExtras)
	return s
}

// Empty is a cache that has nothing.
func Empty() *Snapshot { return newSnapshot(time.Now(), v1.Hash{}, rootState{}, nil, nil) }

// remove hides what a collection has removed, nothing that was added after it.
func (s *Snapshot) remove(seg *format.Segment) {
	rs, latest := seg.Header.Removed, s.believed(seg).Unix()
	if s.removed == nil && len(rs) > 0 {
		s.removed = make(map[[storepath.HashPartLen]byte]int64, len(rs))
	}
	for _, r := range rs {
		if len(r.HashPart) == storepath.HashPartLen {
			key := [storepath.HashPartLen]byte([]byte(r.HashPart))
			s.removed[key] = max(s.removed[key], min(r.Added, latest))
		}
	}
}

// hidden reports whether the entry at p has been removed.
func (s *Snapshot) hidden(key [storepath.HashPartLen]byte, p Position) bool {
	until, ok := s.removed[key]
	if !ok {
		return false
	}
	added := s.segments[p.Segment].AddedAt(int(p.Line)) // as it was copied
	return added != format.AddedNever && added <= until
}

// newer reports whether the entry at a was added later than the one at b, of a
// later or the same segment. A merged segment is younger than its entries, so
// the age of segments decides only where the entries' own does not.
func (s *Snapshot) newer(a, b Position) bool { return s.added(a) > s.added(b) }

// added is what tells which of two entries counts. An entry cannot have been added
// long after its segment was created; that of a segment which is itself from the
// future gives way to any other, so that it shadows none for ever.
func (s *Snapshot) added(p Position) int64 {
	seg := s.segments[p.Segment]
	at := seg.AddedAt(int(p.Line))
	switch {
	case at == format.AddedNever:
	case s.ahead(seg):
		return format.AddedNever + 1
	default:
		at = min(at, s.believed(seg).Unix())
	}
	return at
}

// ahead reports whether a segment says that it was created after now, by more than
// clocks differ.
func (s *Snapshot) ahead(seg *format.Segment) bool {
	return seg.Header.Created.After(s.now.Add(format.MaxClockSkew))
}

// believed is the latest time that a segment may speak of.
func (s *Snapshot) believed(seg *format.Segment) time.Time {
	switch {
	case s.ahead(seg):
		return s.now
	case seg.Header.Created.IsZero(): // nixcache-oci's index
		return s.now.Add(format.MaxClockSkew)
	}
	return seg.Header.Created.Add(format.MaxClockSkew)
}

func (s *Snapshot) each(f func(Position, []byte)) {
	for i, seg := range s.segments {
		for j := range seg.Len() {
			f(Position{int32(i), int32(j)}, seg.Line(j))
		}
	}
}

// At decodes the entry at a place, if that is one.
func (s *Snapshot) At(p Position) (format.Entry, bool) { return s.at(p, true) }

func (s *Snapshot) at(p Position, ok bool) (format.Entry, bool) {
	if !ok {
		return format.Entry{}, false
	}
	seg := s.segments[p.Segment]
	e, err := format.DecodeLine(seg.Line(int(p.Line)), s.config.Dir())
	if latest := s.believed(seg); e.Added.After(latest) {
		e.Added = latest.Truncate(time.Second)
	}
	return e, err == nil
}

// Has reports whether the cache has an entry for a hash part.
func (s *Snapshot) Has(hashPart string) bool {
	if len(hashPart) != storepath.HashPartLen {
		return false
	}
	_, ok := s.entries[[storepath.HashPartLen]byte([]byte(hashPart))]
	return ok
}

// Lookup returns the entry for a hash part. An entry that does not decode
// counts as absent.
func (s *Snapshot) Lookup(hashPart string) (format.Entry, bool) {
	if len(hashPart) != storepath.HashPartLen {
		return format.Entry{}, false
	}
	p, ok := s.entries[[storepath.HashPartLen]byte([]byte(hashPart))]
	return s.at(p, ok)
}

// LookupNAR returns an entry whose compressed NAR has the given file hash: the
// 52 characters of Nix base32 that stand in its URL.
func (s *Snapshot) LookupNAR(fileHash string) (format.Entry, bool) {
	return s.byHash(s.files, fileHash)
}

// LookupNARHash returns an entry whose uncompressed NAR has the given hash
// ("sha256:" and 52 characters of Nix base32).
func (s *Snapshot) LookupNARHash(narHash string) (format.Entry, bool) {
	return s.byHash(s.nars, bincache.HashDigits(narHash))
}

func (s *Snapshot) byHash(m func() map[[bincache.HashLen]byte]Position, hash string) (format.Entry, bool) {
	if len(hash) != bincache.HashLen {
		return format.Entry{}, false
	}
	p, ok := m()[[bincache.HashLen]byte([]byte(hash))]
	return s.at(p, ok)
}

// Len returns the number of store paths in the cache.
func (s *Snapshot) Len() int { return len(s.entries) }

// All calls yield for each entry, in no particular order, until it returns
// false.
func (s *Snapshot) All(yield func(format.Entry) bool) {
	for _, p := range s.entries {
		if e, ok := s.at(p, true); ok && !yield(e) {
			return
		}
	}
}

// Config returns the cache's configuration.
func (s *Snapshot) Config() format.Config { return s.config }

// Keys returns the keys of the cache, as far as the keys with which the Cache was
// opened, or those that it has seen first, vouch for them.
func (s *Snapshot) Keys() format.KeyChain { return s.keys }

// KeysAfter returns what Keys would be if the configuration had c as well.
func (s *Snapshot) KeysAfter(c format.Config) format.KeyChain {
	merged := s.config.Merge(c)
	return merged.Keys(s.first)
}

// KeysWith returns what Keys would be if it began with more keys as well.
func (s *Snapshot) KeysWith(more []string) format.KeyChain {
	return s.config.Keys(format.Union(s.first, more))
}

// KeysFrom returns the keys for which the given ones vouch.
func (s *Snapshot) KeysFrom(roots []string) format.KeyChain {
	return s.config.Keys(roots)
}

// Digest returns the root's digest, or "" if there is no root.
func (s *Snapshot) Digest() string {
	if s.digest == (v1.Hash{}) {
		return ""
	}
	return s.digest.String()
}

// Absent reports whether there is no cache: neither a root nor a segment, not even
// a damaged one, nor what oranc has stored.
func (s *Snapshot) Absent() bool {
	return s.digest == (v1.Hash{}) && len(s.segments)+len(s.damage)+len(s.oranc) == 0
}

// Segments returns the live segments, oldest first.
func (s *Snapshot) Segments() []format.SegmentInfo {
	infos := make([]format.SegmentInfo, 0, len(s.segments))
	for _, seg := range s.segments {
		if seg.Info.Tag != "" { // not nixcache-oci's index
			infos = append(infos, seg.Info)
		}
	}
	return infos
}

// Changed returns when the newest segment was made, nixcache-oci's index among
// them; zero if nothing says it.
func (s *Snapshot) Changed() time.Time {
	var last time.Time
	for _, seg := range s.segments {
		for _, t := range []time.Time{seg.Header.Created, seg.Generated} {
			if t.After(last) {
				last = t
			}
		}
	}
	return last
}

// Loaded returns the live segments as they were read, oldest first. Of a
// snapshot that is Foreign one of them is nixcache-oci's index; it has no tag.
// The caller must not change them.
func (s *Snapshot) Loaded() []*format.Segment { return s.segments }

// Complete reports whether the root names all live segments.
func (s *Snapshot) Complete() bool { return len(s.extra) == 0 }

// Retired returns the manifests that do not count any more; nil if they were
// not read: see Cache.Sweep.
func (s *Snapshot) Retired() []format.Retired { return s.retired }

// RemovedUntil tells that a collection has removed the entries of a hash part
// that were added until then, in Unix seconds.
func (s *Snapshot) RemovedUntil(hashPart string) (int64, bool) {
	until, ok := s.removed[[storepath.HashPartLen]byte([]byte(hashPart))]
	return until, ok
}

// Publications returns the records of what was published, oldest segment
// first.
func (s *Snapshot) Publications() []format.Publication {
	var ps []format.Publication
	for _, seg := range s.segments {
		ps = append(ps, seg.Header.Publications...)
	}
	return ps
}

// Published reports whether the newest publication of p's line says the same
// as p and was recorded at or after since, so that recording it again would
// tell nobody anything.
func (s *Snapshot) Published(p format.Publication, since time.Time) bool {
	own := p.Line()
	line := slices.DeleteFunc(s.Publications(), func(q format.Publication) bool { return q.Line() != own })
	if len(line) == 0 {
		return false
	}
	newest := slices.MaxFunc(line, func(a, b format.Publication) int { return a.Time.Compare(b.Time) })
	unpinned := slices.ContainsFunc(s.Unpinned(), func(u format.Unpin) bool { return u.Ends(newest) })
	return newest.Same(p) && !newest.Time.Before(since) && !unpinned
}

// PinEnds returns those of the ends of pins that still end one.
func (s *Snapshot) PinEnds(ends []format.Unpin) []format.Unpin {
	ends = slices.DeleteFunc(slices.Clone(ends), func(u format.Unpin) bool {
		return !slices.ContainsFunc(s.Publications(), u.Ends)
	})
	slices.SortFunc(ends, func(a, b format.Unpin) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return b.Time.Compare(a.Time)
	})
	return slices.CompactFunc(ends, func(a, b format.Unpin) bool { return a.Name == b.Name })
}

// Unpinned returns the ends of pins, of each name the latest.
func (s *Snapshot) Unpinned() []format.Unpin {
	var ends []format.Unpin
	for _, seg := range s.segments {
		ends = append(ends, seg.Header.Unpinned...)
	}
	return s.PinEnds(ends)
}

// Position finds the line of a store path that counts, by the path's base name
// or hash part.
func (s *Snapshot) Position(base string) (Position, bool) {
	if len(base) < storepath.HashPartLen {
		return Position{}, false
	}
	p, ok := s.entries[[storepath.HashPartLen]byte([]byte(base))]
	return p, ok
}

// Oranc returns the number of store paths that oranc has put into the
// repository, as far as the tag list was read for this snapshot, and how many
// of them the cache has, too.
func (s *Snapshot) Oranc() (paths, present int) {
	for _, hashPart := range s.oranc {
		if s.Has(hashPart) {
			present++
		}
	}
	return len(s.oranc), present
}
