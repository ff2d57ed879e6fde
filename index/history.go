package index

import (
	"cmp"
	"slices"
	"time"

	"github.com/org/nixoci-action/internal/storepath"
)

// Past is a publication, and what clients can get of it from the cache.
type Past struct {
	Time time.Time `json:"time"`
	Total
}

// History returns the last n complete publications of p's line, oldest first,
// with what their roots reach in the cache now, each store path once. The last
// one is p, if it is complete, whether it is recorded or not.
//
// A publication of which a collection has removed a root is left out. A root
// that the cache has never had, because an upstream cache has it, cannot be
// told from that by itself: it counts as one if p, which is complete in the
// cache and on upstream caches, lacks a root of the same attribute there, too.
func History(s *Snapshot, p Publication, n int) []Past {
	elsewhere := map[string]bool{}
	for _, r := range p.Roots {
		if !hasRoot(s, r) {
			elsewhere[label(r)] = true
		}
	}
	own := p.line()
	line := slices.DeleteFunc(s.Publications(), func(q Publication) bool {
		return q.line() != own || q.Time.Equal(p.Time) || q.Partial || slices.ContainsFunc(q.Roots, func(r Root) bool {
			return !elsewhere[label(r)] && !hasRoot(s, r)
		})
	})
	line = byTime(line)
	if !p.Partial {
		line = append(line, p)
	}
	m := measure{snapshot: s, segments: s.Loaded(), seen: map[position]int{}}
	past := []Past{}
	for _, q := range line[max(len(line)-max(n, 0), 0):] {
		past = append(past, Past{q.Time, m.reach(rootPaths(&q))})
	}
	return past
}

// label tells which roots of two publications are the same thing.
func label(r Root) string { return cmp.Or(r.Attr, r.Path[min(storepath.HashPartLen, len(r.Path)):]) }

func hasRoot(s *Snapshot, r Root) bool {
	_, ok := s.position(r.Path)
	return ok
}

// measure adds up closures. It decodes each line once, whatever number of
// closures it is in.
type measure struct {
	snapshot *Snapshot
	segments []*segment
	nodes    []node
	seen     map[position]int // which node
	round    int
}

// node is a path that a closure reached.
type node struct {
	refs              []position
	narSize, fileSize int64
	round             int // the last one that reached it
}

// reach adds up what is in the cache of the closure of store paths.
func (m *measure) reach(bases []string) Total {
	m.round++
	var t Total
	todo := m.positions(bases)
	for len(todo) > 0 {
		n := m.node(todo[len(todo)-1])
		todo = todo[:len(todo)-1]
		if n.round == m.round {
			continue
		}
		n.round = m.round
		t.Add(n.narSize, n.fileSize)
		todo = append(todo, n.refs...)
	}
	return t
}

func (m *measure) positions(bases []string) []position {
	list := make([]position, 0, len(bases))
	for _, b := range bases {
		if p, ok := m.snapshot.position(b); ok {
			list = append(list, p)
		}
	}
	return list
}

// node returns the node at p until the next one is made.
func (m *measure) node(p position) *node {
	i, ok := m.seen[p]
	if !ok {
		i = len(m.nodes)
		m.seen[p] = i
		var r row
		bases, _ := r.decode(m.segments[p.segment].line(int(p.line)), new([]blob))
		m.nodes = append(m.nodes, node{refs: m.positions(bases), narSize: r.narSize, fileSize: r.fileSize})
	}
	return &m.nodes[i]
}
