package gc

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/origin"
	"github.com/org/nixoci-action/internal/secret"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/report"
)

// inputs reads the index, and evaluates the flake at the same time unless the
// systems are those of the cache.
func (c *collector) inputs(ctx context.Context) (*index.Snapshot, []collect.Keep, error) {
	if c.cfg.Flake == "" {
		base, err := c.read(ctx)
		return base, nil, err
	}
	var base *index.Snapshot
	var flake *discover.Evaluation
	var found discover.Result
	g, gctx := errgroup.WithContext(ctx)
	read := func() (err error) {
		base, err = c.read(gctx)
		return err
	}
	systems := c.cfg.Systems
	if len(systems) > 0 {
		g.Go(read)
	} else {
		if err := read(); err != nil {
			return nil, nil, err
		}
		local, err := discover.CurrentSystem(ctx, c.nix)
		if err != nil {
			return nil, nil, err
		}
		systems = allSystems(local, base.Publications())
	}
	g.Go(func() (err error) {
		flake, found, err = c.evaluate(gctx, systems)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	keep, unknown := flakeRoots(found, base.Publications())
	c.evaluated(flake, unknown)
	if len(keep) == 0 && len(unknown) == 0 { // more likely a mistake than an empty flake
		return nil, nil, hint.Wrap(fmt.Errorf("the flake has no outputs to keep for %s", strings.Join(flake.Systems, ", ")), "try --system, --kinds or --include, or leave --flake out")
	}
	return base, keep, nil
}

// allSystems are the systems of publications, and the local one.
func allSystems(local string, pubs []format.Publication) []string {
	all := []string{local}
	for _, p := range pubs {
		all = append(all, p.Systems...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (c *collector) evaluate(ctx context.Context, systems []string) (*discover.Evaluation, discover.Result, error) {
	defer c.stages.Start("evaluate")()
	shown, _ := secret.Reference(origin.Shown(c.cfg.Flake))
	c.msg.Printf("evaluating %s for %s", shown, strings.Join(systems, ", "))
	flake, err := discover.Open(ctx, c.nix, discover.Options{
		Flake: c.cfg.Flake, Systems: systems, Kinds: c.cfg.Kinds, Include: c.cfg.Include, Exclude: c.cfg.Exclude, AcceptConfig: c.cfg.AcceptConfig,
		Jobs: c.cfg.EvalJobs, Memory: c.cfg.EvalMemory, Logger: c.log,
	})
	if err != nil {
		return nil, discover.Result{}, err
	}
	found, err := flake.Run(ctx, nil)
	return flake, found, err
}

// evaluated reports what the evaluation gave, and warns of what is not known.
func (c *collector) evaluated(flake *discover.Evaluation, unknown []discover.Skipped) {
	c.report.Flake, _ = secret.Reference(flake.Flake.URL)
	c.report.Systems = flake.Systems
	for _, s := range unknown {
		c.msg.Printf("%s: %s: %s", s.Attr, s.Reason, s.Message)
		c.report.Unknown = append(c.report.Unknown, report.Unknown{Attr: s.Attr.String(), Reason: string(s.Reason), Message: s.Message})
	}
	if len(unknown) > 0 {
		c.msg.Warn(hint.Wrap(errors.New(unknownText(unknown)), "all that was published under these attributes is kept"))
	}
}

func unknownText(unknown []discover.Skipped) string {
	var names []string
	for _, s := range unknown {
		names = append(names, fmt.Sprintf("%s (%s)", s.Attr, s.Reason))
	}
	return fmt.Sprintf("the flake has %s whose paths are not known: %s", ui.Count(len(unknown), "attribute"), ui.Few(names))
}

// flakeRoots are the paths of a flake's outputs and, of attributes whose paths
// cannot be known, all that was ever published under them.
func flakeRoots(found discover.Result, pubs []format.Publication) (keep []collect.Keep, unknown []discover.Skipped) {
	var bases []string
	for i := range found.Outputs {
		for _, p := range found.Outputs[i].Paths() {
			bases = append(bases, path.Base(p))
		}
	}
	if len(bases) > 0 {
		keep = append(keep, collect.Keep{Reason: "output of the flake", Paths: bases})
	}
	for _, s := range found.Skipped {
		if !s.Reason.Failure() && s.Reason != discover.UnknownPath {
			continue
		}
		unknown = append(unknown, s)
		if recorded := published(s.Attr.String(), pubs); len(recorded) > 0 {
			keep = append(keep, collect.Keep{Reason: fmt.Sprintf("flake attribute %s cannot be evaluated", s.Attr), Paths: recorded})
		}
	}
	return keep, unknown
}

// published are the paths that were published under an attribute or below it.
func published(attr string, pubs []format.Publication) []string {
	var bases []string
	for _, p := range pubs {
		for _, r := range p.Roots {
			if r.Attr == attr || strings.HasPrefix(r.Attr, attr+".") {
				bases = append(bases, r.Path)
			}
		}
	}
	slices.Sort(bases)
	return slices.Compact(bases)
}
