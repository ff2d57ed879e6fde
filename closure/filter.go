package closure

import (
	"context"
	"fmt"
	"log/slog"
)

// Upstream is a binary cache whose paths are not published again, as
// *upstream.Cache is one. It is called from several goroutines.
type Upstream interface {
	// Has reports whether the cache has the path with this hash part. An error
	// means that it cannot be found out, and one that wraps upstream.ErrGivenUp
	// that nothing can any more.
	Has(ctx context.Context, hashPart string) (bool, error)
	// String is the cache's URL, without credentials.
	fmt.Stringer
}

// Options tune Filter. The zero value decides that everything is new.
type Options struct {
	// InCache reports whether the cache has the path with this hash part. It
	// is called from one goroutine, at most once for a path. If nil, the
	// cache is empty.
	InCache func(hashPart string) bool
	// Upstreams are asked in this order.
	Upstreams []Upstream
	// Answers are what the Upstreams have answered before: nothing is asked twice.
	// It may be nil.
	Answers *Answers
	// Exclude are globs, in the syntax of path.Match, over store path names
	// ("hello-1.0") and base names ("<hash part>-hello-1.0").
	Exclude []string
	// Jobs bounds the look-ups in flight, over all upstream caches. If less
	// than or equal to 0, a default (currently 128) is used.
	Jobs int
	// HitsDir is where hits are kept between runs, one file for an upstream
	// cache; it may be used by several processes at once. If empty, none are
	// kept.
	HitsDir string
	// DryRun reads hits but writes none.
	DryRun bool
	// Progress may be nil.
	Progress Progress
	// Logger may be nil.
	Logger *slog.Logger
}

// Progress hears how far Filter is.
type Progress interface {
	// Checked is called, from one goroutine, each time that a path was looked
	// for: done paths of found so far. found grows up to the size of the
	// closure, or less: paths below an upstream's are not looked for.
	Checked(done, found int)
}

// Filter decides for every path of set whether it has to be published.
//
// It walks from the roots and asks the upstream caches for each path that the
// cache does not have, but not for what only a path on an upstream leads to: a
// binary cache that has a path has its closure. What no upstream certainly has
// is new. Excluded paths are asked for too, because they keep back what leads
// to them unless they are available.
//
// The plan has passed Check. If ctx ends, Filter fails with its error.
func Filter(ctx context.Context, set *Set, opts Options) (*Plan, error) {
	exclude, err := parseGlobs(opts.Exclude)
	if err != nil {
		return nil, fmt.Errorf("reading the globs to exclude: %w", err)
	}
	w := newWalk(set, opts)
	err = w.run(ctx)
	w.keepHits() // they are true even if the walk was cut short
	if err != nil {
		return nil, fmt.Errorf("looking for paths on upstream caches: %w", err)
	}
	plan := w.plan()
	plan.below()
	plan.exclude(exclude)
	if err := plan.Check(); err != nil {
		return nil, fmt.Errorf("checking the plan: %w", err)
	}
	return plan, nil
}

// below decides on the paths that were not looked for. Seen from the top, each
// has a path on an upstream before it.
func (p *Plan) below() {
	for i := len(p.Decisions) - 1; i >= 0; i-- {
		d := &p.Decisions[i]
		if d.Upstream == "" {
			continue
		}
		for _, ref := range d.Path.refs {
			if r := &p.Decisions[ref]; r.Kind == 0 {
				r.Kind, r.Upstream = KindBelow, d.Upstream
			}
		}
	}
}

// exclude takes back what must not or cannot be published. It does not matter
// that the cache or an upstream has a path which needs an excluded one: by what
// is known now no client can use it, nor what would be built on it.
func (p *Plan) exclude(exclude globs) {
	if len(exclude) == 0 {
		return
	}
	for i := range p.Decisions {
		d := &p.Decisions[i]
		if d.Kind == KindNew {
			if pattern := exclude.match(d.Path.Store); pattern != "" {
				d.Kind, d.Pattern = KindExcluded, pattern
				continue
			}
		}
		for _, ref := range d.Path.refs {
			r := &p.Decisions[ref]
			if r.Kind.available() {
				continue
			}
			d.Kind, d.Pattern, d.Needs = KindNeedsExcluded, r.Pattern, r.Needs
			if r.Kind == KindExcluded {
				d.Needs = r.Path
			}
			break
		}
	}
}
