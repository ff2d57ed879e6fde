package publish

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/origin"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/matrix"
)

// root is a store path that the user asked for, and the attribute it is.
type root struct{ attr, path string }

// roots returns the store paths to publish, all of them valid, without those
// that are skipped. An error beside them tells of outputs that are not among
// them.
func (p *publisher) roots(ctx context.Context, wait func() (*index.Snapshot, error)) ([]root, error) {
	if p.Flake == "" {
		return p.given(ctx)
	}
	outputs, err := p.discover(ctx)
	if err != nil {
		return nil, err
	}
	if p.SkipCached || p.Matrix == matrix.Recording {
		base, err := wait()
		if err == nil {
			outputs, err = p.skip(ctx, base, outputs)
		}
		if err != nil {
			return nil, err
		}
	}
	if p.Matrix == matrix.Recording {
		return nil, p.report.absent(outputs)
	}
	built, err := p.build(ctx, outputs)
	if err != nil {
		return nil, err
	}
	p.extras.built(built)
	var roots []root
	for _, b := range built {
		for _, path := range b.Valid {
			roots = append(roots, root{b.Attr.String(), path})
		}
	}
	return roots, p.report.built(built, p.DryRun && !p.BuildOnly)
}

// discover evaluates the flake.
func (p *publisher) discover(ctx context.Context) ([]discover.Output, error) {
	end := p.stages.Start("discover")
	endGroup := p.Messages.Group("discovering the outputs of %s", p.printable(origin.Shown(p.Flake)))
	found, err := discover.Discover(ctx, p.Nix, discover.Options{
		Flake: p.Flake, Systems: p.Systems, Kinds: p.Kinds, Include: p.Include, Exclude: p.Exclude,
		DenyUnfree: p.DenyUnfree, Floating: !p.DryRun || p.BuildOnly, Logger: p.Log,
	})
	endGroup()
	end()
	if err != nil {
		return nil, err
	}
	p.origin = p.flakeOrigin(ctx, found.Flake)
	found.Flake.URL = p.printable(found.Flake.URL)
	p.report.discovered(found)
	var unseen []string
	for _, s := range found.Skipped {
		if s.Reason.Failure() {
			p.Messages.Printf("skipped %s: %s: %s", s.Attr, s.Reason, s.Message)
		}
		if s.Reason == discover.NotLookedAt {
			unseen = append(unseen, s.Attr.String())
		}
	}
	if len(unseen) > 0 {
		p.Messages.Printf("not looked at: %s", strings.Join(unseen, ", "))
	}
	if len(found.Outputs) == 0 {
		return nil, hint.Wrap(fmt.Errorf("the flake has no outputs to publish for %s (%s skipped)", strings.Join(found.Systems, ", "), ui.Count(len(found.Skipped), "attribute")),
			"try --system, --kinds or --include; --json lists what was skipped and why")
	}
	return found.Outputs, nil
}

// build builds outputs, or in a dry run that does not build looks which of them
// are there.
func (p *publisher) build(ctx context.Context, outputs []discover.Output) ([]discover.Built, error) {
	if len(outputs) == 0 {
		return nil, nil
	}
	if p.DryRun && !p.BuildOnly {
		return p.valid(ctx, outputs)
	}
	defer p.stages.Start("build")()
	endGroup := p.Messages.Group("building %s", ui.Count(len(outputs), "output"))
	defer endGroup()
	built, err := discover.Build(ctx, p.Nix, outputs, 0)
	if err != nil && (built == nil || ctx.Err() != nil) {
		return nil, err
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
