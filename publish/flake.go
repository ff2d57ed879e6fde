package publish

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index"
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
	flake, err := discover.Open(ctx, p.Nix, discover.Options{
		Flake: p.Flake, Systems: p.Systems, Kinds: p.Kinds, Include: p.Include, Exclude: p.Exclude,
		DenyUnfree: p.DenyUnfree, AcceptConfig: p.AcceptConfig, Floating: !p.DryRun || p.BuildOnly, Logger: p.Log,
	})
	var found discover.Result
	if err == nil {
		p.configure(flake)
		found, err = flake.Run(ctx, nil)
	}
	endGroup()
	end()
	if err != nil {
		return nil, err
	}
	p.origin = p.flakeOrigin(ctx, flake.Flake)
	p.report.flake(p.printable(flake.Flake.URL), flake.Flake.Revision, flake.Systems)
	p.report.discovered(found.Skipped)
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
		return nil, hint.Wrap(fmt.Errorf("the flake has no outputs to publish for %s (%s skipped)", strings.Join(flake.Systems, ", "), ui.Count(len(found.Skipped), "attribute")),
			"try --system, --kinds or --include; --json lists what was skipped and why")
	}
	return found.Outputs, nil
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
	arriving := make(chan []discover.Output, 1)
	arriving <- outputs
	close(arriving)
	built, err := discover.Build(ctx, p.Nix, arriving, discover.BuildOptions{})
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
