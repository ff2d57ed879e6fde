package discover

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/org/nixoci-action/internal/nix"
)

//go:embed discover.nix
var discoverNix string

//go:embed callflake.nix
var callFlakeNix string

// arguments are what discover.nix takes.
type arguments struct {
	Op      string     `json:"op"` // "names", "find", "visit", "examine"
	Systems []string   `json:"systems"`
	Include [][]string `json:"include"`
	Exclude [][]string `json:"exclude"`
	Tasks   []task     `json:"tasks,omitempty"` // of visit
	Path    []string   `json:"path,omitempty"`  // of examine
	Paths   [][]string `json:"paths,omitempty"` // of find
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
	// flake is the flake as a command line argument, and dir the folder in which
	// Nix runs, or "".
	flake, dir string
	// call is an expression for the flake, where Nix has no such argument.
	call string
}

// newEvaluator chooses how to read the flake. Evaluation is pure: impure
// evaluation gives other derivations to flakes that look at
// builtins.currentSystem or the environment (measured on 2.8).
func newEvaluator(ctx context.Context, client *nix.Client, ref reference, flake nix.Flake, args arguments) (*evaluator, error) {
	v, err := client.Version(ctx)
	if err != nil {
		return nil, err
	}
	e := &evaluator{client: client, args: args, dir: ref.dir}
	switch {
	case !v.HasRootInstallable():
		e.call, err = callFlake(flake, v.NestsFlakes())
		return e, err
	case ref.dir != "" || strings.HasPrefix(flake.URL, "git+file:"):
		// not locked: since 2.34, a revision of a local repository has its
		// submodules as empty folders, and its work tree lacks them
		e.flake = ref.url
	default:
		e.flake = flake.URL
	}
	return e, nil
}

// callFlake returns an expression for the flake that Nix has put into the store.
func callFlake(f nix.Flake, nested bool) (string, error) {
	args := struct {
		Path   string          `json:"path"`
		Dir    string          `json:"dir"`
		Nested bool            `json:"nested"`
		Locked json.RawMessage `json:"locked"`
		Locks  json.RawMessage `json:"locks,omitempty"`
	}{Path: f.StorePath, Dir: f.Dir, Nested: nested, Locked: f.Locked, Locks: f.Locks}
	// a command line argument is too short for some lock files
	if file, err := os.ReadFile(filepath.Join(f.StorePath, f.Dir, "flake.lock")); err == nil && sameJSON(file, f.Locks) {
		args.Locks = nil
	}
	j, err := json.Marshal(args)
	if err != nil {
		return "", fmt.Errorf("evaluating the flake %s: %w", f.URL, err)
	}
	return fmt.Sprintf("(%s) (builtins.fromJSON %s)", callFlakeNix, nix.Quote(string(j))), nil
}

func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

func (e *evaluator) eval(ctx context.Context, args arguments, quiet bool) (json.RawMessage, error) {
	args.Systems, args.Include, args.Exclude = e.args.Systems, e.args.Include, e.args.Exclude
	j, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	expr := fmt.Sprintf("(%s) (builtins.fromJSON %s)", discoverNix, nix.Quote(string(j)))
	opts := nix.EvalOptions{Flake: e.flake, Dir: e.dir, Quiet: quiet}
	if e.flake == "" {
		expr = fmt.Sprintf("(%s) (%s)", expr, e.call)
	}
	return e.client.Eval(ctx, expr, opts)
}

// names returns the names of all that the flake has.
func (e *evaluator) names(ctx context.Context) (names []string, err error) {
	err = e.decode(ctx, arguments{Op: "names"}, true, &names)
	return names, err
}

// find returns those of paths at which the flake has something.
func (e *evaluator) find(ctx context.Context, paths []Attr) (found []Attr, err error) {
	args := arguments{Op: "find"}
	for _, p := range paths {
		args.Paths = append(args.Paths, p)
	}
	err = e.decode(ctx, args, false, &found)
	return found, err
}

func (e *evaluator) decode(ctx context.Context, args arguments, quiet bool, into any) error {
	raw, err := e.eval(ctx, args, quiet)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("decoding the evaluation's result: %w", err)
	}
	return nil
}

// visit evaluates tasks. It returns also the names of all that the flake has.
func (e *evaluator) visit(ctx context.Context, tasks []task, quiet bool) (outputs []Output, skipped []pending, names []string, err error) {
	var result struct {
		Records json.RawMessage `json:"records"`
		Names   []string        `json:"names"`
	}
	if err := e.decode(ctx, arguments{Op: "visit", Tasks: tasks}, quiet, &result); err != nil {
		return nil, nil, nil, err
	}
	outputs, skipped, err = parseRecords(result.Records)
	return outputs, skipped, result.Names, err
}

// examine evaluates one node so that its error ends the evaluation. It returns
// the names of its members, or if it is a leaf what it is.
func (e *evaluator) examine(ctx context.Context, path []string) (names []string, outputs []Output, skipped []pending, err error) {
	var result struct {
		Names   []string        `json:"names"`
		Records json.RawMessage `json:"records"`
	}
	if err := e.decode(ctx, arguments{Op: "examine", Path: path}, true, &result); err != nil {
		return nil, nil, nil, err
	}
	if result.Records != nil {
		outputs, skipped, err = parseRecords(result.Records)
	}
	return result.Names, outputs, skipped, err
}
