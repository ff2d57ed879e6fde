package inspect

import (
	"errors"
	"fmt"
	"time"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/registry"
)

// config is what the command line and the environment ask for.
type config struct {
	cache    string
	query    string // store path or name; empty: all of the cache
	export   string // folder for pages; empty: none
	json     bool
	verbose  bool
	cacheDir string        // empty: nothing is kept
	deadline time.Duration // for reading the index
}

// Command is what the help says of it.
var Command = &cli.Command{
	Name:     "inspect",
	Summary:  "shows what the cache holds",
	Synopsis: "[flags] [STORE-PATH | HASH | NAME]",
	About: "Shows what a cache holds: how much, who published it, what is largest. With a store path, its hash or a name it shows that path: " +
		"its closure, its references and referrers, and which publications keep it. With --export it writes the same as web pages, which need no server of ours. " +
		"It reads the cache and changes nothing; nothing is built, and Nix is not needed.",
	Examples: `
		nixoci inspect --cache ghcr.io/owner/repo/nix-cache
		nixoci inspect --cache ghcr.io/owner/repo/nix-cache hello
		nixoci inspect --cache ghcr.io/owner/repo/nix-cache --export ./site`,
	Environment: append([]cli.Variable{
		{Name: "GITHUB_TOKEN", Usage: "password for ghcr.io, if no docker or podman login has one"},
	}, cli.Login...),
}

// parseConfig reads flags and environment. It touches nothing else.
func parseConfig(args []string, getenv func(string) string) (config, error) {
	c := config{}
	f := Command.Flags(getenv)
	f.Cache(&c.cache)
	f.String(&c.export, "export", "", "`DIR` to write web pages into. It is made, or replaced if an export has made it")
	f.Bool(&c.json, "json", "print the result as JSON on standard output")
	f.Duration(&c.deadline, "timeout", 5*time.Minute, "`TIME` that reading the cache may take")
	f.Bool(&c.verbose, "verbose", "log every request")
	f.CacheDir(&c.cacheDir)
	rest, err := f.Parse(args)
	if err != nil {
		return config{}, err
	}
	errs := []error{registry.Check(c.cache)}
	switch {
	case len(rest) > 1:
		errs = append(errs, fmt.Errorf("unexpected argument %q", rest[1]))
	case len(rest) == 1 && rest[0] == "":
		errs = append(errs, errors.New("the name to look for is empty"))
	case len(rest) == 1:
		c.query = rest[0]
	}
	if c.query != "" && c.export != "" {
		errs = append(errs, errors.New("--export writes the whole cache; leave out the store path"))
	}
	if c.deadline <= 0 {
		errs = append(errs, errors.New("--timeout leaves no time"))
	}
	return c, f.Usage(errors.Join(errs...))
}
