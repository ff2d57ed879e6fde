package discover

import (
	"slices"
	"strings"
)

// node is a place in the flake: an attribute that may have something to build, or
// a set of such.
type node struct {
	path   Attr
	parent *node
	// open tells that it is a set whose members are known. Only others have a
	// state.
	open    bool
	members []*node // in Nix's order
	state   state

	// by is the process that evaluates it now, or is about to.
	by    *worker
	index int // as gaps has counted last
	// alone tells that it is to be examined while nothing else is evaluated.
	alone bool
	// failed is what is known of its failure.
	failed pending
}

// state is how far the evaluation of a node is.
type state int

const (
	waiting state = iota
	running
	suspect // it has failed, and is to be examined
	done
)

// tree is what is known of a flake.
type tree struct {
	root  *node
	nodes map[string]*node
}

func newTree(tasks []Attr) *tree {
	t := &tree{root: &node{open: true}, nodes: map[string]*node{}}
	for _, path := range tasks {
		t.add(t.root, path)
	}
	return t
}

func (t *tree) add(parent *node, path Attr) *node {
	n := &node{path: path, parent: parent}
	parent.members = append(parent.members, n)
	t.nodes[key(path)] = n
	return n
}

// expand takes in the names of a set's members. Those of a set that is known
// already are the same.
func (t *tree) expand(n *node, names []string) {
	if n.open || n.state == done {
		return
	}
	n.open, n.state, n.by = true, done, nil
	for _, name := range names {
		t.add(n, append(slices.Clone(n.path), name))
	}
}

// key is an attribute path as one string. No name has a NUL in it.
func key(path Attr) string { return strings.Join(path, "\x00") }

// find returns a node, or nil.
func (t *tree) find(path Attr) *node { return t.nodes[key(path)] }

// items are all nodes but those of known members, in the order of evaluation.
func (t *tree) items() []*node {
	var items []*node
	var walk func(n *node)
	walk = func(n *node) {
		if !n.open {
			items = append(items, n)
		}
		for _, m := range n.members {
			walk(m)
		}
	}
	walk(t.root)
	return items
}

// task is the task that a node is or belongs to.
func (t *tree) task(n *node) *node {
	for n.parent != t.root {
		n = n.parent
	}
	return n
}

// gap is a row of waiting nodes.
type gap struct {
	nodes []*node
	// before and after are the processes that come to it: one that evaluates what
	// is before it, and one that evaluates backward what is after it.
	before, after *worker
}

// gaps are all rows of waiting nodes, the longest first, between processes.
func (t *tree) gaps(workers []*worker) (gaps []gap) {
	items := t.items()
	for i, n := range items {
		n.index = i
	}
	// where each process comes to next
	before, after := map[int]*worker{}, map[int]*worker{}
	for _, p := range workers {
		if p.examines || p.stopped {
			continue
		}
		n, step := p.place, 1
		if p.backward {
			step = -1
		}
		for n != nil && n.open {
			switch {
			case len(n.members) == 0:
				n = nil
			case p.backward:
				n = n.members[len(n.members)-1]
			default:
				n = n.members[0]
			}
			step = 0
		}
		if n == nil {
			continue
		}
		if p.backward {
			after[n.index+step] = p
		} else {
			before[n.index+step] = p
		}
	}
	for i := 0; i < len(items); i++ {
		if items[i].state != waiting {
			continue
		}
		g := gap{before: before[i]}
		for ; i < len(items) && items[i].state == waiting; i++ {
			g.nodes = append(g.nodes, items[i])
		}
		g.after = after[i-1]
		gaps = append(gaps, g)
	}
	slices.SortStableFunc(gaps, func(a, b gap) int { return len(b.nodes) - len(a.nodes) })
	return gaps
}

// entry returns where a process should begin in the gap, and in which direction:
// where no other comes to first.
func (g gap) entry() (n *node, backward bool) {
	switch {
	case g.before != nil && g.after != nil:
		return g.nodes[len(g.nodes)/2], false
	case g.before != nil:
		return g.nodes[len(g.nodes)-1], true
	}
	return g.nodes[0], false
}
