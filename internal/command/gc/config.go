package gc

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/registry"
)

// config is what the command line and the environment ask for.
type config struct {
	Cache        string
	Flake        string // empty: publications alone say what is kept
	Systems      []string
	Kinds        []discover.Kind
	AcceptConfig bool
	EvalJobs     int
	EvalMemory   int64
	Include      []string
	Exclude      []string

	Retention   time.Duration
	KeepLast    int
	Branches    []string // nil: all
	PRRetention time.Duration
	Delay       time.Duration
	Unpin       []string

	DryRun   bool
	JSON     bool
	Verbose  bool
	CacheDir string
}

// Command is what the help says of it.
var Command = &cli.Command{
	Name:     "gc",
	Summary:  "removes from the cache what nothing needs any more",
	Synopsis: "[flags]",
	About: "Removes from a cache what no publication needs any more. The newest publications of each branch and tag are kept for ever, " +
		"older ones for a while after newer ones took their place, those of pull requests for a while after they were made, " +
		"pinned ones until they are unpinned; and with each everything it refers to. " +
		"It may run beside publishers and readers, and be interrupted at any time. What it takes out of the cache index " +
		"stays in the registry until a later run, when nobody can need it any more.",
	Examples: `
		nixoci gc --dry-run
		nixoci gc --cache ghcr.io/owner/repo/nix-cache --retention 14d --keep-last 3
		nixoci gc --branch main --branch 'release-*'
		nixoci gc --flake . --unpin production`,
	Environment: slices.Concat(cli.Tokens, cli.Login),
	Partly:      "the cache index is pruned, but the registry refuses to delete something, or has lost something",
}

// safeDelay is the delay that suits every publisher and reader.
const safeDelay = collect.DefaultDelay

// parseConfig reads flags and environment. It touches nothing else.
func parseConfig(args []string, getenv func(string) string) (config, error) {
	var c config
	var kinds []string
	fallback := collect.DefaultRetention()
	f := Command.Flags(getenv)
	f.Cache(&c.Cache)
	f.Duration(&c.Retention, "retention", fallback.Age, "`TIME` for which a publication is kept after a newer one took its place, and what is in no publication after it was added; as in 30d, 2w, 12h or P30D")
	f.Int(&c.KeepLast, "keep-last", fallback.Last, "`NUMBER` of publications kept for ever, of each branch and of each selection that is published from it")
	f.Strings(&c.Branches, "branch", nil, "`GLOB` for the branches to which --keep-last applies; publications of others are kept for the --retention (default: all branches)")
	f.Duration(&c.PRRetention, "pr-retention", fallback.PullRequests, "`TIME` for which the publications of a pull request or a merge queue are kept")
	f.Strings(&c.Unpin, "unpin", nil, "`NAME` of a pin to end, in all repositories")
	f.String(&c.Flake, "flake", "", "`FLAKE` whose outputs are kept as well: a folder or any flake reference. It is evaluated, not built (default: no flake)")
	f.Strings(&c.Systems, "system", nil, "`SYSTEM` for which the flake's outputs are kept (default: those in the cache, and this machine's)")
	f.Strings(&kinds, "kinds", nil, "`KINDS` of the flake's outputs to keep, separated by commas (default: all but hydraJobs)")
	f.Bool(&c.AcceptConfig, "accept-flake-config", "use what the flake asks for in its nixConfig, as publish does with this flag")
	f.Int(&c.EvalJobs, "eval-jobs", 0, "`NUMBER` of Nix processes that evaluate the flake at a time; 0 for the processors, but at most one for each GiB of --eval-memory")
	f.Size(&c.EvalMemory, "eval-memory", 0, "`SIZE` of the memory that these processes take together at most, as in 4GiB; off for three quarters of what is available")
	f.Strings(&c.Include, "include", nil, "`GLOB` for the attributes of the flake to keep")
	f.Strings(&c.Exclude, "exclude", nil, "`GLOB` for attributes of the flake not to keep")
	f.Duration(&c.Delay, "delay", safeDelay, "`TIME` for which publishers and readers may work with what they know: nothing younger is removed, nothing replaced is deleted earlier")
	f.Bool(&c.DryRun, "dry-run", "show what would be removed and why, and write nothing")
	f.Bool(&c.JSON, "json", "print the plan or the result as JSON on standard output")
	f.Bool(&c.Verbose, "verbose", "log every request and command")
	f.CacheDir(&c.CacheDir)
	rest, err := f.Parse(args)
	if err != nil {
		return config{}, err
	}
	var errs []error
	if len(rest) > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q", rest[0]))
	}
	for _, k := range kinds {
		ks, err := discover.ParseKinds(k)
		c.Kinds = append(c.Kinds, ks...)
		errs = append(errs, err)
	}
	return c, f.Usage(errors.Join(append(errs, c.validate())...))
}

// validate finds all that is wrong before any work starts.
func (c *config) validate() error {
	var errs []error
	if c.KeepLast < 0 {
		errs = append(errs, fmt.Errorf("--keep-last %d is negative", c.KeepLast))
	}
	if c.EvalJobs < 0 {
		errs = append(errs, fmt.Errorf("--eval-jobs %d is negative", c.EvalJobs))
	}
	for _, g := range c.Branches {
		if _, err := path.Match(g, ""); err != nil {
			errs = append(errs, fmt.Errorf("--branch %q is no glob", g))
		}
	}
	return errors.Join(append(errs, registry.Check(c.Cache))...)
}
