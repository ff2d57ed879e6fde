package closure

// Roots returns the roots in the order given, each once.
func (s *Set) Roots() []*Path {
	roots := make([]*Path, len(s.roots))
	for i, at := range s.roots {
		roots[i] = &s.paths[at]
	}
	return roots
}

// Lookup returns the path with this absolute store path, or nil.
func (s *Set) Lookup(path string) *Path { return s.at(s.byPath, path) }
