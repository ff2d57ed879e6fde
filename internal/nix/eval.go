package nix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// maxEvalSize bounds the result of an evaluation and of FlakeMetadata.
const maxEvalSize = 512 << 20

var escapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", `\${`, "\n", `\n`, "\r", `\r`, "\t", `\t`)

// Quote returns s as a string of the Nix language.
func Quote(s string) string { return `"` + escapes.Replace(s) + `"` }

// EvalOptions say what an expression is evaluated with. The zero value is pure
// evaluation with Nix's log shown.
type EvalOptions struct {
	// Flake is a flake reference without a fragment. If it is not empty, the
	// expression is a function and is applied to the flake, as pure as a
	// command line gives it; ask Version.HasRootInstallable first.
	Flake string
	// Dir is the folder in which Nix runs, which Flake "." means. If empty, the
	// current one.
	Dir string
	// Impure allows the environment, the time and unlocked references.
	Impure bool
	// Quiet keeps Nix's log out of the client's Stderr. An error has its end.
	Quiet bool
	// Told gets what the expression says while it is evaluated: the argument of a
	// builtins.trace, after Mark, with which it must begin. It must be one line of
	// at most 64 MiB, and is not in the log. Whoever knows Mark can say the same.
	Told func(line []byte)
	Mark string
	// Started is told of the process when it runs.
	Started func(Process)
}

// evalDelay is how long an evaluation may take to stop: as long as Nix needs to
// end a build from which it imports. While it evaluates it does not heed an
// interrupt.
const evalDelay = time.Second

// Eval evaluates an expression to JSON. Derivations that the result depends on
// are written to the store, not built (unless to import from them). The lock
// file of a flake is never written. An evaluation that fails is a
// *CommandError with Nix's message. At most 512 MiB are read.
func (c *Client) Eval(ctx context.Context, expr string, opts EvalOptions) (json.RawMessage, error) {
	args := []string{"eval", "--json"}
	if opts.Flake != "" {
		if err := checkFlake(opts.Flake); err != nil {
			return nil, fmt.Errorf("evaluating: %w", err)
		}
		args = append(args, opts.Flake+"#.", "--apply", expr, "--no-write-lock-file")
	} else {
		args = append(args, "--expr", expr)
	}
	args = append(args, "--no-eval-cache") // it caches errors, and costs what it saves
	if opts.Impure {
		args = append(args, "--impure")
	}
	cmd := command{program: "nix", args: args, dir: opts.Dir, quiet: opts.Quiet, started: opts.Started, delay: evalDelay}
	if opts.Told != nil {
		cmd.traces = &traceLog{mark: []byte(opts.Mark), tell: opts.Told}
	}
	return c.json(ctx, cmd)
}

// Flake is what Nix says about a flake reference.
type Flake struct {
	// Original is the reference that was asked for.
	Original string
	// Resolved is Original, looked up in the registry of flakes if it is a name
	// there. It is not locked.
	Resolved string
	// URL is the reference as far as Nix can lock it.
	URL string
	// StorePath is the flake's source in the store, if Nix copied it there, or
	// else the folder itself.
	StorePath string
	// Dir is the subfolder with flake.nix, or "".
	Dir string
	// Revision is the full commit, or "" when there is none or the tree has
	// changes that are not committed.
	Revision string
	// Dirty tells of a Git tree with changes that are not committed.
	Dirty bool
	// Locked is what Nix knows of the source, as the attributes of fetchTree.
	// Locks is the lock file, complete even where that in the source is not or
	// there is none. Both are JSON.
	Locked, Locks json.RawMessage
}

// FlakeMetadata resolves a flake reference and fetches the flake. It does not
// evaluate it, and does not write a lock file. The reference "." means dir, or
// the current folder if that is empty.
func (c *Client) FlakeMetadata(ctx context.Context, ref, dir string) (Flake, error) {
	if err := checkFlake(ref); err != nil {
		return Flake{}, fmt.Errorf("looking up the flake: %w", err)
	}
	raw, err := c.json(ctx, command{program: "nix", args: []string{"flake", "metadata", "--json", "--no-write-lock-file", ref}, dir: dir})
	var f Flake
	if err == nil {
		f, err = parseFlake(raw)
	}
	if err != nil {
		if ref == "." && dir != "" {
			ref = dir
		}
		return Flake{}, fmt.Errorf("looking up the flake %s: %w", ref, err)
	}
	return f, nil
}

func parseFlake(raw []byte) (Flake, error) {
	var m struct {
		OriginalURL string          `json:"originalUrl"`
		ResolvedURL string          `json:"resolvedUrl"`
		URL         string          `json:"url"`
		Path        string          `json:"path"`
		Locked      json.RawMessage `json:"locked"`
		Locks       json.RawMessage `json:"locks"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return Flake{}, fmt.Errorf("decoding Nix's flake metadata: %w", err)
	}
	if m.URL == "" {
		return Flake{}, errors.New("decoding Nix's flake metadata: it has no URL")
	}
	var l struct{ Type, Dir, Rev, DirtyRev string }
	if len(m.Locked) > 0 {
		if err := json.Unmarshal(m.Locked, &l); err != nil {
			return Flake{}, fmt.Errorf("decoding Nix's flake metadata: %w", err)
		}
	}
	if l.DirtyRev != "" {
		l.Rev = ""
	}
	return Flake{
		Original: m.OriginalURL, Resolved: m.ResolvedURL, URL: m.URL, StorePath: m.Path, Dir: l.Dir, Revision: l.Rev,
		Dirty:  l.DirtyRev != "" || l.Type == "git" && l.Rev == "",
		Locked: m.Locked, Locks: m.Locks,
	}, nil
}

// checkFlake refuses what Nix would take for an option or for an attribute of
// a flake.
func checkFlake(ref string) error {
	if ref == "" || strings.HasPrefix(ref, "-") || strings.ContainsAny(ref, "#\x00\n") {
		return fmt.Errorf("%q is not a flake reference", ref)
	}
	return nil
}

func (c *Client) json(ctx context.Context, cmd command) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.run(ctx, cmd, func(r io.Reader) (err error) {
		if out, err = io.ReadAll(io.LimitReader(r, maxEvalSize+1)); err != nil {
			return err
		}
		if len(out) > maxEvalSize {
			return fmt.Errorf("running %s: the result is over %d bytes", cmd, maxEvalSize)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !json.Valid(out) {
		return nil, fmt.Errorf("running %s: the result is not JSON", cmd)
	}
	return out, nil
}
