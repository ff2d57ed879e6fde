package closure

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

const defaultJobs = 64

// Options tune Filter. The zero value decides that everything is new.
type Options struct {
	// InCache reports whether the cache has the path with this hash part. It
	// is called from one goroutine, at most once for a path. If nil, the
	// cache is empty.
	InCache func(hashPart string) bool
	// Upstreams are asked in this order.
	Upstreams []*Upstream
	// Exclude are globs, in the syntax of path.Match, over store path names
	// ("hello-1.0") and base names ("<hash part>-hello-1.0").
	Exclude []string
	// Jobs bounds the look-ups in flight, over all upstream caches. If less
	// than or equal to 0, a default (currently 64) is used.
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

// walk finds out where paths are. One goroutine owns it; only look-ups run
// beside it.
type walk struct {
	set       *Set
	opts      Options
	decisions []Decision
	queue     []int32 // found, in breadth-first order, and not yet looked for
	found     []bool
	nFound    int
	nDone     int
	upstreams []upstreamState
	started   time.Time
}

type upstreamState struct {
	*Upstream
	hits   *hits // nil: none are kept
	report Report
}

func newWalk(set *Set, opts Options) *walk {
	if opts.Jobs <= 0 {
		opts.Jobs = defaultJobs
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	w := &walk{
		set: set, opts: opts, started: time.Now(),
		decisions: make([]Decision, set.Len()), found: make([]bool, set.Len()),
	}
	for i := range set.paths {
		w.decisions[i].Path = &set.paths[i]
	}
	for _, u := range opts.Upstreams {
		state := upstreamState{Upstream: u, report: Report{URL: u.String()}}
		if opts.HitsDir != "" {
			state.hits = loadHits(opts.HitsDir, u.String(), w.started)
		}
		w.upstreams = append(w.upstreams, state)
	}
	return w
}

// result is what a look-up found: the upstream that has the path, or -1. Each
// one before it was asked, and answered no or failed.
type result struct {
	at       int32
	upstream int
	errs     map[int]error // by upstream
}

// run looks for every path that it finds. There are no waves: a look-up starts
// as soon as one ends.
func (w *walk) run(ctx context.Context) error {
	w.find(w.set.roots)
	results := make(chan result, w.opts.Jobs)
	for inFlight := 0; ; {
		for ctx.Err() == nil && inFlight < w.opts.Jobs && len(w.queue) > 0 {
			at := w.queue[0]
			w.queue = w.queue[1:]
			if !w.known(at) {
				inFlight++
				go func() { results <- w.ask(ctx, at) }()
			}
		}
		if inFlight == 0 {
			return ctx.Err()
		}
		r := <-results
		inFlight--
		if ctx.Err() == nil {
			w.record(r)
		}
	}
}

func (w *walk) find(paths []int32) {
	for _, at := range paths {
		if !w.found[at] {
			w.found[at] = true
			w.nFound++
			w.queue = append(w.queue, at)
		}
	}
}

// known decides on a path without asking anyone, if that is possible.
func (w *walk) known(at int32) bool {
	hashPart := w.set.paths[at].Store.HashPart
	if w.opts.InCache != nil && w.opts.InCache(hashPart) {
		// Its references are looked for too: the cache may have been filled
		// with other upstream caches in mind.
		w.decide(at, KindInCache, "")
		return true
	}
	for i := range w.upstreams {
		u := &w.upstreams[i]
		if u.hits != nil && u.hits.has(hashPart) {
			u.report.Present++
			u.report.Remembered++
			w.decide(at, KindOnUpstream, u.url)
			return true
		}
	}
	if len(w.upstreams) == 0 {
		w.decide(at, KindNew, "")
		return true
	}
	return false
}

// ask runs beside the others and changes nothing.
func (w *walk) ask(ctx context.Context, at int32) result {
	r := result{at: at, upstream: -1}
	for i := range w.upstreams {
		has, err := w.upstreams[i].Has(ctx, w.set.paths[at].Store.HashPart)
		if has {
			r.upstream = i
			break
		}
		if err != nil {
			if r.errs == nil {
				r.errs = map[int]error{}
			}
			r.errs[i] = err
		}
	}
	return r
}

func (w *walk) record(r result) {
	for i := range w.upstreams {
		u := &w.upstreams[i]
		u.report.Asked++
		if err := r.errs[i]; err != nil {
			u.report.Unknown++
			if u.report.Err == nil {
				u.report.Err = err
			}
		}
		if i == r.upstream {
			u.report.Present++
			if u.hits != nil {
				u.hits.add(w.set.paths[r.at].Store.HashPart, w.started)
			}
			w.decide(r.at, KindOnUpstream, u.url)
			return
		}
	}
	w.decide(r.at, KindNew, "")
}

func (w *walk) decide(at int32, kind Kind, upstream string) {
	w.decisions[at].Kind, w.decisions[at].Upstream = kind, upstream
	if kind != KindOnUpstream {
		w.find(w.set.paths[at].refs)
	}
	w.nDone++
	if w.opts.Progress != nil {
		w.opts.Progress.Checked(w.nDone, w.nFound)
	}
}

func (w *walk) keepHits() {
	for _, u := range w.upstreams {
		if u.hits == nil || w.opts.DryRun {
			continue
		}
		if err := u.hits.save(w.started); err != nil {
			w.opts.Logger.Warn("keeping hits on an upstream cache", "upstream", u.url, "err", err)
		}
	}
}

func (w *walk) plan() *Plan {
	p := &Plan{Set: w.set, Decisions: w.decisions}
	for i := range w.upstreams {
		u := &w.upstreams[i]
		u.report.GivenUp = u.health.givenUp() != nil
		p.Upstreams = append(p.Upstreams, u.report)
	}
	return p
}
