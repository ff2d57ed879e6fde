package closure

import "fmt"

// Kind is what is decided about a path.
type Kind int

// The kinds. Paths of the first four are available to a client once the plan
// is carried out.
const (
	// KindNew: it must be uploaded.
	KindNew Kind = iota + 1
	// KindInCache: the cache has it.
	KindInCache
	// KindOnUpstream: an upstream cache has it.
	KindOnUpstream
	// KindBelow: an upstream cache has a path that leads to it, and nothing else
	// leads to it. It counts as on that upstream and was not asked for.
	KindBelow
	// KindExcluded: a glob excludes it, and it is available nowhere.
	KindExcluded
	// KindNeedsExcluded: it leads to an excluded path that is available nowhere,
	// so no client could use it. It is left out, wherever it may be.
	KindNeedsExcluded
)

// Kinds are all kinds, in the order in which a report would list them.
var Kinds = []Kind{KindNew, KindInCache, KindOnUpstream, KindBelow, KindExcluded, KindNeedsExcluded}

func (k Kind) String() string {
	switch k {
	case KindNew:
		return "new"
	case KindInCache:
		return "in cache"
	case KindOnUpstream:
		return "on upstream"
	case KindBelow:
		return "below upstream"
	case KindExcluded:
		return "excluded"
	case KindNeedsExcluded:
		return "needs excluded"
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// available reports whether a client can get paths of this kind.
func (k Kind) available() bool { return KindNew <= k && k <= KindBelow }

// Decision is what happens to one path, and why.
type Decision struct {
	Path *Path
	Kind Kind
	// Upstream is the URL of the upstream cache that has the path or a path
	// above it: for KindOnUpstream and KindBelow, and KindNeedsExcluded too.
	Upstream string
	// Pattern is the glob, for KindExcluded and KindNeedsExcluded.
	Pattern string
	// Needs is the excluded path, for KindNeedsExcluded.
	Needs *Path
}

// Reason is the decision's reason for people: "new", "in cache",
// "on https://cache.nixos.org", "excluded by GLOB" or
// "needs BASE NAME, which is excluded by GLOB".
func (d Decision) Reason() string {
	switch d.Kind {
	case KindOnUpstream, KindBelow:
		return "on " + d.Upstream
	case KindExcluded:
		return "excluded by " + d.Pattern
	case KindNeedsExcluded:
		return fmt.Sprintf("needs %s, which is excluded by %s", d.Needs.Store.Base(), d.Pattern)
	}
	return d.Kind.String()
}

// Plan says for every path of a closure whether it is published, and why.
type Plan struct {
	// Set is the closure.
	Set *Set
	// Decisions are in the set's order: references come first.
	Decisions []Decision
	// Upstreams report on the upstream caches, in the order they were given.
	Upstreams []Report
}

// Report says what came from one upstream cache.
type Report struct {
	// URL has no credentials in it.
	URL string
	// Asked is the number of paths that it was asked for.
	Asked int
	// Present is the number of paths found there.
	Present int
	// Remembered is how many of Present are hits of an earlier run, which
	// cost no request.
	Remembered int
	// Unknown is the number of paths that it gave no certain answer for.
	// They count as absent.
	Unknown int
	// Err is the first failure, nil if Unknown is 0.
	Err error
	// GivenUp tells that it failed so often that it was not asked any more.
	GivenUp bool
}

// Total is a number of paths and their size.
type Total struct {
	Paths   int
	NarSize int64
}

// Total adds up the paths of the given kinds.
func (p *Plan) Total(kinds ...Kind) Total {
	var t Total
	for _, d := range p.Decisions {
		for _, k := range kinds {
			if d.Kind == k {
				t.Paths++
				t.NarSize += d.Path.NarSize
			}
		}
	}
	return t
}

// Uploads returns the paths to upload, references before what refers to them.
func (p *Plan) Uploads() []*Path {
	var paths []*Path
	for _, d := range p.Decisions {
		if d.Kind == KindNew {
			paths = append(paths, d.Path)
		}
	}
	return paths
}
