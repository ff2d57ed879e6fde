// Package discover finds what a flake has to build. It owns Output: an
// attribute of a flake, with its derivation and the paths that a build of it
// gives. It evaluates and builds with Nix. It knows nothing of caches.
package discover

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/storepath"
)

// Options say where to look and for what.
type Options struct {
	// Flake is a flake reference: a folder ("./config", "/abs"), or anything
	// that Nix takes ("github:owner/repo", a name from the registry). A folder
	// in a Git work tree is read through Git, so that only tracked files count.
	// With an attribute, as in ".#hello", it is that alone, or all below it, found
	// where "nix build" finds it; Kinds are of no account then.
	Flake string
	// Systems are the systems to look for. If empty, that of the local Nix.
	Systems []string
	// Kinds are the kinds of outputs. If empty, DefaultKinds.
	Kinds []Kind
	// Include and Exclude are globs over attribute paths, for example
	// "packages.*.hello-*". A pattern covers everything below what it
	// matches; the system may be left out ("packages.hello"), and a pattern
	// without a dot also matches an attribute's own name ("hello"). If Include
	// is empty, everything is included; Exclude goes before Include. What is
	// excluded is not evaluated.
	Include, Exclude []string
	// DenyUnfree skips what says of itself that its license is not free.
	DenyUnfree bool
	// Floating includes content-addressed derivations, whose paths are not
	// known before they are built. Else they are Skipped, as UnknownPath.
	Floating bool
	// AcceptConfig uses what the flake asks for in its nixConfig, whether or not
	// Nix is configured to accept that.
	AcceptConfig bool
	// Jobs is how many Nix processes evaluate at a time. If less than or equal to
	// 0, one for each processor, and not more than one for each GiB of Memory.
	Jobs int
	// Memory is how much memory all of them may take together, in bytes. If less
	// than or equal to 0, three quarters of what is available. Where that is not
	// known, there is no bound. One that exceeds it is ended, and what it
	// evaluates is tried alone.
	Memory int64
	// Timeout bounds all evaluation. If less than or equal to 0, a default
	// (currently 30 minutes) is used. What is not evaluated by then is skipped.
	Timeout time.Duration
	// MaxEvaluations bounds the processes that evaluate, one after the other: each
	// attribute that ends one takes two. If less than or equal to 0, a default
	// (currently 300) is used.
	MaxEvaluations int
	// Logger tells of the search. If nil, nothing does.
	Logger *slog.Logger
}

// Evaluation is a flake that is known, and not yet evaluated.
type Evaluation struct {
	// Flake is the flake as Nix resolved it.
	Flake nix.Flake
	// Systems are the systems that are looked for.
	Systems []string
	// Nix is the client that was given, with the Settings of the flake's nixConfig
	// that were accepted: to build with. Refused are the others. ConfigErr is why
	// nothing is known of them.
	Nix               *nix.Client
	Settings, Refused []nix.Setting
	ConfigErr         error

	opts Options
	attr Attr // that the reference names, or nil
	// everything tells that no kinds were chosen
	everything bool
	eval       *evaluator
}

// Result is what an evaluation gave.
type Result struct {
	// Outputs and Skipped are sorted by attribute.
	Outputs []Output
	Skipped []Skipped
	// Evaluations is the number of Nix evaluations that it took.
	Evaluations int
}

// Defaults.
const (
	defaultTimeout     = 30 * time.Minute
	defaultEvaluations = 300
	// memoryOfJob is how much memory there must be for each process.
	memoryOfJob = 1 << 30
)

// Open reads what has to be known of a flake before it is evaluated: where it
// is, and its nixConfig. The flake's lock file is never written.
func Open(ctx context.Context, client *nix.Client, opts Options) (*Evaluation, error) {
	opts.Logger = cmp.Or(opts.Logger, slog.New(slog.DiscardHandler))
	if opts.Timeout <= 0 {
		opts.Timeout = defaultTimeout
	}
	if opts.MaxEvaluations <= 0 {
		opts.MaxEvaluations = defaultEvaluations
	}
	if opts.Memory <= 0 {
		opts.Memory = nix.AvailableMemory() / 4 * 3
	}
	if opts.Jobs <= 0 {
		opts.Jobs = runtime.GOMAXPROCS(0)
		if opts.Memory > 0 {
			opts.Jobs = max(1, min(opts.Jobs, int(opts.Memory/memoryOfJob)))
		}
	}
	e := &Evaluation{everything: len(opts.Kinds) == 0}
	if e.everything {
		opts.Kinds = DefaultKinds()
	}
	args := arguments{Systems: opts.Systems, Include: [][]string{}, Exclude: [][]string{}}
	if err := args.compile(opts.Include, opts.Exclude); err != nil {
		return nil, err
	}
	ref, err := parseReference(opts.Flake)
	if err != nil {
		return nil, err
	}
	if e.Flake, err = client.FlakeMetadata(ctx, ref.url, ref.dir); err != nil {
		return nil, ref.hint(err)
	}
	if err := e.configure(ctx, client, ref, opts.AcceptConfig); err != nil {
		return nil, err
	}
	if len(args.Systems) == 0 {
		system, err := CurrentSystem(ctx, e.Nix)
		if err != nil {
			return nil, err
		}
		args.Systems = []string{system}
	}
	e.opts, e.attr, e.Systems = opts, ref.attr, args.Systems
	e.eval, err = newEvaluator(ctx, e.Nix, ref, e.Flake, args)
	return e, err
}

// Run evaluates the flake and returns what it has to build. As many Nix processes
// as pay share the work. Where an attribute ends one of them, the next goes on
// behind it, and the attribute is evaluated once more by itself: if that fails too,
// it is skipped with Nix's message. The derivations are those that "nix build" on
// the same reference builds, and are in the store afterwards.
//
// Each of the Result's outputs is given to found first, as soon as it is known,
// in no order, and never from two goroutines at once. It should return soon, as
// evaluation waits for it. If found is nil, nobody is told.
//
// An error means that the Result is not known: the flake's outputs cannot be
// read, or are no set at all, Nix is missing, or the context is done.
func (e *Evaluation) Run(ctx context.Context, found func([]Output)) (Result, error) {
	fail := func(err error) (Result, error) {
		return Result{}, fmt.Errorf("evaluating the flake %s: %w", e.Flake.URL, err)
	}
	evalCtx, cancel := context.WithTimeout(ctx, e.opts.Timeout)
	defer cancel()
	s := search{eval: e.eval, opts: e.opts, attr: e.attr, found: found, fetched: e.fetched}
	if err := s.run(evalCtx); err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("not done after %v: %w", e.opts.Timeout, err)
		}
		return fail(err)
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if e.everything && e.attr == nil {
		s.unseen()
	}
	r := Result{Outputs: s.outputs, Evaluations: s.evaluations}
	for _, p := range s.skipped {
		r.Skipped = append(r.Skipped, p.Skipped)
	}
	slices.SortStableFunc(r.Outputs, func(a, b Output) int { return slices.Compare(a.Attr, b.Attr) })
	slices.SortStableFunc(r.Skipped, func(a, b Skipped) int { return slices.Compare(a.Attr, b.Attr) })
	return r, nil
}

// fetched reports whether all inputs of the flake are in the store. It says no
// where it is not sure.
func (e *Evaluation) fetched() bool {
	source, err := storepath.Parse(e.Flake.StorePath)
	var locks struct {
		Nodes map[string]struct {
			Locked struct{ NarHash string }
		}
	}
	if err != nil || json.Unmarshal(e.Flake.Locks, &locks) != nil {
		return false
	}
	for _, n := range locks.Nodes {
		if n.Locked.NarHash == "" { // the flake itself, or a part of another
			continue
		}
		path, err := storepath.Source(source.Dir, n.Locked.NarHash)
		if err != nil {
			return false
		}
		if _, err := os.Lstat(path.String()); err != nil {
			return false
		}
	}
	return true
}

// configure finds out what of the flake's nixConfig is used.
func (e *Evaluation) configure(ctx context.Context, client *nix.Client, ref reference, accept bool) error {
	e.Nix = client
	asked, err := client.FlakeSettings(ctx, e.Flake, ref.dir)
	if err == nil && accept {
		e.Settings = asked
	} else if err == nil {
		e.Settings, e.Refused, err = client.Accept(ctx, asked)
	}
	if ctx.Err() != nil {
		return err
	}
	e.ConfigErr = err
	if len(e.Settings) > 0 && len(e.Refused) == 0 {
		// or Nix says that it uses nothing of it
		client = client.With([]nix.Setting{{Name: "accept-flake-config", Value: "true"}})
	}
	e.Nix = client.With(e.Settings)
	return nil
}

// CurrentSystem returns the system of the local Nix.
func CurrentSystem(ctx context.Context, client *nix.Client) (string, error) {
	raw, err := client.Eval(ctx, "builtins.currentSystem", nix.EvalOptions{Impure: true, Quiet: true})
	if err != nil {
		return "", fmt.Errorf("asking for Nix's system: %w", err)
	}
	var system string
	if err := json.Unmarshal(raw, &system); err != nil || system == "" {
		return "", fmt.Errorf("asking for Nix's system: got %q", raw)
	}
	return system, nil
}
