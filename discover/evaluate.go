package discover

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/nix"
)

//go:embed discover.nix
var discoverNix string

// arguments are what discover.nix takes.
type arguments struct {
	Op      string     `json:"op"` // "kinds", "visit", "examine"
	Systems []string   `json:"systems"`
	Include [][]string `json:"include"`
	Exclude [][]string `json:"exclude"`
	Tasks   []task     `json:"tasks,omitempty"` // of visit
	Path    []string   `json:"path,omitempty"`  // of examine
}

// task is a node of the flake, or a range of its members in the order of their
// names: a range is short to write, however many there are.
type task struct {
	Path  []string `json:"path"`
	From  *int     `json:"from,omitempty"`
	To    *int     `json:"to,omitempty"`
	names []string // all members of the node, if it is a range
}

func (a *arguments) compile(include, exclude []string) error {
	var errs []error
	for _, g := range include {
		p, err := compilePattern(g)
		a.Include, errs = append(a.Include, p), append(errs, err)
	}
	for _, g := range exclude {
		p, err := compilePattern(g)
		a.Exclude, errs = append(a.Exclude, p), append(errs, err)
	}
	return errors.Join(errs...)
}

// evaluator applies discover.nix to one flake.
type evaluator struct {
	client *nix.Client
	args   arguments
	// One of three ways to get at the flake, the first that this Nix has:
	flake  string // as a command line argument
	locked string // getFlake of a reference that pure evaluation accepts
	impure string // getFlake of any reference, with impure evaluation
}

// newEvaluator chooses how to read the flake. Evaluation is pure wherever it
// can be: impure evaluation gives other derivations to flakes that look at
// builtins.currentSystem or the environment (measured on 2.8).
func newEvaluator(ctx context.Context, client *nix.Client, flake nix.Flake, args arguments) (*evaluator, error) {
	v, err := client.Version(ctx)
	if err != nil {
		return nil, err
	}
	e := &evaluator{client: client, args: args, impure: flake.URL}
	if v.HasRootInstallable() {
		e.flake = flake.URL
		return e, nil
	}
	// getFlake locks nothing in pure evaluation, and in 2.8 it wants to write
	// the lock file otherwise.
	if flake.HasInputs && !exists(flake.StorePath, filepath.Join(flake.Dir, "flake.lock")) {
		err := fmt.Errorf("evaluating the flake %s: it has inputs and no lock file, which Nix %s cannot do without", flake.URL, v)
		return nil, hint.Wrap(err, "make one and commit it: nix flake lock && git add flake.lock")
	}
	e.locked = lockedReference(flake)
	return e, nil
}

// lockedReference returns a reference to exactly this source, or "". A tree
// with changes has none of its own, but its copy in the store has. The copy
// lacks self.dirtyRev, which 2.8 does not have anyway.
func lockedReference(f nix.Flake) string {
	if f.Revision != "" || strings.Contains(f.URL, "narHash=") {
		return f.URL
	}
	// 2.8 knows no path: references with a dir
	if f.Dir != "" || f.NarHash == "" || !strings.HasPrefix(f.StorePath, "/") {
		return ""
	}
	return "path:" + f.StorePath + "?lastModified=" + strconv.FormatInt(f.LastModified, 10) + "&narHash=" + url.QueryEscape(f.NarHash)
}

func (e *evaluator) eval(ctx context.Context, args arguments, quiet bool) (json.RawMessage, error) {
	args.Systems, args.Include, args.Exclude = e.args.Systems, e.args.Include, e.args.Exclude
	j, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	expr := fmt.Sprintf("(%s) (builtins.fromJSON %s)", discoverNix, nixString(string(j)))
	opts := nix.EvalOptions{Quiet: quiet}
	switch {
	case e.flake != "":
		opts.Flake = e.flake
	case e.locked != "":
		expr = fmt.Sprintf("(%s) (builtins.getFlake %s)", expr, nixString(e.locked))
	default:
		opts.Impure = true
		expr = fmt.Sprintf("(%s) (builtins.getFlake %s)", expr, nixString(e.impure))
	}
	return e.client.Eval(ctx, expr, opts)
}

// kinds returns the kinds that the flake has.
func (e *evaluator) kinds(ctx context.Context) (kinds []Kind, err error) {
	raw, err := e.eval(ctx, arguments{Op: "kinds"}, true)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &kinds); err != nil {
		return nil, fmt.Errorf("decoding the evaluation's result: %w", err)
	}
	return kinds, nil
}

func (e *evaluator) visit(ctx context.Context, tasks []task, quiet bool) ([]Output, []pending, error) {
	raw, err := e.eval(ctx, arguments{Op: "visit", Tasks: tasks}, quiet)
	if err != nil {
		return nil, nil, err
	}
	return parseRecords(raw)
}

// examine evaluates one node so that its error ends the evaluation. It returns
// the names of its members, or if it is a leaf what it is.
func (e *evaluator) examine(ctx context.Context, path []string) (names []string, outputs []Output, skipped []pending, err error) {
	raw, err := e.eval(ctx, arguments{Op: "examine", Path: path}, true)
	if err != nil {
		return nil, nil, nil, err
	}
	var result struct {
		Names   []string        `json:"names"`
		Records json.RawMessage `json:"records"`
	}
	if err := json.Unmarshal(raw, &result); err != nil {
		return nil, nil, nil, fmt.Errorf("decoding the evaluation's result: %w", err)
	}
	if result.Records != nil {
		outputs, skipped, err = parseRecords(result.Records)
	}
	return result.Names, outputs, skipped, err
}
