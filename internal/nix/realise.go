package nix

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// RealiseOptions say how to build. The zero value stops at the first failure
// and leaves the rest to Nix's configuration.
type RealiseOptions struct {
	// KeepGoing goes on with everything that does not depend on what failed.
	KeepGoing bool
	// MaxJobs is how many builds run at once. If less than or equal to 0, Nix's
	// configuration decides.
	MaxJobs int
	// Events is told what happens, never concurrently. It must be quick: Nix waits
	// for it. It may be nil.
	Events func(BuildEvent)
	// Quiet keeps Nix's log from the client's Stderr.
	Quiet bool
}

// outputNames is what follows the "!" of a derivation with chosen outputs.
var outputNames = regexp.MustCompile(`^[A-Za-z0-9+._?=-]+(,[A-Za-z0-9+._?=-]+)*$`)

// Realise builds derivations, or fetches what they would give from Nix's
// substituters. Each is an absolute .drv path, for all of its outputs, or one
// with chosen outputs: "/nix/store/….drv!out,dev". Nix's log, with what the
// builders print, goes to the client's Stderr as it comes.
//
// When builds fail, the error is or wraps a *CommandError; ask Invalid which
// paths are missing. With KeepGoing everything else is built by then, unless
// the error is Untried.
func (c *Client) Realise(ctx context.Context, drvs []string, opts RealiseOptions) error {
	for _, d := range drvs {
		drv, outputs, chosen := strings.Cut(d, "!")
		if err := checkPaths([]string{drv}); err != nil {
			return fmt.Errorf("building: %w", err)
		}
		if !strings.HasSuffix(drv, ".drv") || chosen && !outputNames.MatchString(outputs) {
			return fmt.Errorf("building: %q is not a derivation", d)
		}
	}
	// stdout has one path for each output, which evaluation has told already
	args := []string{"--realise", "--no-gc-warning"}
	if opts.KeepGoing {
		args = append(args, "--keep-going")
	}
	if opts.Events != nil {
		args = append(args, "--log-format", "internal-json", "-v")
	}
	if opts.MaxJobs > 0 {
		args = append(args, "--max-jobs", strconv.Itoa(opts.MaxJobs))
	}
	var errs []error
	for _, batch := range batches(slices.Compact(slices.Sorted(slices.Values(drvs)))) {
		err := c.run(ctx, command{program: "nix-store", args: slices.Concat(args, batch), events: opts.Events, quiet: opts.Quiet}, nil)
		if err != nil {
			errs = append(errs, fmt.Errorf("building: %w", err))
			if !opts.KeepGoing || ctx.Err() != nil {
				break
			}
		}
	}
	return errors.Join(errs...)
}

// Untried reports whether an error of Realise with KeepGoing says that Nix ended
// before it had tried everything. It does not say so of builds that failed.
// Before Nix 2.34 one derivation for another system, or for a feature that the
// machine lacks, has this effect.
func Untried(err error) bool {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		return slices.ContainsFunc(all.Unwrap(), Untried)
	}
	// 100 and three bits, which tell of a time-out and of wrong hashes
	var failed *CommandError
	return errors.As(err, &failed) && (failed.Exit < 100 || failed.Exit > 107)
}

// Invalid returns those of paths that the local store does not have, sorted.
func (c *Client) Invalid(ctx context.Context, paths []string) ([]string, error) {
	if err := checkPaths(paths); err != nil {
		return nil, fmt.Errorf("checking for valid paths: %w", err)
	}
	var invalid []string
	for _, batch := range batches(slices.Compact(slices.Sorted(slices.Values(paths)))) {
		args := append([]string{"--check-validity", "--print-invalid"}, batch...)
		lines, err := c.paths(ctx, args)
		if err != nil {
			return nil, fmt.Errorf("checking for valid paths: %w", err)
		}
		invalid = append(invalid, lines...)
	}
	slices.Sort(invalid)
	return invalid, nil
}

// paths runs nix-store and reads the store paths that it prints.
func (c *Client) paths(ctx context.Context, args []string) ([]string, error) {
	var lines []string
	err := c.run(ctx, command{program: "nix-store", args: args, quiet: true}, func(r io.Reader) error {
		s := bufio.NewScanner(r) // a line is at most 64 KiB
		for s.Scan() {
			if err := checkPaths([]string{s.Text()}); err != nil {
				return err
			}
			lines = append(lines, s.Text())
		}
		return s.Err()
	})
	return lines, err
}

// Dump writes the NAR of a valid store path to w. Cancelling the context or an
// error of w stops it; the NAR is complete only if Dump returns nil.
func (c *Client) Dump(ctx context.Context, path string, w io.Writer) error {
	if err := checkPaths([]string{path}); err != nil {
		return fmt.Errorf("dumping: %w", err)
	}
	err := c.run(ctx, command{program: "nix-store", args: []string{"--dump", path}}, func(r io.Reader) error {
		_, err := io.CopyBuffer(w, r, make([]byte, 256<<10))
		return err
	})
	if err != nil {
		return fmt.Errorf("dumping %s: %w", path, err)
	}
	return nil
}
