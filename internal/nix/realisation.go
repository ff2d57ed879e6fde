package nix

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/org/nixoci-action/internal/storepath"
)

// maxRealisations bounds what Nix says of one derivation's outputs, in bytes.
const maxRealisations = 16 << 20

// Realisation is one output of a content-addressed derivation that has been
// built or substituted.
type Realisation struct {
	// ID is "sha256:<64 hex digits>!<output>"; "" from Nix 2.35 on.
	ID string
	// Drv is the base name of the resolved derivation; "" before Nix 2.35.
	Drv string
	// Output is the output's name.
	Output string
	// Path is the absolute store path.
	Path string
}

// Realisations returns the outputs of one content-addressed derivation, whose
// paths nobody knows before, and outputs of other content-addressed derivations
// that it was built from, as far as Nix says. All of its own must have been
// built or substituted. Nix's experimental feature ca-derivations must be
// enabled.
func (c *Client) Realisations(ctx context.Context, drv string) (own, inputs []Realisation, err error) {
	fail := func(err error) ([]Realisation, []Realisation, error) {
		return nil, nil, fmt.Errorf("asking for the outputs of %s: %w", drv, err)
	}
	file, err := storepath.Parse(drv)
	if err != nil {
		return fail(err)
	}
	v, err := c.Version(ctx)
	if err != nil {
		return nil, nil, err
	}
	args := []string{"realisation", "info", "--json"}
	if v.since(35) {
		args = []string{"store", "build-trace", "info", "--json"}
	}
	if v.hasStdin() { // else a .drv stands for its outputs
		drv += "^*"
	}
	var out []byte
	err = c.run(ctx, command{program: "nix", args: append(args, drv), quiet: true}, func(r io.Reader) (err error) {
		out, err = io.ReadAll(io.LimitReader(r, maxRealisations))
		return err
	})
	if err != nil {
		return fail(err)
	}
	if own, inputs, err = parseRealisations(out, file); err != nil {
		return fail(err)
	}
	return own, inputs, nil
}

// parseRealisations reads what "nix realisation info --json" prints of a
// derivation, and "nix store build-trace info --json" from 2.35 on. The latter
// lists the realisations of inputs beside its own. Its own are of paths that are
// also listed by themselves, as outputs, and are named as its outputs are.
func parseRealisations(raw []byte, drv storepath.Path) (own, inputs []Realisation, err error) {
	var list []struct {
		ID      string            `json:"id"`
		OutPath string            `json:"outPath"`
		Depends map[string]string `json:"dependentRealisations"`
		Opaque  string            `json:"opaquePath"`
		Key     struct {
			DrvPath    string `json:"drvPath"`
			OutputName string `json:"outputName"`
		} `json:"key"`
		Value struct {
			OutPath string `json:"outPath"`
		} `json:"value"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, nil, fmt.Errorf("decoding Nix's realisations: %w", err)
	}
	outputs := map[string]bool{}
	for _, l := range list {
		outputs[l.Opaque] = true
	}
	add := func(to *[]Realisation, r Realisation, base string) error {
		var err error
		if r.Path, err = inStore(base, drv.Dir); err != nil || !outputNames.MatchString(r.Output) {
			return fmt.Errorf("decoding Nix's realisations: output %q is %q", r.Output, base)
		}
		*to = append(*to, r)
		return nil
	}
	for _, l := range list {
		if l.Opaque != "" {
			continue
		}
		_, output, _ := strings.Cut(l.ID, "!")
		r, base, to := Realisation{ID: l.ID, Output: output}, l.OutPath, &own
		if l.ID == "" {
			r, base = Realisation{Drv: path.Base(l.Key.DrvPath), Output: l.Key.OutputName}, l.Value.OutPath
			if p, _ := storepath.ParseBase(path.Base(base)); !outputs[drv.Dir+"/"+p.Base()] || p.Name != outputPathName(drv, r.Output) {
				to = &inputs
			}
		}
		if err := add(to, r, base); err != nil {
			return nil, nil, err
		}
		for _, id := range slices.Sorted(maps.Keys(l.Depends)) {
			_, output, _ := strings.Cut(id, "!")
			if err := add(&inputs, Realisation{ID: id, Output: output}, l.Depends[id]); err != nil {
				return nil, nil, err
			}
		}
	}
	return own, inputs, nil
}

// outputPathName is what the path of a derivation's output is named.
func outputPathName(drv storepath.Path, output string) string {
	name := strings.TrimSuffix(drv.Name, ".drv")
	if output != "out" {
		name += "-" + output
	}
	return name
}

// inStore makes a base name absolute.
func inStore(base, storeDir string) (string, error) {
	p, err := storepath.ParseBase(strings.TrimPrefix(base, storeDir+"/"))
	p.Dir = storeDir
	return p.String(), err
}
