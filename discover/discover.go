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
	"slices"
	"time"

	"github.com/org/nixoci-action/internal/nix"
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
	// Timeout bounds all evaluation. If less than or equal to 0, a default
	// (currently 30 minutes) is used. What is not evaluated by then is skipped.
	Timeout time.Duration
	// MaxEvaluations bounds the search for attributes that break the
	// evaluation. If less than or equal to 0, a default (currently 300) is
	// used.
	MaxEvaluations int
	// Logger tells of the search. If nil, nothing does.
	Logger *slog.Logger
}

// Result is what Discover found.
type Result struct {
	// Flake is the flake as Nix resolved it.
	Flake nix.Flake
	// Systems are the systems that were looked for.
	Systems []string
	// Outputs and Skipped are sorted by attribute.
	Outputs []Output
	Skipped []Skipped
	// Evaluations is the number of Nix evaluations that it took.
	Evaluations int
	// Nix is the client that was given, with the Settings of the flake's nixConfig
	// that were accepted: to build with. Refused are the others. ConfigErr is why
	// nothing is known of them.
	Nix               *nix.Client
	Settings, Refused []nix.Setting
	ConfigErr         error
}

// Limits and defaults.
const (
	defaultTimeout     = 30 * time.Minute
	defaultEvaluations = 300
	// maxMessages bounds the evaluations made only to learn Nix's message.
	maxMessages = 40
)

// Discover evaluates a flake and returns what it has to build. Where all of it
// evaluates it takes one evaluation. Where an attribute breaks the evaluation,
// it is found by bisection and skipped with Nix's message; that takes about
// log2(attributes) evaluations of ever smaller parts. The derivations are
// those that "nix build" on the same reference builds, and are in the store
// afterwards. The flake's lock file is never written.
//
// An error means that nothing is known: the flake cannot be read, its outputs
// are no set at all, Nix is missing, or the context is done.
func Discover(ctx context.Context, client *nix.Client, opts Options) (Result, error) {
	opts.Logger = cmp.Or(opts.Logger, slog.New(slog.DiscardHandler))
	if opts.Timeout <= 0 {
		opts.Timeout = defaultTimeout
	}
	if opts.MaxEvaluations <= 0 {
		opts.MaxEvaluations = defaultEvaluations
	}
	everything := len(opts.Kinds) == 0
	if everything {
		opts.Kinds = DefaultKinds()
	}
	args := arguments{Systems: opts.Systems, Include: [][]string{}, Exclude: [][]string{}}
	if err := args.compile(opts.Include, opts.Exclude); err != nil {
		return Result{}, err
	}
	ref, err := parseReference(opts.Flake)
	if err != nil {
		return Result{}, err
	}
	flake, err := client.FlakeMetadata(ctx, ref.url, ref.dir)
	if err != nil {
		return Result{}, ref.hint(err)
	}
	r := Result{Flake: flake}
	if err := r.configure(ctx, client, ref, opts.AcceptConfig); err != nil {
		return Result{}, err
	}
	client = r.Nix
	if len(args.Systems) == 0 {
		system, err := CurrentSystem(ctx, client)
		if err != nil {
			return Result{}, err
		}
		args.Systems = []string{system}
	}
	eval, err := newEvaluator(ctx, client, ref, flake, args)
	if err != nil {
		return Result{}, err
	}

	evalCtx, cancel := context.WithTimeout(ctx, opts.Timeout)
	defer cancel()
	s := search{eval: eval, opts: opts, attr: ref.attr}
	if err := s.run(evalCtx); err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("not done after %v: %w", opts.Timeout, err)
		}
		return Result{}, fmt.Errorf("evaluating the flake %s: %w", flake.URL, err)
	}
	if err := ctx.Err(); err != nil {
		return Result{}, fmt.Errorf("evaluating the flake %s: %w", flake.URL, err)
	}
	if everything && ref.attr == nil {
		s.unseen()
	}
	r.Systems, r.Evaluations = args.Systems, s.evaluations
	if r.Outputs, err = resolve(ctx, client, s.outputs); err != nil {
		return Result{}, err
	}
	if opts.Floating {
		s.skipped = slices.DeleteFunc(s.skipped, func(p pending) bool {
			if p.Reason == UnknownPath {
				r.Outputs = append(r.Outputs, p.floating)
			}
			return p.Reason == UnknownPath
		})
	}
	if opts.DenyUnfree {
		r.Outputs = slices.DeleteFunc(r.Outputs, func(o Output) bool {
			if o.Unfree {
				s.skip(Skipped{Attr: o.Attr, Kind: o.Kind, System: o.System, Reason: Unfree, Message: "its license is not free"}, nil)
			}
			return o.Unfree
		})
	}
	for _, p := range s.skipped {
		r.Skipped = append(r.Skipped, p.Skipped)
	}
	slices.SortStableFunc(r.Outputs, func(a, b Output) int { return slices.Compare(a.Attr, b.Attr) })
	slices.SortStableFunc(r.Skipped, func(a, b Skipped) int { return slices.Compare(a.Attr, b.Attr) })
	return r, nil
}

// configure finds out what of the flake's nixConfig is used.
func (r *Result) configure(ctx context.Context, client *nix.Client, ref reference, accept bool) error {
	r.Nix = client
	asked, err := client.FlakeSettings(ctx, r.Flake, ref.dir)
	if err == nil && accept {
		r.Settings = asked
	} else if err == nil {
		r.Settings, r.Refused, err = client.Accept(ctx, asked)
	}
	if ctx.Err() != nil {
		return err
	}
	r.ConfigErr = err
	if len(r.Settings) > 0 && len(r.Refused) == 0 {
		// or Nix says that it uses nothing of it
		client = client.With([]nix.Setting{{Name: "accept-flake-config", Value: "true"}})
	}
	r.Nix = client.With(r.Settings)
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
