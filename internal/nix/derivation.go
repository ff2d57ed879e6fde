package nix

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/org/nixoci-action/internal/storepath"
)

// maxOutputs bounds what is read of a derivation's file, in bytes. It begins with
// its outputs.
const maxOutputs = 64 << 10

// Outputs returns the outputs of derivations, absolute store paths by name for
// each, whether they are built or not. A path is "" if it depends on what is
// built. Where a derivation's file cannot be read, because the store is
// elsewhere, Nix is asked: for all of these at once, and one whose path is not
// known is an error then.
func (c *Client) Outputs(ctx context.Context, drvs []string) (map[string]map[string]string, error) {
	outputs := make(map[string]map[string]string, len(drvs))
	var ask []string
	for _, drv := range drvs {
		p, err := storepath.Parse(drv)
		if err == nil && !strings.HasSuffix(p.Name, ".drv") {
			err = fmt.Errorf("%q is none", drv)
		}
		if err != nil {
			return nil, fmt.Errorf("asking for the outputs of a derivation: %w", err)
		}
		text, err := readUpTo(drv, maxOutputs)
		if err == nil {
			outputs[drv], err = parseOutputs(p, text)
		}
		if err != nil {
			ask = append(ask, drv)
		}
	}
	for _, batch := range batches(ask) {
		if err := c.askOutputs(ctx, batch, outputs); err != nil {
			return nil, fmt.Errorf("asking for the outputs of %s: %w", few(batch), err)
		}
	}
	return outputs, nil
}

// few names the first of several.
func few(drvs []string) string {
	if len(drvs) == 1 {
		return drvs[0]
	}
	return fmt.Sprintf("%s and %d more", drvs[0], len(drvs)-1)
}

var (
	derivationHead   = regexp.MustCompile(`^Derive\(\[(\("[^"\\]+","[^"\\]*","[^"\\]*","[^"\\]*"\)(?:,\("[^"\\]+","[^"\\]*","[^"\\]*","[^"\\]*"\))*)\],`)
	derivationOutput = regexp.MustCompile(`\("([^"]*)","([^"]*)",`)
)

// parseOutputs reads the outputs at the beginning of a derivation's file. They
// are plain strings: no name or path has anything that needs an escape.
func parseOutputs(drv storepath.Path, text []byte) (map[string]string, error) {
	head := derivationHead.FindSubmatch(text)
	if head == nil {
		return nil, fmt.Errorf("decoding %s: it does not begin with outputs", drv)
	}
	outputs := map[string]string{}
	for _, m := range derivationOutput.FindAllSubmatch(head[1], -1) {
		name, path := string(m[1]), string(m[2])
		if path != "" {
			p, err := storepath.Parse(path)
			if err != nil || p.Dir != drv.Dir || p.Name != outputPathName(drv, name) {
				return nil, fmt.Errorf("decoding %s: output %q is %q", drv, name, path)
			}
		}
		outputs[name] = path
	}
	return outputs, nil
}

// askOutputs asks Nix. It prints the outputs of each derivation in the order of
// the arguments, and another path as it is: so that one tells where the next
// derivation's begin. "nix derivation show" of 2.34 names no paths of fixed
// outputs.
func (c *Client) askOutputs(ctx context.Context, drvs []string, outputs map[string]map[string]string) error {
	args := []string{"--query", "--outputs"}
	var end string
	for _, drv := range drvs {
		end = drv[:strings.LastIndexByte(drv, '/')+1] + strings.Repeat("0", storepath.HashPartLen) + "-end"
		args = append(args, drv, end)
	}
	lines, err := c.paths(ctx, args)
	if err != nil {
		return err
	}
	for _, drv := range drvs {
		n := slices.Index(lines, end)
		if n < 1 {
			return fmt.Errorf("decoding the outputs of %s: Nix names none", drv)
		}
		if outputs[drv], err = nameOutputs(drv, lines[:n]); err != nil {
			return err
		}
		lines = lines[n+1:]
	}
	return nil
}

// nameOutputs matches a derivation's output paths to the names of outputs.
func nameOutputs(drv string, paths []string) (map[string]string, error) {
	d, err := storepath.Parse(drv)
	if err != nil {
		return nil, err
	}
	base := strings.TrimSuffix(d.Name, ".drv")
	outputs := make(map[string]string, len(paths))
	for _, s := range paths {
		p, err := storepath.Parse(s)
		if err != nil {
			return nil, err
		}
		name := "out"
		if p.Name != base {
			name = strings.TrimPrefix(p.Name, base+"-")
		}
		if p.Dir != d.Dir || p.Name != outputPathName(d, name) {
			return nil, fmt.Errorf("decoding the outputs of %s: %s is none", drv, s)
		}
		outputs[name] = s
	}
	return outputs, nil
}
