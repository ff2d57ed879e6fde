package publish

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/matrix"
)

// holdings are what clients can get already, from the cache or from upstream
// caches, with all that it refers to.
type holdings struct {
	plan *closure.Plan
	// where tells of each such store path where it is, for people.
	where map[string]string
}

// holdings looks for the outputs' paths in the index, and for what the index
// does not have on the upstream caches. Nothing of it need be in the local
// store. What an upstream cannot say for certain counts as missing.
//
// With keys, an entry counts only if all of them have signed it: to sign what
// was not built here would make a signature of whoever can write to the
// registry. The same holds for what somebody else is going to sign.
func (p *publisher) holdings(ctx context.Context, base *index.Snapshot, outputs []discover.Output) (*holdings, error) {
	defer p.stages.Start("look up")()
	var roots []string
	for i := range outputs {
		roots = append(roots, outputs[i].Paths()...)
	}
	slices.Sort(roots)
	roots = slices.Compact(roots)
	inCache := map[string]bool{} // by hash part
	var infos []nix.PathInfo
	seen := map[string]bool{}
	for todo := slices.Clone(roots); len(todo) > 0; {
		name := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[name] {
			continue
		}
		seen[name] = true
		info := nix.PathInfo{Path: name}
		if e, ok := p.entryOf(base, name); ok {
			inCache[e.Path.HashPart] = true
			info.NarHash, info.NarSize = e.NarHash, e.NarSize
			for _, r := range e.References {
				info.References = append(info.References, path.Join(e.Path.Dir, r))
			}
			todo = append(todo, info.References...)
		}
		infos = append(infos, info)
	}
	set, err := closure.New(infos, roots)
	if err != nil {
		return nil, fmt.Errorf("reading closures from the cache index: %w", err)
	}
	plan, err := p.ask(ctx, set, func(hashPart string) bool { return inCache[hashPart] }, nil, nil)
	if err != nil {
		return nil, err
	}
	p.doubt(plan)
	h := &holdings{plan: plan, where: make(map[string]string, len(plan.Decisions))}
	for _, d := range plan.Decisions { // references come first
		lacks := func(ref string) bool { return ref != d.Path.Path && h.where[ref] == "" }
		if d.Kind != closure.KindNew && !slices.ContainsFunc(d.Path.References, lacks) {
			h.where[d.Path.Path] = d.Reason()
		}
	}
	return h, nil
}

// entryOf returns the entry of a store path, if it is one that clients accept.
func (p *publisher) entryOf(base *index.Snapshot, name string) (format.Entry, bool) {
	parsed, err := storepath.Parse(name)
	if err != nil {
		return format.Entry{}, false
	}
	e, ok := base.Lookup(parsed.HashPart)
	return e, ok && e.Path == parsed && p.ours(&e)
}

// output tells where clients get an output from: "in cache", "on URL", or both;
// "" if they cannot.
func (h *holdings) output(o *discover.Output) string {
	var places []string
	for _, name := range o.Paths() {
		if h.where[name] == "" {
			return ""
		}
		places = append(places, h.where[name])
	}
	slices.Sort(places)
	return strings.Join(slices.Compact(places), ", ")
}

// skipped are the outputs that are published without being built or fetched.
type skipped struct {
	roots []root
	// base is the index in which they were found, decisions are on their
	// closure as far as the cache has it, and on the paths of upstream caches
	// to which that refers.
	base      *index.Snapshot
	decisions []closure.Decision
	decided   map[string]bool // by store path
}

// skip takes away the outputs that clients can get already: they are published
// as they are. The others are returned.
func (p *publisher) skip(ctx context.Context, base *index.Snapshot, outputs []discover.Output) ([]discover.Output, error) {
	h, err := p.holdings(ctx, base, outputs)
	if err != nil {
		return nil, err
	}
	var rest []discover.Output
	needed := map[string]bool{}
	for i := range outputs {
		o := &outputs[i]
		where := h.output(o)
		if inputs, ok := o.Inputs(); ok && where == "" && p.Matrix == matrix.Recording && len(inputs.Needs) > 0 {
			outputs[i], where = inputs, h.output(&inputs) // one that was not meant to be built
		}
		if where == "" {
			rest = append(rest, *o)
			continue
		}
		p.report.cached(o, where)
		for _, name := range o.Paths() {
			p.skipped.roots = append(p.skipped.roots, root{o.Attr.String(), name})
			needed[name] = true
		}
	}
	p.skipped.base = base
	for i := len(h.plan.Decisions) - 1; i >= 0; i-- {
		d := h.plan.Decisions[i]
		if !needed[d.Path.Path] {
			continue
		}
		for _, ref := range d.Path.References {
			needed[ref] = true
		}
		if p.skipped.decided == nil {
			p.skipped.decided = map[string]bool{}
		}
		if !p.skipped.decided[d.Path.Path] {
			p.skipped.decided[d.Path.Path] = true
			p.skipped.decisions = append(p.skipped.decisions, d)
		}
	}
	if n := len(outputs) - len(rest); n > 0 {
		p.Messages.Printf("not built: %s that can be had already", ui.Count(n, "output"))
	}
	return rest, nil
}

// beside are the decisions on what is skipped, without those that a plan has
// made as well.
func (s *skipped) beside(plan *closure.Plan) []closure.Decision {
	return slices.DeleteFunc(slices.Clone(s.decisions), func(d closure.Decision) bool {
		return plan.Set.LookupHash(d.Path.Store.HashPart) != nil
	})
}

// lookup returns the entry on which a publish relies. What was found before a
// long build may be gone from the index since, or be something else that our keys
// have not signed: then it is lost, and repeating it brings it back.
func (p *publisher) lookup(base *index.Snapshot, hashPart string) (e format.Entry, lost, ok bool) {
	e, ok = base.Lookup(hashPart)
	if p.skipped.base == nil || ok && p.ours(&e) {
		return e, false, ok
	}
	if old, found := p.skipped.base.Lookup(hashPart); found && (!ok || p.ours(&old)) {
		return old, true, true
	}
	return e, false, ok
}
