package collect

import (
	"cmp"
	"slices"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/storepath"
)

// Past is a publication, and what clients can get of it from the cache.
type Past struct {
	Time time.Time `json:"time"`
	index.Total
}

// History returns the last n complete publications of p's line, oldest first,
// with what their roots reach in the cache now, each store path once. The last
// one is p, if it is complete, whether it is recorded or not.
//
// A publication of which a collection has removed a root is left out. A root
// that the cache has never had, because an upstream cache has it, cannot be
// told from that by itself: it counts as one if p, which is complete in the
// cache and on upstream caches, lacks a root of the same attribute there, too.
func History(s *index.Snapshot, p format.Publication, n int) []Past {
	elsewhere := map[string]bool{}
	for _, r := range p.Roots {
		if !hasRoot(s, r) {
			elsewhere[label(r)] = true
		}
	}
	own := p.Line()
	line := slices.DeleteFunc(s.Publications(), func(q format.Publication) bool {
		return q.Line() != own || q.Time.Equal(p.Time) || q.Partial || slices.ContainsFunc(q.Roots, func(r format.Root) bool {
			return !elsewhere[label(r)] && !hasRoot(s, r)
		})
	})
	line = byTime(line)
	if !p.Partial {
		line = append(line, p)
	}
	m := measure{snapshot: s, segments: s.Loaded(), seen: map[index.Position]int{}}
	past := []Past{}
	for _, q := range line[max(len(line)-max(n, 0), 0):] {
		past = append(past, Past{q.Time, m.reach(rootPaths(&q))})
	}
	return past
}

// label tells which roots of two publications are the same thing.
func label(r format.Root) string {
	return cmp.Or(r.Attr, r.Path[min(storepath.HashPartLen, len(r.Path)):])
}

func hasRoot(s *index.Snapshot, r format.Root) bool {
	_, ok := s.Position(r.Path)
	return ok
}

// measure adds up closures. It decodes each line once, whatever number of
// closures it is in.
type measure struct {
	snapshot *index.Snapshot
	segments []*format.Segment
	nodes    []node
	seen     map[index.Position]int // which node
	round    int
}

// node is a path that a closure reached.
type node struct {
	refs              []index.Position
	narSize, fileSize int64
	round             int // the last one that reached it
}

// reach adds up what is in the cache of the closure of store paths.
func (m *measure) reach(bases []string) index.Total {
	m.round++
	var t index.Total
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

func (m *measure) positions(bases []string) []index.Position {
	list := make([]index.Position, 0, len(bases))
	for _, b := range bases {
		if p, ok := m.snapshot.Position(b); ok {
			list = append(list, p)
		}
	}
	return list
}

// node returns the node at p until the next one is made.
func (m *measure) node(p index.Position) *node {
	i, ok := m.seen[p]
	if !ok {
		i = len(m.nodes)
		m.seen[p] = i
		var r row
		bases, _ := r.decode(m.segments[p.Segment].Line(int(p.Line)), new([]blob))
		m.nodes = append(m.nodes, node{refs: m.positions(bases), narSize: r.narSize, fileSize: r.fileSize})
	}
	return &m.nodes[i]
}
