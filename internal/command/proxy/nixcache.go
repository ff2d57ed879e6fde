package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/upstream"
)

// nixcacheVariables are those of nixcache-oci's proxy that are understood.
var nixcacheVariables = []cli.Variable{
	{Name: "NIXCACHE_REPO", Usage: "OWNER/REPO, of nixcache-oci: the cache is ghcr.io/OWNER/REPO/nix-cache, and --upstream is https://cache.nixos.org unless it is given"},
	{Name: "NIXCACHE_LISTEN", Usage: "address to serve on, of nixcache-oci; NIXCACHE_PORT is its port"},
	{Name: "NIXCACHE_UPSTREAM", Usage: "as NIXOCI_UPSTREAM, of nixcache-oci; if it is set and empty there is none"},
	{Name: "NIXCACHE_INDEX_TTL", Usage: "as NIXOCI_REFRESH, in seconds, of nixcache-oci; 0 counts as 1"},
}

// noUpstream is the --upstream that stands for no upstream.
const noUpstream = "none"

// nixcacheSettings is what nixcache-oci's variables say, by the variables of ours that
// they stand for.
type nixcacheSettings map[string]value

type value struct{ text, from string }

// parseNixcache reads nixcache-oci's variables, as far as ours do not say the
// same. Its error tells of values that cannot be used.
func parseNixcache(getenv func(string) string) (nixcacheSettings, error) {
	t := nixcacheSettings{}
	var errs []error
	set := func(flag, text string, from ...string) {
		t[cli.EnvName(flag)] = value{text, strings.Join(from, " and ")}
	}
	wanted := func(flag string) bool { return getenv(cli.EnvName(flag)) == "" }

	repo := strings.TrimSpace(getenv("NIXCACHE_REPO"))
	if repo != "" && wanted("cache") {
		host := getenv("NIXCACHE_REGISTRY")
		if host == "" {
			host = "ghcr.io"
		}
		owner, name, _ := strings.Cut(repo, "/")
		if owner == "" || name == "" || strings.Contains(name, "/") {
			errs = append(errs, fmt.Errorf("NIXCACHE_REPO %q is not of the form OWNER/REPO", repo))
		}
		set("cache", host+"/"+strings.ToLower(repo)+"/nix-cache", "NIXCACHE_REPO")
	}
	host, port := getenv("NIXCACHE_LISTEN"), getenv("NIXCACHE_PORT")
	if (host != "" || port != "") && wanted("listen") {
		var from []string
		if host != "" {
			from = append(from, "NIXCACHE_LISTEN")
		}
		if port != "" {
			from = append(from, "NIXCACHE_PORT")
			if _, err := strconv.ParseUint(port, 10, 16); err != nil {
				errs = append(errs, fmt.Errorf("NIXCACHE_PORT %q is no port", port))
			}
		}
		defaultHost, defaultPort, _ := net.SplitHostPort(defaultListen)
		if host == "" {
			host = defaultHost
		}
		if port == "" {
			port = defaultPort
		}
		set("listen", net.JoinHostPort(strings.Trim(host, "[]"), port), from...)
	}
	if wanted("upstream") {
		text := getenv("NIXCACHE_UPSTREAM")
		_, empty := os.LookupEnv("NIXCACHE_UPSTREAM") // which says something else there than one that is not set
		if urls := strings.Fields(text); len(urls) > 0 {
			set("upstream", strings.Join(urls, " "), "NIXCACHE_UPSTREAM")
		} else if text != "" || empty {
			set("upstream", noUpstream, "NIXCACHE_UPSTREAM")
		} else if repo != "" { // its clients may have no other substituter
			set("upstream", upstream.Default, "nixcache-oci's default")
		}
	}
	if ttl := getenv("NIXCACHE_INDEX_TTL"); ttl != "" && wanted("refresh") {
		n, err := strconv.ParseUint(ttl, 10, 31)
		if err != nil {
			errs = append(errs, fmt.Errorf("NIXCACHE_INDEX_TTL %q is no number of seconds", ttl))
		}
		set("refresh", seconds(float64(max(n, 1))), "NIXCACHE_INDEX_TTL") // 0 is for each request there
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err // none of them, or the flags would find the same once more
	}
	return t, nil
}

// env is getenv with nixcache-oci's variables in the place of those of ours
// that are not set.
func (t nixcacheSettings) env(getenv func(string) string) func(string) string {
	return func(name string) string {
		if v, ok := t[name]; ok {
			return v.text
		}
		return getenv(name)
	}
}

// understood tells which of nixcache-oci's variables made c what it is; empty
// if none did.
func (t nixcacheSettings) understood(c config) string {
	var parts []string
	for _, f := range []struct{ flag, now string }{
		{"cache", strings.Join(c.caches, " ")},
		{"listen", strings.Join(c.listen, " ")},
		{"upstream", cmp.Or(strings.Join(c.upstream, " "), noUpstream)},
		{"refresh", seconds(c.refresh.Seconds())},
	} {
		if v, ok := t[cli.EnvName(f.flag)]; ok && v.text == f.now { // else a flag said otherwise
			parts = append(parts, "--"+f.flag+" "+v.text+" ("+v.from+")")
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return "understood of nixcache-oci's configuration: " + strings.Join(parts, ", ")
}

func seconds(n float64) string { return fmt.Sprint(n) + "s" }
