package discover

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/storepath"
)

// resolve fills in the output paths that evaluation does not know: those of
// derivations that appear only as what something else needs.
func resolve(ctx context.Context, client *nix.Client, outputs []Output) ([]Output, error) {
	known := map[string][]string{} // derivation -> paths
	fill := func(d *Derivation) error {
		if d.DrvPath == "" || len(d.Outputs) > 0 && !slices.Contains(slices.Collect(maps.Values(d.Outputs)), "") {
			return nil
		}
		paths, ok := known[d.DrvPath]
		if !ok {
			var err error
			if paths, err = client.Outputs(ctx, d.DrvPath); err != nil {
				return err
			}
			known[d.DrvPath] = paths
		}
		return nameOutputs(d, paths)
	}
	for i := range outputs {
		o := &outputs[i]
		if err := fill(&o.Derivation); err != nil {
			return nil, err
		}
		for j := range o.Needs {
			if err := fill(&o.Needs[j]); err != nil {
				return nil, err
			}
		}
	}
	return outputs, nil
}

// nameOutputs matches a derivation's output paths to the names of outputs: a
// path is named like the derivation, with "-<output>" unless that is "out".
func nameOutputs(d *Derivation, paths []string) error {
	drv, err := storepath.Parse(d.DrvPath)
	if err != nil {
		return err
	}
	base := strings.TrimSuffix(drv.Name, ".drv")
	byName := make(map[string]string, len(paths))
	for _, s := range paths {
		p, err := storepath.Parse(s)
		if err != nil {
			return err
		}
		name := "out"
		if p.Name != base {
			name = strings.TrimPrefix(p.Name, base+"-")
		}
		byName[name] = s
	}
	if len(d.Outputs) == 0 {
		d.Outputs = byName
		return nil
	}
	for name, path := range d.Outputs {
		if path == "" {
			if d.Outputs[name] = byName[name]; byName[name] == "" {
				return fmt.Errorf("asking for the outputs of %s: it has no output %q", d.DrvPath, name)
			}
		}
	}
	return nil
}

// Built is an output after a build.
type Built struct {
	Output
	// Valid and Missing are the paths of the output that are in the local
	// store and that are not. Each is sorted. An output that was not built, and
	// whose path is not known therefore, is missing as "<derivation>!<outputs>".
	Valid, Missing []string
	// Realised are the realisations of the output's derivation, if it is
	// content-addressed, and of what that was built from, as far as Nix says.
	Realised []nix.Realisation
}

// Build builds outputs, all of them even if some fail, and returns what there
// is then, in the same order. An output of which nothing is missing is not
// given to Nix at all. Nix's log goes to the client's Stderr.
//
// That builds failed shows in Missing; the error is Nix's own, a
// *nix.CommandError, if anything is missing, and nil otherwise. If the result
// is nil, nothing is known. When the context is done, the result is what was
// built by then, and the error is the context's.
func Build(ctx context.Context, client *nix.Client, outputs []Output, maxJobs int) ([]Built, error) {
	var drvs, all []string
	paths := make([][]string, len(outputs))
	for i := range outputs {
		paths[i] = outputs[i].Paths()
		all = append(all, paths[i]...)
	}
	before, err := invalid(ctx, client, all)
	if err != nil {
		return nil, err
	}
	for i := range outputs {
		for _, d := range outputs[i].derivations() {
			if d.floating() {
				drvs = append(drvs, d.all())
			} else if todo := d.without(before); todo != "" {
				drvs = append(drvs, todo)
			}
		}
	}
	after := before
	var buildErr error
	built := make([]Built, len(outputs))
	for i := range outputs {
		built[i].Output = outputs[i]
	}
	if len(drvs) > 0 {
		buildErr = client.Realise(ctx, drvs, nix.RealiseOptions{KeepGoing: true, MaxJobs: maxJobs})
		// also after an interruption: what is built can still be used
		ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if after, err = invalid(ask, client, all); err != nil {
			return nil, errors.Join(buildErr, err)
		}
		for i := range built {
			if err := built[i].realise(ask, client); err != nil && buildErr == nil {
				buildErr = err
			}
		}
	}
	missing := 0
	for i := range outputs {
		missing += len(built[i].Missing)
		paths[i] = built[i].Paths()
		for _, p := range paths[i] {
			if after[p] {
				built[i].Missing = append(built[i].Missing, p)
			} else {
				built[i].Valid = append(built[i].Valid, p)
			}
		}
	}
	switch {
	case ctx.Err() != nil:
		return built, fmt.Errorf("building: %w", context.Cause(ctx))
	case len(after)+missing == 0:
		return built, nil
	case buildErr == nil:
		buildErr = fmt.Errorf("building: Nix reports success, but %w", &nix.InvalidPathsError{Paths: slices.Sorted(maps.Keys(after))})
	}
	return built, buildErr
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
// wanted outputs is missing, or "" if none is.
func (d Derivation) without(missing map[string]bool) string {
	var names []string
	for name, path := range d.Outputs {
		if missing[path] {
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
