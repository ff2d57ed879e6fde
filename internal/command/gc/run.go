package gc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/ci"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/report"
)

// collector is one run of the command.
type collector struct {
	cfg   config
	msg   *ui.Messages
	log   *slog.Logger
	nix   *nix.Client
	cache *index.Cache

	now    time.Time
	report *report.GC
	stages report.Stopwatch
}

// run does what cfg asks for and prints the report. Its error carries the
// exit status.
func run(ctx context.Context, cfg config, getenv func(string) string, stdout, stderr io.Writer) error {
	c, done, err := newCollector(cfg, getenv, stderr)
	if err != nil {
		return err
	}
	defer done()
	err = c.run(ctx)
	c.report.Finish(c.stages.Stages(), err)
	if report.IsPartly(err) {
		err = cli.WithStatus(err, cli.ExitPartly)
	}
	switch {
	case cfg.JSON:
		err = errors.Join(err, cli.WriteJSON(stdout, c.report))
	case cfg.DryRun:
		if _, werr := io.WriteString(stdout, ui.Text(c.report.PlanText())); werr != nil {
			err = errors.Join(err, fmt.Errorf("writing the plan: %w", werr))
		}
	}
	if text := c.report.Text(); text != "" {
		c.msg.Printf("%s", text)
	}
	return err
}

func newCollector(cfg config, getenv func(string) string, stderr io.Writer) (*collector, func(), error) {
	msg := ui.New(stderr, getenv)
	nixLog := msg.Log()
	log := msg.Logger(cli.LogLevel(cfg.Verbose))
	job := ci.Detect(getenv)
	own, _ := job.Own(cfg.Cache)
	repo, err := cli.OpenRepository(cfg.Cache, registry.Options{
		Push:      !cfg.DryRun,
		Keychain:  cli.Keychain(getenv),
		Advice:    own.Advice,
		GitHubAPI: job.GitHubAPI,
		Logger:    log,
	})
	if err != nil {
		return nil, nil, err
	}
	dir := cfg.CacheDir
	if cfg.DryRun {
		dir = "" // a dry run writes nothing anywhere
	}
	now := time.Now()
	return &collector{
		cfg: cfg, msg: msg, log: log, now: now,
		nix:    nix.New(nix.Options{Env: os.Environ(), Stderr: nixLog, Logger: log}),
		cache:  index.Open(repo, index.Options{Dir: dir, Logger: log}),
		report: report.NewGC(repo.String(), cfg.DryRun, now, cfg.Delay),
	}, func() { nixLog.Close() }, nil
}

// run plans and carries out the plan. Nothing is changed before all is known
// that is to be kept.
func (c *collector) run(ctx context.Context) error {
	if c.cfg.Delay < safeDelay {
		c.msg.Warn(fmt.Errorf("--delay %s: publishers and readers that run at the same time may miss paths; use it only when nothing else uses the cache",
			cli.FormatDuration(c.cfg.Delay)))
	}
	base, keep, err := c.inputs(ctx)
	if err != nil {
		return explain(err)
	}
	if base.Absent() { // a schedule may begin before the first publish: no failure
		c.msg.Warn(cli.NoCache(c.report.Cache))
		return nil
	}
	if c.cfg.Unpin, err = pinsToEnd(c.cfg.Unpin, base); err != nil {
		return cli.WithStatus(err, cli.ExitUsage)
	}
	end := c.stages.Start("plan")
	plan, err := collect.NewPlan(base, collect.PlanOptions{
		Now: c.now, Keep: keep, Unpin: c.cfg.Unpin, Delay: c.cfg.Delay,
		Retention: collect.Retention{Last: c.cfg.KeepLast, Branches: c.cfg.Branches, Age: c.cfg.Retention, PullRequests: c.cfg.PRRetention},
	})
	end()
	if err != nil {
		return explain(err)
	}
	c.report.Plan(plan)
	if c.cfg.DryRun {
		return nil
	}
	defer c.stages.Start("collect")()
	if plan.Removed.Paths > 0 {
		c.msg.Printf("removing %s of %s, %s", ui.Number(plan.Removed.Paths), ui.Count(plan.Removed.Paths+plan.Kept.Paths, "path"), ui.Bytes(plan.Removed.FileSize))
	}
	collected, err := collect.Run(ctx, c.cache, plan)
	c.report.Collected(collected)
	return c.report.Failure(explain(err))
}

// read reads the cache index. One that a publisher of nixcache-oci has
// overwritten is repaired first; one that is all theirs is left alone.
func (c *collector) read(ctx context.Context) (*index.Snapshot, error) {
	defer c.stages.Start("read")()
	base, err := c.cache.Sweep(ctx)
	switch {
	case err != nil || !base.Foreign():
		return base, err
	case len(base.Segments()) == 0:
		return nil, hint.Wrap(format.ErrForeign, "publish into it once: that takes it over")
	case c.cfg.DryRun:
		return nil, hint.Wrap(errors.New("nixcache-oci has overwritten the cache index"), "publish, or run gc without --dry-run: both repair it")
	}
	base, adopted, err := c.cache.Adopt(ctx, index.AdoptOptions{})
	if err != nil {
		return nil, err
	}
	c.msg.Printf("nixcache-oci had overwritten the cache index; %s taken over", ui.Count(adopted.Paths, "path"))
	return base, nil
}

// explain adds hints to what the index reports.
func explain(err error) error {
	if errors.As(err, new(*format.TooNewError)) {
		return hint.Wrap(err, "use a newer version of nixoci-action")
	}
	return err
}

// pinsToEnd leaves out the names whose pins have ended already. Its error tells of
// names that never pinned anything: a pin that is spelled wrong would stay.
func pinsToEnd(names []string, base *index.Snapshot) ([]string, error) {
	ends := base.Unpinned()
	recorded, live := map[string]bool{}, map[string]bool{}
	for _, p := range base.Publications() {
		if p.Pin == "" {
			continue
		}
		recorded[p.Pin] = true
		if !slices.ContainsFunc(ends, func(u format.Unpin) bool { return u.Ends(p) }) {
			live[p.Pin] = true
		}
	}
	there := "there are none"
	if len(live) > 0 {
		there = "the pins are " + strings.Join(slices.Sorted(maps.Keys(live)), ", ")
	}
	var toEnd []string
	var errs []error
	for _, n := range names {
		switch {
		case live[n]:
			toEnd = append(toEnd, n)
		case !recorded[n]:
			errs = append(errs, fmt.Errorf("--unpin %q: nothing is pinned under this name; %s", n, there))
		}
	}
	return toEnd, errors.Join(errs...)
}
