package closure

import "fmt"

// Check proves that cache, upstream caches and what the plan uploads are
// together closed under references, and that the plan speaks of each path of
// the closure once, references first. The error names the missing edge.
//
// It goes by the references as the store gave them and shares nothing with
// what made the plan.
func (p *Plan) Check() error {
	decided := make(map[string]*Decision, len(p.Decisions))
	below := map[string]bool{} // paths that an upstream path refers to
	for i := range p.Decisions {
		d := &p.Decisions[i]
		if decided[d.Path.Path] != nil {
			return fmt.Errorf("%s is decided twice", d.Path.Path)
		}
		for _, ref := range d.Path.References {
			if ref == d.Path.Path {
				continue
			}
			r := decided[ref]
			if r == nil {
				return fmt.Errorf("%s -> %s: not decided before what refers to it", d.Path.Path, ref)
			}
			if d.Kind.available() && !r.Kind.available() {
				return fmt.Errorf("%s -> %s: the first is %s, the second is %s", d.Path.Path, ref, d.Reason(), r.Reason())
			}
			if d.Upstream != "" && d.Upstream == r.Upstream {
				below[ref] = true
			}
		}
		decided[d.Path.Path] = d
	}
	for _, path := range p.Set.Paths() {
		d := decided[path.Path]
		if d == nil || d.Kind == 0 {
			return fmt.Errorf("%s is not decided", path.Path)
		}
		if d.Kind == KindBelow && !below[path.Path] {
			return fmt.Errorf("%s: nothing on %s refers to it", path.Path, d.Upstream)
		}
	}
	return nil
}
