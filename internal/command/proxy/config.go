package proxy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/httpd"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/signing"
	"github.com/org/nixoci-action/proxy"
	"github.com/org/nixoci-action/proxy/many"
)

// config is what the user wants.
type config struct {
	caches   []string
	listen   []string // empty: the default, or the sockets of the service manager
	hosts    []string
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

	allow          []string
	ownCredentials bool
	indexMemory    int64 // bytes
	upstreamNARs   string

	allowPush  bool
	tokenFile  string
	keyFiles   []string
	keyText    string // secret
	trusted    []string
	requireSig bool
	series     string

	page string // pageAuto, pageOn or pageOff

	understood string // what nixcache-oci's variables have said
}

// defaultListen is where to listen if nobody says.
const defaultListen = "127.0.0.1:37515"

// accessLogOff is --access-log's default.
const accessLogOff = "off"

// Command is what the help says of it.
var Command = &cli.Command{
	Name:     "proxy",
	Summary:  "serves the cache to Nix over HTTP",
	Synopsis: "[FLAGS]",
	About: "Serves a cache that publish has filled to Nix, as a substituter on this machine. When it is ready it prints the lines " +
		"for nix.conf (or NIX_CONFIG) on standard output, and serves until it is interrupted. " +
		"If the registry is away it serves what it knows, and answers \"not found\" to the rest: Nix then builds. " +
		"Nix remembers a substituter for a week and fails builds when it has gone, so remove the lines before you stop the proxy for good. " +
		"Nix also remembers for an hour what a substituter did not have, unless narinfo-cache-negative-ttl = 0 is set.",
	Examples: `
		nixoci proxy
		nixoci proxy --cache ghcr.io/owner/repo/nix-cache
		nixoci proxy --cache ghcr.io/owner/repo/nix-cache --cache ghcr.io/other/repo/nix-cache
		nixoci proxy --allow 'ghcr.io/my-org/*/nix-cache'
		nixoci proxy --cache localhost:5000/x/y --listen 127.0.0.1:0 --upstream https://cache.nixos.org
		curl -X POST http://127.0.0.1:37515/_refresh
		nixoci proxy --allow-push & nix copy --to 'http://127.0.0.1:37515?compression=zstd' ./result`,
	Environment: slices.Concat([]cli.Variable{
		{Name: "NIX_SIGNING_KEY", Usage: "with --allow-push, secret signing keys themselves, one a line, in addition to --sign-key-file"},
	}, cli.Tokens, cli.Login, nixcacheVariables),
}

// parseConfig reads the arguments and the environment.
func parseConfig(args []string, getenv func(string) string) (config, error) {
	var c config
	nixcache, nixcacheErr := parseNixcache(getenv)
	getenv = nixcache.env(getenv)
	f := Command.Flags(getenv)
	f.Caches(&c.caches, "`CACHE`: HOST/NAME in a registry, or oci:DIR for a directory in the OCI image layout; by default where publish without --cache writes, or none with --allow. Several are served as one: a path comes from the first that has it")
	f.Strings(&c.listen, "listen", nil, "`ADDRESS` to serve on, by default "+defaultListen+" or the sockets that systemd passes; port 0 picks a free one")
	f.Strings(&c.hosts, "host", nil, "`NAME` under which clients reach the page, /metrics, /_status and /_refresh, such as cache.example.org; addresses, names without a dot and this machine's own always do, and with TLS every name")
	f.Strings(&c.upstream, "upstream", nil, "`URL` of a binary cache that is asked for what the cache lacks; by default none is, because Nix asks its own substituters itself")
	f.Duration(&c.refresh, "refresh", 5*time.Minute, "`TIME` between looks for what was published")
	f.CacheDir(&c.cacheDir)
	f.Size(&c.narCache, "nar-cache", 0, "`SIZE` up to which NARs are kept in the cache directory, such as 20GB. Each is read from the registry once, however many machines want it")
	f.Bool(&c.redirect, "redirect", "send clients to the registry's storage for NARs, where the registry does so; they are then not verified here")
	f.String(&c.tlsCert, "tls-cert", "", "`FILE` with the TLS certificate, and those between it and its root, in PEM; without it, plain HTTP")
	f.String(&c.tlsKey, "tls-key", "", "`FILE` with the certificate's key, in PEM")
	f.Int(&c.maxConnections, "max-connections", httpd.DefaultMaxConnections, "`NUMBER` of connections at a time; Nix opens 25")
	f.Duration(&c.drain, "drain", httpd.DefaultDrain, "`TIME` that requests under way may take after a signal to stop")
	f.Duration(&c.grace, "grace", 0, "`TIME` to go on after a signal to stop, while /readyz says 503, so that a load balancer goes elsewhere")
	f.String(&c.accessLog, "access-log", accessLogOff, "`FILE` for a line of JSON about each request; \"-\" is standard error")
	f.Strings(&c.allow, "allow", nil, "`GLOB` for the names of caches that are served as /HOST/NAME: ghcr.io/my-org/*, registry.example.org/**; * matches within one part of a name, ** one part or more")
	f.Bool(&c.ownCredentials, "own-credentials", "for --allow: read with the proxy's own logins where a client sends no user and password, so that everybody who reaches the proxy can read what it can")
	f.Size(&c.indexMemory, "index-memory", 512<<20, "for --allow: `SIZE` of the memory for the indexes of the caches in use, about 1 MB for 1,000 paths")
	f.Choice(&c.upstreamNARs, "upstream-nars", []string{string(proxy.RedirectNARs), string(proxy.StreamNARs)}, "`MODE` in which clients get what an upstream has: redirect sends them there; stream passes it on, for clients that reach only the proxy")
	f.Bool(&c.allowPush, "allow-push", "let nix copy --to write to the cache, from this machine only unless there is a --push-token-file")
	f.String(&c.tokenFile, "push-token-file", "", "`FILE` with the tokens, one a line, of which clients must give one to push, as the password in netrc; it is asked for on this machine, too")
	f.Strings(&c.keyFiles, "sign-key-file", nil, "`FILE` with a secret key to sign with what is pushed; it needs a --push-token-file")
	f.Strings(&c.trusted, "trusted-key", nil, "public `KEY` (NAME:BASE64, or a file with such keys as ./FILE) of the caches of --cache: clients are told it and the keys for which it vouches, and no others (default: the keys that the cache names first). With --allow-push its signatures count beside those of --sign-key-file")
	f.Bool(&c.requireSig, "require-signatures", "take only what a key of --trusted-key or --sign-key-file has signed already")
	f.String(&c.series, "push-series", "", "`NAME` of a series of pushes: the newer ones take the place of the older ones, whatever packages they have (default: by the names of the packages)")
	f.Choice(&c.page, "page", []string{pageAuto, pageOn, pageOff}, "`MODE` of the page about the cache at /: auto shows it where --listen is a loopback address, on everywhere, off nowhere")
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
	if c.keyText = getenv("NIX_SIGNING_KEY"); !c.allowPush {
		c.keyText = "" // it may be there for publish
	}
	// the variable is publish's too, where "none" switches the default off
	c.upstream = slices.DeleteFunc(slices.Clone(c.upstream), func(s string) bool { return s == noUpstream })
	c.understood = nixcache.understood(c)
	return c, f.Usage(errors.Join(nixcacheErr, c.validate()))
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
		errs = append(errs, many.CheckAllow(glob))
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
	for _, addr := range c.listen {
		if err := httpd.CheckAddress(addr); err != nil {
			errs = append(errs, fmt.Errorf("--listen %w", err))
		}
	}
	for _, name := range c.hosts {
		if !httpd.CheckHost(name) {
			errs = append(errs, fmt.Errorf("--host %q is no name of a host: write it without a scheme and a port", name))
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
	case c.narCache > 0 && len(c.allow) > 0:
		// who knows a digest would get the NAR, whatever he may read
		errs = append(errs, errors.New("--nar-cache and --allow exclude each other: what some may read is not for all"))
	case c.redirect && slices.ContainsFunc(c.caches, func(cache string) bool { return strings.HasPrefix(cache, "oci:") }):
		errs = append(errs, errors.New("--redirect needs a registry, a directory has no URLs"))
	}
	if c.maxConnections < 1 {
		errs = append(errs, fmt.Errorf("--max-connections %d is less than 1", c.maxConnections))
	}
	if c.allowPush && len(c.caches) != 1 {
		errs = append(errs, errors.New("--allow-push needs one --cache, to which what is pushed goes"))
	}
	if !c.allowPush && (c.tokenFile != "" || c.requireSig || c.series != "") {
		errs = append(errs, errors.New("--push-token-file, --require-signatures and --push-series need --allow-push"))
	}
	keys := len(c.keyFiles) > 0 || c.keyText != ""
	if c.allowPush && keys && c.tokenFile == "" {
		errs = append(errs, hint.Wrap(errors.New("--allow-push with a signing key needs --push-token-file: without a token the proxy would sign whatever reaches it, also through a web server in front of it"),
			"put a token into a file and name it with --push-token-file: make one with `openssl rand -hex 32`; or push without --sign-key-file and NIX_SIGNING_KEY"))
	}
	if c.requireSig && !keys && len(c.trusted) == 0 {
		errs = append(errs, hint.Wrap(errors.New("--require-signatures needs a key to check with: those that the cache names can be written by everybody who can write to it"),
			"give the public key of whoever signs with --trusted-key"))
	}
	var err error
	if c.trusted, err = signing.Keys(nil).Trusted(c.trusted); err != nil {
		errs = append(errs, fmt.Errorf("--trusted-key: %w", err))
	}
	return errors.Join(errs...)
}
