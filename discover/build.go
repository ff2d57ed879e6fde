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

// BuildOptions say how to build. The zero value leaves all to Nix's
// configuration, and its log to the client's Stderr.
type BuildOptions struct {
	// MaxJobs is how many builds run at once. If less than or equal to 0, Nix's
	// configuration decides.
	MaxJobs int
	// Follow is called for each process of Nix that builds. It returns what is told
	// what that does, instead of the client's Stderr, and what is called when it has
	// ended. Of several processes these are called concurrently, and must be quick.
	// It may be nil.
	Follow func() (event func(nix.BuildEvent), ended func())
	// Built is told of derivations that were built, as soon as that is known, as
	// with Valid. It may be nil.
	Built func(drv string)
	// Valid is told of store paths that are in the local store: of outputs that
	// are there already, and of all that is built, as soon as that is known, within
	// a second or so. It is told of a path once. It must be quick, and is never
	// called concurrently. It may be nil.
	Valid func(paths []string)
}

// Build builds outputs as they arrive, all of them even if some fail, and
// returns what there is then, in the order in which they came. An output of which
// nothing is missing is not given to Nix at all. Whoever sends has to close the
// channel, also when the context is done.
//
// A process of Nix builds what has arrived by then. What arrives while it runs
// is given to another one as soon as Nix runs no more than half of the builds that
// it may.
//
// That something failed shows in Missing and Err. The error is the first Err,
// and nil if nothing is missing. If the result is nil, nothing is known. When
// the context is done, the result is what was built by then, and the error is
// the context's.
func Build(ctx context.Context, client *nix.Client, arriving <-chan []Output, o BuildOptions) ([]Built, error) {
	b := newBuilder(client, o)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		b.watch(ctx)
	}()
	outputs, err := b.run(ctx, arriving)
	close(b.done)
	<-watched
	if err != nil {
		return nil, err
	}
	// also after an interruption: what is built can still be used
	ask, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(askTimeout, cancel) })()
	missing, err := b.look(ask, outputs)
	if err != nil {
		return nil, errors.Join(err, context.Cause(ctx))
	}
	b.check(ask)
	built := make([]Built, len(outputs))
	for i := range outputs {
		built[i].Output = outputs[i]
		if built[i].settle(ask, b, missing); err == nil {
			err = built[i].Err
		}
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("building: %w", context.Cause(ctx))
	}
	return built, err
}

// askTimeout is how long it may take to find out what is built after an
// interruption.
const askTimeout = 3 * time.Second

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
