// Package closure owns the closure of what was built. It decides which of its
// store paths have to be published: those that neither the cache nor an
// upstream cache has.
//
// It asks binary caches over HTTP whether they have a path. It does not know
// OCI, nor how paths are built or sent.
package closure

import (
	"fmt"
	"slices"
	"strings"

	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/storepath"
)

// Path is one store path of a set, with what the store records about it.
type Path struct {
	nix.PathInfo
	// Store is PathInfo.Path, parsed.
	Store storepath.Path
	// refs are the references' positions in the set, without the path's own.
	refs []int32
}

// Set is the closure of some roots: complete under references, and without
// cycles between different paths. It does not change once made.
type Set struct {
	paths   []Path // references before what refers to them
	byPath  map[string]int32
	byHash  map[string]int32
	roots   []int32
	narSize int64
}

// New returns the closure of roots, absolute store paths, which infos
// describe. Infos that no root leads to are left out.
//
// It fails if a root or a reference is missing from infos, if paths refer to
// each other in a cycle (a path may refer to itself), if a path is malformed,
// or if two paths have one hash part or lie in different store directories.
func New(infos []nix.PathInfo, roots []string) (*Set, error) {
	b := builder{
		infos: make(map[string]*nix.PathInfo, len(infos)),
		set: &Set{
			paths:  make([]Path, 0, len(infos)),
			byPath: make(map[string]int32, len(infos)),
			byHash: make(map[string]int32, len(infos)),
		},
	}
	for i := range infos {
		b.infos[infos[i].Path] = &infos[i]
	}
	for _, root := range roots {
		if err := b.add(root); err != nil {
			return nil, fmt.Errorf("computing the closure of %s: %w", root, err)
		}
		if at := b.set.byPath[root]; !slices.Contains(b.set.roots, at) {
			b.set.roots = append(b.set.roots, at)
		}
	}
	return b.set, nil
}

// Len is the number of paths.
func (s *Set) Len() int { return len(s.paths) }

// NarSize is the sum of the NAR sizes in bytes.
func (s *Set) NarSize() int64 { return s.narSize }

// Paths returns all paths in topological order: references come before what
// refers to them. The slice belongs to the set and must not be changed.
func (s *Set) Paths() []Path { return s.paths }

// LookupHash returns the path with this hash part, or nil.
func (s *Set) LookupHash(hashPart string) *Path { return s.at(s.byHash, hashPart) }

func (s *Set) at(m map[string]int32, key string) *Path {
	if at, ok := m[key]; ok {
		return &s.paths[at]
	}
	return nil
}

// onStack is a path's position while its references are being added.
const onStack = -1

type builder struct {
	infos map[string]*nix.PathInfo
	set   *Set
	stack []frame
}

// frame is a path whose references before next are in the set.
type frame struct {
	info *nix.PathInfo
	next int
}

// add puts root and what it leads to into the set, depth first. The stack is
// its own, because a chain of references may be as long as the closure.
func (b *builder) add(root string) error {
	if _, ok := b.set.byPath[root]; ok {
		return nil
	}
	if err := b.push(root); err != nil {
		return err
	}
	for len(b.stack) > 0 {
		f := &b.stack[len(b.stack)-1]
		if f.next == len(f.info.References) {
			if err := b.finish(f.info); err != nil {
				return err
			}
			b.stack = b.stack[:len(b.stack)-1]
			continue
		}
		ref := f.info.References[f.next]
		f.next++
		if ref == f.info.Path {
			continue
		}
		at, seen := b.set.byPath[ref]
		if seen && at == onStack {
			return b.cycle(ref)
		}
		if !seen {
			if err := b.push(ref); err != nil {
				return fmt.Errorf("%s -> %s: %w", f.info.Path, ref, err)
			}
		}
	}
	return nil
}

func (b *builder) push(path string) error {
	info := b.infos[path]
	if info == nil {
		return fmt.Errorf("no information about %s", path)
	}
	b.set.byPath[path] = onStack
	b.stack = append(b.stack, frame{info: info})
	return nil
}

func (b *builder) finish(info *nix.PathInfo) error {
	s := b.set
	parsed, err := storepath.Parse(info.Path)
	if err != nil {
		return err
	}
	if len(s.paths) > 0 && s.paths[0].Store.Dir != parsed.Dir {
		return fmt.Errorf("%s and %s are in different stores", s.paths[0].Path, info.Path)
	}
	if other := s.LookupHash(parsed.HashPart); other != nil {
		return fmt.Errorf("%s and %s have the same hash part", other.Path, info.Path)
	}
	p := Path{PathInfo: *info, Store: parsed, refs: make([]int32, 0, len(info.References))}
	for _, ref := range info.References {
		if ref != info.Path {
			p.refs = append(p.refs, s.byPath[ref])
		}
	}
	at := int32(len(s.paths)) //nolint:gosec // a closure of 2^31 paths does not fit in memory
	s.paths = append(s.paths, p)
	s.byPath[info.Path], s.byHash[parsed.HashPart] = at, at
	s.narSize += info.NarSize
	return nil
}

// cycle describes the part of the stack from path on, shortened if long.
func (b *builder) cycle(path string) error {
	const most = 8
	start := slices.IndexFunc(b.stack, func(f frame) bool { return f.info.Path == path })
	var names []string
	for _, f := range b.stack[start:] {
		if len(names) == most {
			names = append(names, "…")
			break
		}
		names = append(names, f.info.Path)
	}
	return fmt.Errorf("paths refer to each other in a cycle: %s", strings.Join(append(names, path), " -> "))
}
