package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/origin"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/matrix"
	"github.com/org/nixoci-action/upstream"
)

// root is a store path that the user asked for, and the attribute it is.
type root struct{ attr, path string }

// roots returns the store paths to publish, all of them valid, without those
// that are skipped, and lets the stream know of them as early as it can. An error
// beside them tells of outputs that are not among them.
func (p *publisher) roots(ctx context.Context, s *stream) ([]root, error) {
	switch {
	case p.Flake == "":
		return p.given(ctx, s)
	case p.Matrix == matrix.Recording:
		return nil, p.recorded(ctx, s)
	}
	flake, err := p.openFlake(ctx)
	if err != nil {
		return nil, err
	}
	interrupted := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	arriving := make(chan []discover.Output)
	go func() {
		defer close(arriving)
		_, err := p.discover(ctx, flake, func(outputs []discover.Output) {
			outputs, err := p.unskipped(ctx, s, outputs)
			if err != nil {
				cancel(err)
			}
			if err != nil || len(outputs) == 0 {
				return
			}
			for i := range outputs {
				s.want(outputs[i].Paths())
			}
			select {
			case arriving <- outputs:
			case <-ctx.Done():
			}
		})
		if err != nil {
			cancel(err)
		}
	}()
	built, err := p.build(ctx, arriving, s)
	for range arriving { // until the evaluation has ended
	}
	switch {
	case interrupted.Err() != nil: // what is built can still be told
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, err
	}
	slices.SortStableFunc(built, func(a, b discover.Built) int { return slices.Compare(a.Attr, b.Attr) })
	p.extras.built(built)
	var roots []root
	for _, b := range built {
		for _, path := range b.Valid {
			roots = append(roots, root{b.Attr.String(), path})
		}
	}
	unbuilt := ""
	if p.DryRun && !p.BuildOnly {
		unbuilt = notInStore
	} else if interrupted.Err() != nil {
		unbuilt = "the run ended before"
	}
	return roots, errors.Join(p.report.built(built, unbuilt), context.Cause(interrupted))
}

// recorded finds the outputs that the jobs of a matrix have published. Its error
// tells of those that are missing.
func (p *publisher) recorded(ctx context.Context, s *stream) error {
	outputs, err := p.evaluate(ctx)
	if err != nil {
		return err
	}
	base, err := s.index()
	if err == nil {
		outputs, err = p.skip(ctx, base, outputs)
	}
	if err != nil {
		return err
	}
	return p.report.absent(outputs)
}

// unskipped returns which of outputs have to be built.
func (p *publisher) unskipped(ctx context.Context, s *stream, outputs []discover.Output) ([]discover.Output, error) {
	if !p.SkipCached {
		return outputs, nil
	}
	base, err := s.index()
	if err != nil {
		return nil, err
	}
	return p.skip(ctx, base, outputs)
}

// openFlake reads the flake, and takes over what it asks for.
func (p *publisher) openFlake(ctx context.Context) (*discover.Evaluation, error) {
	p.Messages.Printf("discovering the outputs of %s", p.printable(origin.Shown(p.Flake)))
	flake, err := discover.Open(ctx, p.Nix, discover.Options{
		Flake: p.Flake, Systems: p.Systems, Kinds: p.Kinds, Include: p.Include, Exclude: p.Exclude,
		DenyUnfree: p.DenyUnfree, AcceptConfig: p.AcceptConfig, Floating: !p.DryRun || p.BuildOnly,
		Jobs: p.EvalJobs, Memory: p.EvalMemory, Logger: p.Log,
	})
	if err == nil {
		p.configure(flake)
	}
	return flake, err
}

// evaluate returns all outputs of the flake.
func (p *publisher) evaluate(ctx context.Context) ([]discover.Output, error) {
	flake, err := p.openFlake(ctx)
	if err != nil {
		return nil, err
	}
	return p.discover(ctx, flake, nil)
}

// discover evaluates the flake. It calls found, which may be nil, with outputs
// as they are found, and returns all of them.
func (p *publisher) discover(ctx context.Context, flake *discover.Evaluation, found func([]discover.Output)) ([]discover.Output, error) {
	defer p.stages.Start("discover")()
	defer p.show.Evaluating()()
	result, err := flake.Run(ctx, func(outputs []discover.Output) {
		p.show.Evaluated(len(outputs))
		if found != nil {
			found(outputs)
		}
	})
	if err != nil {
		return nil, err
	}
	p.origin = p.flakeOrigin(ctx, flake.Flake)
	p.report.flake(p.printable(flake.Flake.URL), flake.Flake.Revision, flake.Systems)
	p.report.discovered(result.Skipped)
	var unseen []string
	for _, s := range result.Skipped {
		if s.Reason.Failure() {
			p.Messages.Printf("skipped %s: %s: %s", s.Attr, s.Reason, p.redact(s.Message))
		}
		if s.Reason == discover.NotLookedAt {
			unseen = append(unseen, s.Attr.String())
		}
	}
	if len(unseen) > 0 {
		p.Messages.Printf("not looked at: %s", strings.Join(unseen, ", "))
	}
	if len(result.Outputs) == 0 {
		return nil, hint.Wrap(fmt.Errorf("the flake has no outputs to publish for %s (%s skipped)", strings.Join(flake.Systems, ", "), ui.Count(len(result.Skipped), "attribute")),
			"try --system, --kinds or --include; --json lists what was skipped and why")
	}
	return result.Outputs, nil
}

// configure takes over what the flake's nixConfig asks for, as far as it is
// accepted. Its substituters are upstream caches, unless there are to be none.
func (p *publisher) configure(flake *discover.Evaluation) {
	names := func(settings []nix.Setting) string {
		var list []string
		for _, s := range settings {
			list = append(list, s.Name)
		}
		return strings.Join(list, ", ")
	}
	p.Nix = flake.Nix
	if flake.ConfigErr != nil {
		p.Messages.Printf("the flake's nixConfig is not used: %v", flake.ConfigErr)
	}
	if len(flake.Refused) > 0 {
		p.Messages.Printf("the flake's nixConfig is not used (%s). To use it, give --accept-flake-config, or set accept-flake-config = true in nix.conf", names(flake.Refused))
	}
	if len(flake.Settings) == 0 {
		return
	}
	p.Messages.Printf("using the flake's nixConfig: %s", names(flake.Settings))
	for _, s := range flake.Settings {
		if len(p.Upstreams) == 0 || strings.TrimPrefix(s.Name, "extra-") != "substituters" {
			continue
		}
		for _, url := range strings.Fields(s.Value) {
			up, err := upstream.New(url, upstream.Options{Logger: p.Log})
			if err != nil { // s3://, or a directory: Nix substitutes from it
				p.Log.Debug("a substituter of the flake is not asked", "error", err)
				continue
			}
			if !slices.Contains(p.report.Upstreams, up.String()) {
				p.Upstreams = append(p.Upstreams, up)
				p.report.Upstreams = append(p.report.Upstreams, up.String())
			}
		}
	}
}

// build builds outputs as they arrive, or in a dry run that does not build looks
// which of them are there.
func (p *publisher) build(ctx context.Context, arriving <-chan []discover.Output, s *stream) ([]discover.Built, error) {
	if p.DryRun && !p.BuildOnly {
		var all []discover.Output
		for outputs := range arriving {
			all = append(all, outputs...)
		}
		return p.valid(ctx, all)
	}
	defer p.stages.Start("build")()
	built, err := discover.Build(ctx, p.Nix, arriving, discover.BuildOptions{Valid: s.arrived, Follow: p.show.Builds, Built: p.show.Built})
	if built == nil || ctx.Err() != nil {
		return built, err
	}
	for _, b := range built {
		if b.Unbuilt != nil {
			p.Messages.Printf("%s does not build, which nix develop does not ask for: what it needs is published", b.Attr)
		}
	}
	p.explainBuilds(ctx, built)
	return built, nil
}

func (p *publisher) valid(ctx context.Context, outputs []discover.Output) ([]discover.Built, error) {
	var all []string
	for i := range outputs {
		all = append(all, outputs[i].Paths()...)
	}
	missing, err := p.Nix.Invalid(ctx, all)
	if err != nil {
		return nil, err
	}
	built := make([]discover.Built, len(outputs))
	for i, o := range outputs {
		built[i].Output = o
		for _, path := range o.Paths() {
			if _, absent := slices.BinarySearch(missing, path); absent {
				built[i].Missing = append(built[i].Missing, path)
			} else {
				built[i].Valid = append(built[i].Valid, path)
			}
		}
	}
	return built, nil
}
