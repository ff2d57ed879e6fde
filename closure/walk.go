package closure

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/org/nixoci-action/upstream"
)

const defaultJobs = 128

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
	Upstream
	hits   *upstream.Hits // nil: none are kept
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
			state.hits = upstream.LoadHits(opts.HitsDir, u.String(), w.started)
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
			w.opts.Answers.put(w.set.paths[r.at].Store.HashPart, r)
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
	if r, ok := w.opts.Answers.get(hashPart); ok {
		r.at = at
		w.record(r)
		return true
	}
	for i := range w.upstreams {
		u := &w.upstreams[i]
		if u.hits != nil && u.hits.Has(hashPart) {
			u.report.Present++
			u.report.Remembered++
			w.decide(at, KindOnUpstream, u.report.URL)
			return true
		}
	}
	if len(w.upstreams) == 0 {
		w.decide(at, KindNew, "")
		return true
	}
	return false
}

// Answers are what upstream caches have answered in a run that filters several
// closures. The zero value has none. It is for one call of Filter after the
// other, always with the same Upstreams.
type Answers struct{ results map[string]result }

func (a *Answers) get(hashPart string) (result, bool) {
	if a == nil {
		return result{}, false
	}
	r, ok := a.results[hashPart]
	return r, ok
}

func (a *Answers) put(hashPart string, r result) {
	if a == nil {
		return
	}
	if a.results == nil {
		a.results = map[string]result{}
	}
	a.results[hashPart] = r
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
			u.report.GivenUp = u.report.GivenUp || errors.Is(err, upstream.ErrGivenUp)
			if u.report.Err == nil {
				u.report.Err = err
			}
		}
		if i == r.upstream {
			u.report.Present++
			if u.hits != nil {
				u.hits.Add(w.set.paths[r.at].Store.HashPart, w.started)
			}
			w.decide(r.at, KindOnUpstream, u.report.URL)
			return
		}
	}
	w.decide(r.at, KindNew, "")
}

func (w *walk) decide(at int32, kind Kind, url string) {
	w.decisions[at].Kind, w.decisions[at].Upstream = kind, url
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
		if err := u.hits.Save(w.started); err != nil {
			w.opts.Logger.Warn("keeping hits on an upstream cache", "upstream", u.report.URL, "err", err)
		}
	}
}

func (w *walk) plan() *Plan {
	p := &Plan{Set: w.set, Decisions: w.decisions}
	for i := range w.upstreams {
		p.Upstreams = append(p.Upstreams, w.upstreams[i].report)
	}
	return p
}
