package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/progress"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/matrix"
	"github.com/org/nixoci-action/report"
)

// publisher is one run.
type publisher struct {
	Options

	// complete: all that was to be published was built and uploaded, so that
	// it can be pinned, and take the place of what was published before
	complete bool

	// origin is where the flake comes from, if its reference does not say it
	origin string

	skipped skipped
	extras  extras

	report ledger
	stages report.Stopwatch
	show   *progress.Display
}

func newPublisher(o Options) *publisher {
	urls := []string{}
	for _, u := range o.Upstreams {
		urls = append(urls, u.String())
	}
	return &publisher{Options: o, report: ledger{
		Publish: report.Publish{Cache: o.Repo.String(), DryRun: o.DryRun, BuildOnly: o.BuildOnly, PublicKeys: o.Keys.PublicKeys(), Upstreams: urls, Paths: []report.Path{}},
		logs:    map[string]buildLog{},
	}}
}

// run publishes. The index is read, and the right to write proved, while Nix
// evaluates and builds: an hour's build must not end at a locked door. What is
// built is published while the rest is built; finish does what is left.
func (p *publisher) run(ctx context.Context) error {
	if p.ImportOranc {
		return p.importOranc(ctx)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	opened := make(chan struct{})
	var base *index.Snapshot
	var openErr error
	go func() {
		defer close(opened)
		if base, openErr = p.open(ctx); openErr != nil {
			stop(openErr)
		}
	}()
	wait := func() (*index.Snapshot, error) {
		<-opened
		return base, openErr
	}
	client := p.Nix
	go func() { _, _ = client.Version(ctx) }() // while the paths are read or looked for
	if p.Matrix == matrix.Planning {
		err := p.planMatrix(ctx, wait)
		if <-opened; openErr != nil && !errors.Is(openErr, context.Canceled) {
			return p.explain(openErr)
		}
		return err
	}
	s := p.newStream(ctx, stop, wait)
	s.start(ctx)
	roots, rootsErr := p.roots(ctx, s)
	if rootsErr != nil || len(roots) == 0 {
		<-opened
	}
	err := s.finish(ctx, roots, rootsErr)
	if <-opened; openErr != nil && !errors.Is(openErr, context.Canceled) {
		return p.explain(openErr)
	}
	if ctx.Err() != nil {
		return p.partly(p.explain(context.Cause(ctx)))
	}
	if err == nil && base.Digest() == "" && len(base.Segments()) == 0 && p.Anonymous != nil && p.report.Committed > 0 {
		p.sayWhoReads(ctx)
	}
	return p.partly(errors.Join(rootsErr, p.explain(err)))
}

// partly marks an error in spite of which something is published.
func (p *publisher) partly(err error) error {
	if err == nil || p.report.Committed == 0 && !p.report.visible {
		return err
	}
	return report.AsPartly(err)
}

// open reads the cache index, makes sure that the cache can be written to, and
// takes it over if it is nixcache-oci's.
func (p *publisher) open(ctx context.Context) (*index.Snapshot, error) {
	if p.Matrix == matrix.Planning {
		return p.sweep(ctx)
	}
	read := p.sweep
	if !p.DryRun {
		read = p.Index.SweepAndPrepare
	}
	base, err := read(ctx)
	if err != nil {
		return nil, err
	}
	p.noticeOranc(base)
	if base, err = p.adopt(ctx, base); err == nil {
		p.followKeys(base)
	}
	return base, err
}

// maxIndexAge is how old the index may be when paths are chosen. What gc has
// removed since must not count as there.
const maxIndexAge = time.Hour

// sweep reads the index. A registry that refuses to show the cache may not have
// it yet: GitHub's does not tell the difference. To a run that writes nothing
// such a cache is an empty one: nothing is lost if more is built then, or planned,
// and what may not be written ends the jobs of the plan.
func (p *publisher) sweep(ctx context.Context) (*index.Snapshot, error) {
	base, err := p.Index.Sweep(ctx)
	if registry.Denied(err) && (p.Matrix == matrix.Planning || p.BuildOnly) {
		p.Messages.Warn(hint.Wrap(fmt.Errorf("the cache cannot be read, so it counts as empty: %w", err),
			"that is normal before the first publish; else the job needs the permission to read packages"))
		return index.Empty(), nil
	}
	return base, err
}

// explain adds hints to what the index reports.
func (p *publisher) explain(err error) error {
	var tooNew *format.TooNewError
	switch {
	case errors.Is(err, format.ErrForeign):
		return hint.Wrap(err, "name a repository of its own with --cache; "+p.Cache+" is left as it is")
	case errors.As(err, &tooNew):
		return hint.Wrap(err, "use a newer version of nixoci-action")
	}
	return err
}

// ask decides on a closure.
func (p *publisher) ask(ctx context.Context, set *closure.Set, inCache func(hashPart string) bool, exclude []string, answers *closure.Answers) (*closure.Plan, error) {
	return closure.Filter(ctx, set, closure.Options{
		InCache: inCache, Upstreams: p.Upstreams, Answers: answers, Exclude: exclude, HitsDir: p.CacheDir, DryRun: p.DryRun, Logger: p.Log,
	})
}

// doubt warns of upstream caches that could not say what they have.
func (p *publisher) doubt(plan *closure.Plan) {
	for _, r := range plan.Upstreams {
		if r.Unknown > 0 {
			p.Messages.Warn(hint.Wrap(fmt.Errorf("upstream cache %s could not say of %s whether it has them: %w", r.URL, ui.Count(r.Unknown, "path"), r.Err),
				"they are published as if it had not"))
		}
	}
}
