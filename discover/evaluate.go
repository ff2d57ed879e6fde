package discover

import (
	"context"
	"crypto/rand"
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
	Op      string     `json:"op"` // "find", "visit", "examine"
	Mark    string     `json:"mark"`
	Systems []string   `json:"systems"`
	Include [][]string `json:"include"`
	Exclude [][]string `json:"exclude"`
	// Tasks are what visit looks at, one after the other, each from its first
	// member on or backward from its last one, and the first one from From on,
	// which is a path below it.
	Tasks    []Attr `json:"tasks"`
	From     Attr   `json:"from"`
	Backward bool   `json:"backward"`
	Path     Attr   `json:"path"`  // of examine
	Paths    []Attr `json:"paths"` // of find
}

// message is something that discover.nix says while it evaluates.
type message struct {
	// At is what is evaluated next.
	At Attr `json:"at"`
	// Of is what the others are of; empty for the flake itself.
	Of Attr `json:"of"`
	// Names are the members of a set that are evaluated, Excluded the others.
	Names    []string `json:"names"`
	Excluded []string `json:"excluded"`
	// Records are what there is; Bare the same, with no error caught.
	Records json.RawMessage `json:"records"`
	Bare    json.RawMessage `json:"bare"`
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

// run evaluates. The expression's messages go to told, unless it is nil. The log
// is shown unless quiet.
func (e *evaluator) run(ctx context.Context, args arguments, quiet bool, started func(nix.Process), told func(message, error)) (json.RawMessage, error) {
	args.Systems, args.Include, args.Exclude = e.args.Systems, e.args.Include, e.args.Exclude
	if args.From == nil {
		args.From = Attr{} // not null
	}
	opts := nix.EvalOptions{Flake: e.flake, Dir: e.dir, Quiet: quiet, Started: started}
	if told != nil {
		args.Mark = "nixoci-" + rand.Text() + " "
		opts.Mark = args.Mark
		opts.Told = func(line []byte) {
			var m message
			err := json.Unmarshal(line, &m)
			told(m, err)
		}
	}
	j, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	expr := fmt.Sprintf("(%s) (builtins.fromJSON %s)", discoverNix, nix.Quote(string(j)))
	if e.flake == "" {
		expr = fmt.Sprintf("(%s) (%s)", expr, e.call)
	}
	return e.client.Eval(ctx, expr, opts)
}

// find returns those of paths at which the flake has something.
func (e *evaluator) find(ctx context.Context, paths []Attr) (found []Attr, err error) {
	raw, err := e.run(ctx, arguments{Op: "find", Paths: paths}, false, nil, nil)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &found); err != nil {
		return nil, fmt.Errorf("decoding the evaluation's result: %w", err)
	}
	return found, nil
}
