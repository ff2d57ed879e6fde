package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/httpd"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/proxy"
)

// config is what the user wants.
type config struct {
	cache    string
	listen   []string // empty: the default, or the sockets of the service manager
	upstream []string
	refresh  time.Duration
	cacheDir string // empty: nothing is kept

	narCache        int64 // bytes; 0 for none
	redirect        bool
	tlsCert, tlsKey string // files; empty: plain HTTP
	maxConnections  int
	drain           time.Duration
	grace           time.Duration
	accessLog       string // a file, "-" or "off"
}

// defaultListen is where to listen if nobody says.
const defaultListen = "127.0.0.1:37515"

// accessLogOff is --access-log's default.
const accessLogOff = "off"

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
	Environment: slices.Concat(cli.Tokens, cli.Login),
}

// parseConfig reads the arguments and the environment.
func parseConfig(args []string, getenv func(string) string) (config, error) {
	var c config
	// without a home directory the copy on disk is missed, nothing else
	cacheDir, _ := cli.CacheDir(getenv)
	f := command.Flags(getenv)
	f.Cache(&c.cache)
	f.Strings(&c.listen, "listen", nil, "the `ADDRESS` to serve on, by default "+defaultListen+" or the sockets that systemd passes; port 0 picks a free one")
	f.Strings(&c.upstream, "upstream", nil, "the `URL` of a binary cache that is asked for what the cache lacks; by default none is, because Nix asks its own substituters itself")
	f.Duration(&c.refresh, "refresh", 5*time.Minute, "the `TIME` between looks for what was published")
	f.String(&c.cacheDir, "cache-dir", cacheDir, "the `DIRECTORY` for a copy of the cache's index, which serves when the registry is away")
	f.Size(&c.narCache, "nar-cache", 0, "keep up to this `SIZE` of NARs, such as 20GB, in the cache directory, for the machines of a network: each is read from the registry once")
	f.Bool(&c.redirect, "redirect", "send clients to the registry's storage for NARs, where the registry does so; they are then not verified here")
	f.String(&c.tlsCert, "tls-cert", "", "the `FILE` with the TLS certificate, and those between it and its root, in PEM; without it, plain HTTP")
	f.String(&c.tlsKey, "tls-key", "", "the `FILE` with the certificate's key, in PEM")
	f.Int(&c.maxConnections, "max-connections", httpd.DefaultMaxConnections, "the `NUMBER` of connections at a time; Nix opens 25")
	f.Duration(&c.drain, "drain", httpd.DefaultDrain, "the `TIME` that requests under way may take after a signal to stop")
	f.Duration(&c.grace, "grace", 0, "the `TIME` to go on after a signal to stop, while /readyz says 503, so that a load balancer goes elsewhere")
	f.String(&c.accessLog, "access-log", accessLogOff, "log each request as JSON, to a `FILE` or, for \"-\", to standard error")
	rest, err := f.Parse(args)
	if err != nil {
		return c, err
	}
	if len(rest) > 0 {
		return c, f.Usage(fmt.Errorf("unexpected argument %q", rest[0]))
	}
	// the variable is publish's too, where "none" switches the default off
	c.upstream = slices.DeleteFunc(slices.Clone(c.upstream), func(s string) bool { return s == "none" })
	return c, f.Usage(c.validate())
}

func (c *config) validate() error {
	errs := []error{registry.Check(c.cache)}
	for _, addr := range c.listen {
		if err := httpd.CheckAddress(addr); err != nil {
			errs = append(errs, fmt.Errorf("--listen %w", err))
		}
	}
	for _, u := range c.upstream {
		errs = append(errs, proxy.CheckUpstream(u))
	}
	if c.refresh < time.Second {
		errs = append(errs, fmt.Errorf("--refresh %s is less than a second", c.refresh))
	}
	if (c.tlsCert == "") != (c.tlsKey == "") {
		errs = append(errs, errors.New("--tls-cert and --tls-key belong together"))
	}
	switch {
	case c.narCache > 0 && c.redirect:
		errs = append(errs, errors.New("--nar-cache and --redirect exclude each other: what clients get elsewhere is not kept here"))
	case c.narCache > 0 && c.cacheDir == "":
		errs = append(errs, errors.New("--nar-cache needs a --cache-dir"))
	case c.redirect && strings.HasPrefix(c.cache, "oci:"):
		errs = append(errs, errors.New("--redirect needs a registry, a directory has no URLs"))
	}
	if c.maxConnections < 1 {
		errs = append(errs, fmt.Errorf("--max-connections %d is less than 1", c.maxConnections))
	}
	return errors.Join(errs...)
}
