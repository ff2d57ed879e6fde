package nix

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
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
	// Output is the output's name.
	Output string
	// Path is the absolute store path.
	Path string
	// Signatures are "name:base64".
	Signatures []string
	// Depends are paths that are outputs of other content-addressed
	// derivations, by ID, as far as Nix says.
	Depends map[string]string
}

// Realisations returns the outputs of one content-addressed derivation, whose
// paths nobody knows before. All of them must have been built or substituted.
// Nix's experimental feature ca-derivations must be enabled.
func (c *Client) Realisations(ctx context.Context, drv string) ([]Realisation, error) {
	fail := func(err error) ([]Realisation, error) {
		return nil, fmt.Errorf("asking for the outputs of %s: %w", drv, err)
	}
	path, err := storepath.Parse(drv)
	if err != nil {
		return fail(err)
	}
	v, err := c.Version(ctx)
	if err != nil {
		return nil, err
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
	rs, err := parseRealisations(out, path.Dir)
	if err != nil {
		return fail(err)
	}
	return rs, nil
}

// parseRealisations reads what "nix realisation info --json" prints, and
// "nix store build-trace info --json" from 2.35 on.
func parseRealisations(raw []byte, storeDir string) ([]Realisation, error) {
	var list []struct {
		ID         string            `json:"id"`
		OutPath    string            `json:"outPath"`
		Signatures []string          `json:"signatures"`
		Depends    map[string]string `json:"dependentRealisations"`
		Opaque     string            `json:"opaquePath"`
		Key        struct {
			OutputName string `json:"outputName"`
		} `json:"key"`
		Value struct {
			OutPath string `json:"outPath"`
		} `json:"value"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("decoding Nix's realisations: %w", err)
	}
	var rs []Realisation
	for _, l := range list {
		if l.Opaque != "" {
			continue
		}
		r := Realisation{ID: l.ID, Path: l.OutPath, Signatures: l.Signatures, Depends: map[string]string{}}
		var ok bool
		if _, r.Output, ok = strings.Cut(l.ID, "!"); !ok {
			r.Output, r.Path = l.Key.OutputName, l.Value.OutPath
		}
		var err error
		if r.Path, err = inStore(r.Path, storeDir); err != nil || !outputNames.MatchString(r.Output) {
			return nil, fmt.Errorf("decoding Nix's realisations: output %q is %q", r.Output, r.Path)
		}
		for id, p := range l.Depends {
			if r.Depends[id], err = inStore(p, storeDir); err != nil {
				return nil, fmt.Errorf("decoding Nix's realisations: %w", err)
			}
		}
		rs = append(rs, r)
	}
	return rs, nil
}

// inStore makes a base name absolute.
func inStore(base, storeDir string) (string, error) {
	p, err := storepath.ParseBase(strings.TrimPrefix(base, storeDir+"/"))
	p.Dir = storeDir
	return p.String(), err
}
