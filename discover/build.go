package discover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/nix"
)

// Built is an output after a build.
type Built struct {
	Output
	// Valid and Missing are the paths of the output that are in the local
	// store and that are not. Each is sorted. An output that was not built, and
	// whose path is not known therefore, is missing as "<derivation>!<outputs>".
	Valid, Missing []string
	// Err is why something is Missing, and nil if nothing is: what Nix said when
	// it last tried, a *nix.CommandError, or that it reported no error and has
	// not got the paths, a *nix.InvalidPathsError.
	Err error
	// Realised are the realisations of the output's derivation, if it is
	// content-addressed, and of what that was built from, as far as Nix says.
	Realised []nix.Realisation
	// Unbuilt is why only the Inputs of a shell are there: these are the Output
	// then, nothing is missing, and there is no Err.
	Unbuilt error
}

// Build builds outputs, all of them even if some fail, and returns what there
// is then, in the same order. An output of which nothing is missing is not
// given to Nix at all. Nix's log goes to the client's Stderr.
//
// That something failed shows in Missing and Err. The error is the first Err,
// and nil if nothing is missing. If the result is nil, nothing is known. When
// the context is done, the result is what was built by then, and the error is
// the context's.
func Build(ctx context.Context, client *nix.Client, outputs []Output, maxJobs int) ([]Built, error) {
	var drvs, all []string
	for i := range outputs {
		all = append(all, outputs[i].Paths()...)
	}
	after, err := invalid(ctx, client, all)
	if err != nil {
		return nil, err
	}
	b := builder{client: client, maxJobs: maxJobs, systems: map[string]string{}, failed: map[string]error{}}
	for i := range outputs {
		for _, d := range outputs[i].derivations() {
			b.systems[d.DrvPath] = outputs[i].System
			if todo := d.without(after); todo != "" {
				drvs = append(drvs, todo)
			}
		}
	}
	slices.Sort(drvs)
	b.build(ctx, slices.Compact(drvs))
	// also after an interruption: what is built can still be used
	ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if len(drvs) > 0 {
		if after, err = invalid(ask, client, all); err != nil {
			return nil, errors.Join(err, context.Cause(ctx))
		}
	}
	built := make([]Built, len(outputs))
	for i := range outputs {
		built[i].Output = outputs[i]
		if built[i].settle(ask, &b, after); err == nil {
			err = built[i].Err
		}
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("building: %w", context.Cause(ctx))
	}
	return built, err
}

// settle finds out what there is of an output, and why something is missing.
func (b *Built) settle(ctx context.Context, by *builder, missing map[string]bool) {
	for _, d := range b.derivations() {
		b.Err = cmp.Or(b.Err, by.failed[d.DrvPath])
	}
	b.Err = cmp.Or(b.Err, b.realise(ctx, by.client))
	for _, p := range b.Paths() {
		if missing[p] {
			b.Missing = append(b.Missing, p)
		} else {
			b.Valid = append(b.Valid, p)
		}
	}
	slices.Sort(b.Missing)
	lacks := func(path string) bool { return missing[path] }
	if inputs, ok := b.Inputs(); ok && len(b.Missing) > 0 && !slices.ContainsFunc(inputs.Paths(), lacks) {
		b.Output, b.Valid, b.Missing = inputs, inputs.Paths(), nil
		b.Unbuilt = cmp.Or(b.Err, errors.New("building: Nix reports no error"))
	}
	switch {
	case len(b.Missing) == 0:
		b.Err = nil
	case b.Err == nil:
		b.Err = fmt.Errorf("building: Nix reports no error, but %w", &nix.InvalidPathsError{Paths: b.Missing})
	}
}

// builder builds derivations, going around those that stop Nix.
type builder struct {
	client  *nix.Client
	maxJobs int
	systems map[string]string // by .drv, as far as known

	runs   int
	failed map[string]error // by .drv, what Nix said when it last tried
}

// maxRuns bounds how often Nix is told to build. One output that stops it takes
// about two runs, or where Nix does not name it two for each halving. The good
// ones come first, so that a bound costs them nothing.
const maxRuns = 200

// build builds derivations, given as for nix.Client.Realise. Where Nix ends
// before it has tried all, they are built in two parts, and so on until what
// stops Nix is alone. What is built already costs nothing the second time. A
// build that failed is tried once more where another derivation stopped Nix.
func (b *builder) build(ctx context.Context, drvs []string) {
	if len(drvs) == 0 || b.runs == maxRuns || ctx.Err() != nil {
		return
	}
	b.runs++
	err := b.client.Realise(ctx, drvs, nix.RealiseOptions{KeepGoing: true, MaxJobs: b.maxJobs})
	for _, d := range drvs {
		b.failed[drvOf(d)] = err
	}
	if len(drvs) > 1 && nix.Untried(err) {
		first, second := b.split(ctx, drvs, err)
		b.build(ctx, first)
		b.build(ctx, second)
	}
}

// split divides derivations in two: those that have nothing to do with what
// stopped Nix, and those that may. That is a guess, which decides on the order
// only. Where it is of no use, they are halved.
func (b *builder) split(ctx context.Context, drvs []string, err error) (first, second []string) {
	var failed *nix.CommandError
	if errors.As(err, &failed) && len(failed.Derivations) > 0 {
		suspect := b.suspects(ctx, failed.Derivations[len(failed.Derivations)-1])
		for _, d := range drvs {
			if suspect(drvOf(d)) {
				second = append(second, d)
			} else {
				first = append(first, d)
			}
		}
	}
	if len(first) == 0 || len(second) == 0 {
		return drvs[:len(drvs)/2], drvs[len(drvs)/2:]
	}
	return first, second
}

// suspects returns which derivations may stop Nix, when the one that it named
// last, before it ended, has done so: those that need that one, and if that is
// for a foreign system those for the same system.
func (b *builder) suspects(ctx context.Context, named string) func(drv string) bool {
	needs := map[string]bool{}
	if paths, err := b.client.Referrers(ctx, named); err == nil {
		for _, p := range paths {
			needs[p] = true
		}
	}
	foreign := b.systems[named]
	if own, err := CurrentSystem(ctx, b.client); err != nil || foreign == own {
		foreign = ""
	}
	return func(drv string) bool { return needs[drv] || foreign != "" && b.systems[drv] == foreign }
}

// drvOf is the .drv of what is given to nix.Client.Realise.
func drvOf(todo string) string {
	drv, _, _ := strings.Cut(todo, "!")
	return drv
}

// realise fills in the paths of a floating derivation that was built. Its error
// is that of one that is not; the outputs are Missing then.
func (b *Built) realise(ctx context.Context, client *nix.Client) error {
	if !b.floating() {
		return nil
	}
	names := b.Outputs
	b.Outputs = maps.Clone(names) // the caller's stay as they are
	own, inputs, err := client.Realisations(ctx, b.DrvPath)
	for _, r := range own {
		if _, wanted := names[r.Output]; wanted {
			b.Outputs[r.Output] = r.Path
			b.Realised = append(b.Realised, r)
		}
	}
	if b.floating() {
		b.Missing = append(b.Missing, b.all())
		if err == nil {
			err = fmt.Errorf("asking for the outputs of %s: Nix names only %d of %d", b.DrvPath, len(b.Realised), len(names))
		}
		return err
	}
	b.Realised = append(b.Realised, inputs...)
	return nil
}

// without returns what to tell Nix to build so that none of the derivation's
// wanted outputs is missing or unknown, or "" if none is.
func (d Derivation) without(missing map[string]bool) string {
	var names []string
	for name, path := range d.Outputs {
		if path == "" || missing[path] {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return d.DrvPath + "!" + strings.Join(names, ",")
}

func invalid(ctx context.Context, client *nix.Client, paths []string) (map[string]bool, error) {
	list, err := client.Invalid(ctx, paths)
	if err != nil {
		return nil, err
	}
	set := make(map[string]bool, len(list))
	for _, p := range list {
		set[p] = true
	}
	return set, nil
}
