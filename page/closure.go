package page

import (
	"math/bits"
	"slices"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
)

// maxSums is the largest number of paths whose closures are all added up. The
// time grows with its square, where everything refers to nearly everything: a
// second or two for 100,000.
const maxSums = 200_000

// blockWords is how many words of 64 paths are looked at in one pass: two
// cache lines of each path, 13 MB for 100,000.
const blockWords = 16

// closures adds up the closure of each path, exactly, or returns nil if there
// are too many paths.
//
// To walk each closure would take minutes where they overlap much. Here each
// pass finds out which paths of a block are in which closures, by one OR for
// each reference, in an order in which references come first.
func closures(paths []collect.CataloguePath) []index.Total {
	n := len(paths)
	if n > maxSums {
		return nil
	}
	order, cyclic := referencesFirst(paths)
	place := make([]int32, n)
	for at, i := range order {
		place[i] = number(at)
	}
	totals := make([]index.Total, n)
	set := make([]uint64, n*blockWords)
	has := make([]bool, n) // whether the set is not empty; else it may be stale
	at := func(i int) *[blockWords]uint64 { return (*[blockWords]uint64)(set[i*blockWords:]) }
	sums := new(blockSums)
	for first := 0; first < n; first += 64 * blockWords {
		last := min(first+64*blockWords, n)
		start := first // what comes before refers to nothing that comes later
		if cyclic {
			start = 0
		}
		clear(has)
		for again := true; again; {
			again = false
			for i := start; i < n; i++ {
				mine, before, had := at(i), [blockWords]uint64{}, has[i]
				if had { // the second time round a cycle
					before = *mine
				} else if i < first || i >= last {
					// most closures have nothing of most blocks
					has[i] = slices.ContainsFunc(paths[order[i]].References, func(r int32) bool { return has[place[r]] })
					if !has[i] {
						continue
					}
				}
				has[i] = true
				*mine = before
				if i >= first && i < last {
					mine[(i-first)/64] |= 1 << ((i - first) % 64)
				}
				for _, r := range paths[order[i]].References {
					if ref := int(place[r]); has[ref] && ref != i {
						theirs := at(ref)
						for w := range mine {
							mine[w] |= theirs[w]
						}
					}
				}
				again = again || cyclic && (!had || *mine != before)
			}
		}
		sums.fill(paths, order[first:last])
		for i := start; i < n; i++ {
			if has[i] {
				sums.add(&totals[order[i]], at(i))
			}
		}
	}
	return totals
}

// blockSums has, for each eight paths of a block, the sizes of all their
// subsets.
type blockSums [blockWords * 8][256]struct{ nar, file int64 }

func (s *blockSums) fill(paths []collect.CataloguePath, block []int32) {
	for group := range s {
		for subset := 1; subset < 256; subset++ {
			low := bits.TrailingZeros8(uint8(subset))
			s[group][subset] = s[group][subset&(subset-1)]
			if at := 8*group + low; at < len(block) {
				s[group][subset].nar += paths[block[at]].NarSize
				s[group][subset].file += paths[block[at]].FileSize
			}
		}
	}
}

func (s *blockSums) add(t *index.Total, set *[blockWords]uint64) {
	for w, word := range set {
		t.Paths += bits.OnesCount64(word)
		for group := 8 * w; word != 0; word >>= 8 {
			sum := &s[group][word&255]
			t.NarSize += sum.nar
			t.FileSize += sum.file
			group++
		}
	}
}

// referencesFirst orders paths so that references come first. It reports
// whether that is impossible: Nix makes no cycles, but an index could have one.
func referencesFirst(paths []collect.CataloguePath) (order []int32, cyclic bool) {
	const entered, left = 1, 2
	state := make([]byte, len(paths))
	order = make([]int32, 0, len(paths))
	type frame struct {
		path int32
		next int // reference
	}
	var stack []frame
	for i := range paths {
		if state[i] != 0 {
			continue
		}
		state[i] = entered
		stack = append(stack, frame{path: number(i)})
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			refs := paths[top.path].References
			if top.next == len(refs) {
				state[top.path] = left
				order = append(order, top.path)
				stack = stack[:len(stack)-1]
				continue
			}
			r := refs[top.next]
			top.next++
			switch state[r] {
			case 0:
				state[r] = entered
				stack = append(stack, frame{path: r})
			case entered:
				cyclic = true
			}
		}
	}
	return order, cyclic
}

// reach marks everything that paths lead to, themselves included.
func reach(n int, from []int32, next func(int32) []int32) []bool {
	seen := make([]bool, n)
	todo := append([]int32(nil), from...)
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !seen[i] {
			seen[i] = true
			todo = append(todo, next(i)...)
		}
	}
	return seen
}

func (c *catalogue) references(i int32) []int32 { return c.paths[i].References }

// closure marks the closure of paths.
func (c *catalogue) closure(from []int32) []bool { return reach(len(c.paths), from, c.references) }

// users marks what has a path in its closure.
func (c *catalogue) users(of int32) []bool {
	return reach(len(c.paths), []int32{of}, func(i int32) []int32 { return c.referrers[i] })
}

// sum adds up marked paths.
func (c *catalogue) sum(marked []bool) (t index.Total) {
	for i, m := range marked {
		if m {
			add(&t, index.Total{Paths: 1, NarSize: c.paths[i].NarSize, FileSize: c.paths[i].FileSize})
		}
	}
	return t
}

// closureOf is the size of one path's closure.
func (c *catalogue) closureOf(i int32) index.Total {
	select {
	case <-c.summed:
		if c.closures != nil {
			return c.closures[i]
		}
	default:
	}
	return c.sum(c.closure([]int32{i}))
}
