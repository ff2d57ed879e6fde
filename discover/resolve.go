package discover

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/org/nixoci-action/internal/nix"
)

// resolve fills in the output paths that evaluation does not know: those of
// derivations that appear only as what something else needs. One that is not
// known before it is built stays "".
func resolve(ctx context.Context, client *nix.Client, outputs []Output) error {
	var open []*Derivation
	var drvs []string
	for i := range outputs {
		for j := range outputs[i].Needs {
			open = append(open, &outputs[i].Needs[j])
		}
		if k := outputs[i].Kind; k == Apps || k == DefaultApp { // the others' are known, or depend on what is built
			open = append(open, &outputs[i].Derivation)
		}
	}
	open = slices.DeleteFunc(open, func(d *Derivation) bool { return d.DrvPath == "" || len(d.Outputs) > 0 && !d.floating() })
	for _, d := range open {
		drvs = append(drvs, d.DrvPath)
	}
	slices.Sort(drvs)
	known, err := client.Outputs(ctx, slices.Compact(drvs))
	if err != nil {
		return err
	}
	for _, d := range open {
		all := known[d.DrvPath]
		if len(d.Outputs) == 0 {
			d.Outputs = maps.Clone(all)
		}
		for name, path := range d.Outputs {
			p, ok := all[name]
			if !ok {
				return fmt.Errorf("asking for the outputs of %s: it has no output %q", d.DrvPath, name)
			}
			d.Outputs[name] = cmp.Or(path, p)
		}
	}
	return nil
}
