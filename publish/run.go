package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/hint"
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

// run goes through the stages. The index is read, and the right to write
// proved, while Nix evaluates and builds: an hour's build must not end at a
// locked door.
func (p *publisher) run(ctx context.Context) error {
	if p.ImportOranc {
		return p.importOranc(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	opened, begin := make(chan struct{}), time.Now()
	var base *index.Snapshot
	var openErr error
	go func() {
		defer close(opened)
		if base, openErr = p.open(ctx); openErr != nil {
			cancel(openErr)
		}
	}()
	wait := func() (*index.Snapshot, error) {
		<-opened
		return base, openErr
	}
	go func() { _, _ = p.Nix.Version(ctx) }() // while the paths are read or looked for
	var roots []root
	var rootsErr error
	if p.Matrix == matrix.Planning {
		rootsErr = p.planMatrix(ctx, wait)
	} else {
		roots, rootsErr = p.roots(ctx, wait)
	}
	var set *closure.Set
	var setErr error
	if len(roots)+len(p.skipped.roots) > 0 {
		set, setErr = p.closure(ctx, roots)
	}
	<-opened
	if openErr != nil && !errors.Is(openErr, context.Canceled) {
		return p.explain(openErr)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(roots)+len(p.skipped.roots) == 0 {
		return rootsErr // with no error there were no paths to read, or in a dry run nothing is built
	}
	if setErr != nil {
		return errors.Join(rootsErr, setErr)
	}
	if base, openErr = p.fresh(ctx, base, begin); openErr != nil {
		return errors.Join(rootsErr, p.explain(openErr))
	}
	p.followKeys(base)
	plan, err := p.filter(ctx, set, base)
	if err != nil {
		return errors.Join(rootsErr, err)
	}
	p.report.plan(plan, p.skipped.beside(plan))
	roots = append(roots, p.skipped.roots...)
	p.complete = rootsErr == nil
	if p.DryRun {
		p.report.record(p.publication(roots))
		return rootsErr
	}
	first := base.Digest() == "" && len(base.Segments()) == 0
	if err := p.upload(ctx, plan, base, roots); err != nil {
		return p.partly(errors.Join(rootsErr, p.explain(err)))
	}
	if first && p.Anonymous != nil && p.report.Committed > 0 {
		p.sayWhoReads(ctx)
	}
	return p.partly(rootsErr)
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
	return p.adopt(ctx, base)
}

// maxIndexAge is how old the index may be when paths are chosen. What gc has
// removed since must not count as there.
const maxIndexAge = time.Hour

// fresh reads the index again if a long build has passed since.
func (p *publisher) fresh(ctx context.Context, base *index.Snapshot, since time.Time) (*index.Snapshot, error) {
	if time.Since(since) < maxIndexAge {
		return base, nil
	}
	base, err := p.sweep(ctx)
	if err != nil {
		return nil, err
	}
	return p.adopt(ctx, base)
}

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

func (p *publisher) closure(ctx context.Context, roots []root) (*closure.Set, error) {
	defer p.stages.Start("closure")()
	var paths []string
	for _, r := range roots {
		paths = append(paths, r.path)
	}
	slices.Sort(paths)
	paths = slices.Compact(paths)
	infos, err := p.Nix.PathInfo(ctx, paths, true)
	if err != nil {
		return nil, err
	}
	return closure.New(infos, paths)
}

func (p *publisher) filter(ctx context.Context, set *closure.Set, base *index.Snapshot) (*closure.Plan, error) {
	defer p.stages.Start("filter")()
	if set.Len() > 0 {
		p.Messages.Printf("closure of %s, %s; asking %s", ui.Count(set.Len(), "path"), ui.Bytes(set.NarSize()), strings.Join(append(slices.Clone(p.report.Upstreams), "the cache index"), ", "))
	}
	paths := set.Paths()
	there := make([]bool, len(paths))
	inParallel(len(paths), func(i int) { there[i] = p.inCache(base, &paths[i]) })
	inCache := make(map[string]bool, len(paths))
	for i := range paths {
		inCache[paths[i].Store.HashPart] = there[i]
	}
	return p.ask(ctx, set, func(hashPart string) bool { return inCache[hashPart] }, p.ExcludePaths)
}

// ask decides on a closure, and warns of upstream caches that could not say
// what they have.
func (p *publisher) ask(ctx context.Context, set *closure.Set, inCache func(hashPart string) bool, exclude []string) (*closure.Plan, error) {
	plan, err := closure.Filter(ctx, set, closure.Options{
		InCache: inCache, Upstreams: p.Upstreams, Exclude: exclude, HitsDir: p.CacheDir, DryRun: p.DryRun, Logger: p.Log,
	})
	if err != nil {
		return nil, err
	}
	for _, r := range plan.Upstreams {
		if r.Unknown > 0 {
			p.Messages.Warn(hint.Wrap(fmt.Errorf("upstream cache %s could not say of %s whether it has them: %w", r.URL, ui.Count(r.Unknown, "path"), r.Err),
				"they are published as if it had not"))
		}
	}
	return plan, nil
}
