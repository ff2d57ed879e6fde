// Package keys is the command that shows which keys of a binary cache are to be
// trusted, and adds and retires them.
package keys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/signing"
)

// What can be done.
const (
	list   = "list"
	add    = "add"
	rotate = "rotate"
	retire = "retire"
)

// config is what the command line and the environment ask for.
type config struct {
	verb string
	args []string // public keys; for retire also names of keys

	cache    string
	keyFiles []string
	keyText  string   // secret
	trusted  []string // public keys; empty: those that are remembered
	keep     []string // public keys
	dryRun   bool
	json     bool
	verbose  bool
	cacheDir string // empty: nothing is kept
}

// Command is what the help says of it.
var Command = &cli.Command{
	Name:     "keys",
	Summary:  "shows, adds and retires the keys of the cache",
	Synopsis: "[flags] list | add KEY... | rotate | retire KEY...",
	About: "Says which keys of a cache are to be trusted. list shows them. add makes a public key one of the cache's. " +
		"retire takes one out for ever, with all keys that only it has added, but for --keep; its name is enough. " +
		"rotate does both at once with two secret keys: the new one takes the place of the old one, and the other keys stay. " +
		"Each change is signed by a key of the cache: without one nobody can make it. " +
		"A KEY is NAME:BASE64, or a file with such keys as ./FILE.",
	Examples: `
		nixoci keys list --cache ghcr.io/owner/repo/nix-cache
		nixoci keys add --sign-key-file cache-1.secret ./colleague.public
		nixoci keys rotate --sign-key-file cache-1.secret --sign-key-file cache-2.secret
		nixoci keys retire --sign-key-file cache-2.secret cache-1 --dry-run`,
	Environment: slices.Concat([]cli.Variable{cli.SigningKey}, cli.Tokens, cli.Login),
}

// Run is the command. It returns the exit status.
func Run(ctx context.Context, args []string, getenv func(string) string, _ io.Reader, stdout, stderr io.Writer) int {
	cfg, err := parseConfig(args, getenv)
	if err == nil {
		err = run(ctx, cfg, getenv, stdout, stderr)
	}
	return cli.Report(ctx, err, getenv, stdout, stderr)
}

// parseConfig reads flags, environment and files with public keys.
func parseConfig(args []string, getenv func(string) string) (config, error) {
	var c config
	f := Command.Flags(getenv)
	f.Cache(&c.cache)
	f.Strings(&c.keyFiles, "sign-key-file", nil, "`FILE` with a secret key to sign the change with: one of the cache's. For rotate also the new one")
	f.Strings(&c.trusted, "trusted-key", nil, "public `KEY` of the cache, with which the chain of its keys begins (default: those that it named when it was first read here)")
	f.Strings(&c.keep, "keep", nil, "public `KEY` that stays although only the key to retire has added it")
	f.Bool(&c.dryRun, "dry-run", "show what would change, and write nothing")
	f.Bool(&c.json, "json", "print the result as JSON on standard output")
	f.Bool(&c.verbose, "verbose", "log every request")
	f.CacheDir(&c.cacheDir)
	rest, err := f.Parse(args)
	if err != nil {
		return c, err
	}
	if len(rest) == 0 {
		rest = []string{""}
	}
	c.verb, c.args, c.keyText = rest[0], rest[1:], getenv("NIX_SIGNING_KEY")
	return c, f.Usage(errors.Join(registry.Check(c.cache), c.validate()))
}

func (c *config) validate() error {
	var errs []error
	switch c.verb {
	case list, rotate:
		if len(c.args) > 0 {
			errs = append(errs, fmt.Errorf("%s takes no key as an argument", c.verb))
		}
	case add, retire:
		if len(c.args) == 0 {
			errs = append(errs, fmt.Errorf("%s needs a public key", c.verb))
		}
	default:
		errs = append(errs, fmt.Errorf("what to do must be one of %s, %s, %s, %s", list, add, rotate, retire))
	}
	if len(c.keep) > 0 && c.verb != retire {
		errs = append(errs, errors.New("--keep is for retire"))
	}
	read := func(what string, keys *[]string) {
		read, err := signing.Keys(nil).Trusted(*keys)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
		*keys = read
	}
	read("--trusted-key", &c.trusted)
	read("--keep", &c.keep)
	if c.verb == add {
		read(add, &c.args)
	}
	return errors.Join(errs...)
}
