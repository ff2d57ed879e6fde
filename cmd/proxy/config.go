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
	cache    string
	listen   string
	upstream []string
	refresh  time.Duration
	cacheDir string // empty: nothing is kept

	understood string // what nixcache-oci's variables have said
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
		proxy --cache localhost:5000/x/y --listen 127.0.0.1:0 --upstream https://cache.nixos.org
		curl -X POST http://127.0.0.1:37515/_refresh`,
	Environment: append([]cli.Variable{
		{Name: "GITHUB_TOKEN", Usage: "read access to a private cache on ghcr.io, if docker, podman or crane are not logged in there"},
	}, append(cli.Login, theirVariables...)...),
}

const defaultListen = "127.0.0.1:37515"

// parseConfig reads the arguments and the environment.
func parseConfig(args []string, getenv func(string) string) (config, error) {
	var c config
	theirs, theirErr := parseTheir(getenv)
	getenv = theirs.env(getenv)
	// without a home directory the copy on disk is missed, nothing else
	cacheDir, _ := cli.CacheDir(getenv)
	f := command.Flags(getenv)
	f.Cache(&c.cache)
	f.String(&c.listen, "listen", defaultListen, "the `ADDRESS` to serve on; port 0 picks a free one")
	f.Strings(&c.upstream, "upstream", nil, "the `URL` of a binary cache that is asked for what the cache lacks; by default none is, because Nix asks its own substituters itself")
	f.Duration(&c.refresh, "refresh", 5*time.Minute, "the `TIME` between looks for what was published")
	f.String(&c.cacheDir, "cache-dir", cacheDir, "the `DIRECTORY` for a copy of the cache's index, which serves when the registry is away")
	rest, err := f.Parse(args)
	if err != nil {
		return c, err
	}
	if len(rest) > 0 {
		return c, f.Usage(fmt.Errorf("unexpected argument %q", rest[0]))
	}
	// the variable is publish's too, where "none" switches the default off
	c.upstream = slices.DeleteFunc(slices.Clone(c.upstream), func(s string) bool { return s == "none" })
	c.understood = theirs.understood(c)
	return c, f.Usage(errors.Join(theirErr, c.validate()))
}

func (c *config) validate() error {
	errs := []error{registry.Check(c.cache)}
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
