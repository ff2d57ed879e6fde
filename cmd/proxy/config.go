package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/proxy"
)

// config is what the user wants.
type config struct {
	caches   []string
	listen   string
	upstream []string
	refresh  time.Duration
	cacheDir string // empty: nothing is kept

	allow          []string
	ownCredentials bool
	indexMemory    int64 // bytes
	upstreamNARs   string
}

var command = cli.Command{
	Name:     "proxy",
	Synopsis: "[FLAGS]",
	About: "Serves a cache that publish has filled to Nix, as a substituter on this machine. When it is ready it prints the lines " +
		"for nix.conf (or NIX_CONFIG) on standard output, and serves until it is interrupted. " +
		"If the registry is away it serves what it knows, and answers \"not found\" to the rest: Nix then builds. " +
		"Nix remembers a substituter for a week and fails builds when it has gone, so remove the lines before you stop the proxy for good. " +
		"Nix also remembers for an hour what a substituter did not have, unless narinfo-cache-negative-ttl = 0 is set.",
	Examples: `
		proxy
		proxy --cache ghcr.io/owner/repo/nix-cache
		proxy --cache ghcr.io/owner/repo/nix-cache --cache ghcr.io/other/repo/nix-cache
		proxy --allow 'ghcr.io/my-org/*/nix-cache'
		proxy --cache localhost:5000/x/y --listen 127.0.0.1:0 --upstream https://cache.nixos.org
		curl -X POST http://127.0.0.1:37515/_refresh`,
	Environment: append([]cli.Variable{
		{Name: "GITHUB_TOKEN", Usage: "read access to a private cache on ghcr.io, if docker, podman or crane are not logged in there"},
	}, cli.Login...),
}

// parseConfig reads the arguments and the environment.
func parseConfig(args []string, getenv func(string) string) (config, error) {
	var c config
	// without a home directory the copy on disk is missed, nothing else
	cacheDir, _ := cli.CacheDir(getenv)
	f := command.Flags(getenv)
	f.Caches(&c.caches, "the `CACHE`: HOST/NAME in a registry, or oci:DIR for a directory in the OCI image layout; by default where publish without --cache writes, or none with --allow. Several are served as one: a path comes from the first that has it")
	f.String(&c.listen, "listen", "127.0.0.1:37515", "the `ADDRESS` to serve on; port 0 picks a free one")
	f.Strings(&c.upstream, "upstream", nil, "the `URL` of a binary cache that is asked for what the cache lacks; by default none is, because Nix asks its own substituters itself")
	f.Duration(&c.refresh, "refresh", 5*time.Minute, "the `TIME` between looks for what was published")
	f.String(&c.cacheDir, "cache-dir", cacheDir, "the `DIRECTORY` for a copy of the cache's index, which serves when the registry is away")
	f.Strings(&c.allow, "allow", nil, "serve any cache whose name matches the `GLOB`, as /HOST/NAME: ghcr.io/my-org/*, registry.example.org/**; * matches within one part of a name, ** one part or more")
	f.Bool(&c.ownCredentials, "own-credentials", "for --allow: read with the proxy's own logins where a client sends no user and password, so that everybody who reaches the proxy can read what it can")
	f.Size(&c.indexMemory, "index-memory", 512<<20, "for --allow: the `SIZE` of memory for the indexes of the caches in use, about 1 MB for 1,000 paths")
	f.Choice(&c.upstreamNARs, "upstream-nars", []string{string(proxy.RedirectNARs), string(proxy.StreamNARs)}, "`HOW` clients get what an upstream has: redirect sends them there, stream passes it on, for clients that reach only the proxy")
	rest, err := f.Parse(args)
	if err != nil {
		return c, err
	}
	if len(rest) > 0 {
		return c, f.Usage(fmt.Errorf("unexpected argument %q", rest[0]))
	}
	if len(c.caches) == 0 && len(c.allow) == 0 {
		cache, err := cli.DefaultCache(getenv)
		if err != nil {
			return c, f.Usage(err)
		}
		c.caches = []string{cache}
	}
	// the variable is publish's too, where "none" switches the default off
	c.upstream = slices.DeleteFunc(slices.Clone(c.upstream), func(s string) bool { return s == "none" })
	return c, f.Usage(c.validate())
}

func (c *config) validate() error {
	var errs []error
	for i, cache := range c.caches {
		errs = append(errs, registry.Check(cache))
		if slices.Contains(c.caches[:i], cache) {
			errs = append(errs, fmt.Errorf("--cache %s is given twice", cache))
		}
	}
	for _, glob := range c.allow {
		errs = append(errs, proxy.CheckAllow(glob))
	}
	switch {
	case len(c.allow) == 0 && c.ownCredentials:
		errs = append(errs, errors.New("--own-credentials is for --allow; a cache named by --cache is always read with the proxy's own"))
	case len(c.caches) == 0 && len(c.upstream) > 0:
		errs = append(errs, errors.New("--upstream is for the caches named by --cache, and there are none; Nix asks its other substituters itself"))
	}
	if c.indexMemory < 16<<20 {
		errs = append(errs, fmt.Errorf("--index-memory %s is less than 16MiB", cli.FormatSize(c.indexMemory)))
	}
	_, port, err := net.SplitHostPort(c.listen)
	if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil {
		errs = append(errs, fmt.Errorf("--listen %q is no address with a port", c.listen))
	}
	for _, u := range c.upstream {
		errs = append(errs, proxy.CheckUpstream(u))
	}
	if c.refresh < time.Second {
		errs = append(errs, fmt.Errorf("--refresh %s is less than a second", c.refresh))
	}
	return errors.Join(errs...)
}
