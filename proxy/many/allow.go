package many

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/registry"
)

// allowed is one glob of the caches that a Router may serve.
type allowed struct {
	parts []string // the host, then those of the repository's name
	named bool     // the host is written in full
	plain bool     // without TLS
}

// CheckAllow reports what is wrong with a glob for RouterOptions.Allow.
func CheckAllow(glob string) error {
	_, err := parseAllow(glob)
	return err
}

func parseAllow(glob string) (allowed, error) {
	fail := func(why, hintText string) (allowed, error) {
		return allowed{}, hint.Wrap(fmt.Errorf("the glob of allowed caches %q %s", glob, why), hintText)
	}
	const form = "write it as HOST/NAME with globs, for example ghcr.io/my-org/* or registry.example.org/**"
	var a allowed
	s := strings.TrimPrefix(glob, "https://")
	if rest, ok := strings.CutPrefix(glob, "http://"); ok {
		s, a.plain = rest, true
	}
	a.parts = strings.Split(s, "/")
	if strings.Contains(a.parts[0], "@") {
		glob = "…" // it may have a password in it
		return fail("names a user", "leave it out: clients bring their own credentials")
	}
	if host := a.parts[0]; host != "**" {
		a.named = !strings.ContainsAny(host, "*?")
		if a.named && !hostRE.MatchString(host) {
			return fail(fmt.Sprintf("has the host %q, which is none", host), form)
		}
		a.parts[0] = strings.ReplaceAll(host, "[", `\[`) // of an IPv6 address
		if len(a.parts) == 1 {
			return fail("names no repository", form)
		}
	}
	for _, p := range a.parts {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			return fail("is malformed", form)
		}
	}
	if a.plain && !a.named {
		return fail("allows registries without TLS by a wildcard", "write the registry's host in full after http://")
	}
	return a, nil
}

// match reports whether the parts of a cache's name match.
func (a allowed) match(parts []string) bool { return matchParts(a.parts, parts) }

// matchParts matches part by part; "**" stands for one part or more.
func matchParts(globs, parts []string) bool {
	for len(globs) > 0 {
		if len(parts) == 0 {
			return false
		}
		if globs[0] == "**" {
			return len(globs) == 1 || matchParts(globs, parts[1:]) || matchParts(globs[1:], parts[1:])
		}
		if ok, err := path.Match(globs[0], parts[0]); !ok || err != nil {
			return false
		}
		globs, parts = globs[1:], parts[1:]
	}
	return len(parts) == 0
}

// hostRE is a registry's host in the only spelling in which it is asked for: a
// name, or an address, and a port.
var hostRE = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?$`)

// maxName is the longest name of a cache that is looked at, in bytes. The
// specification has 255 for a repository's.
const maxName = 512

// errNotAllowed is not told to anybody: what is not allowed does not exist.
var errNotAllowed = errors.New("not allowed")

// grant finds out whether a cache named in a URL may be served, and how it is
// to be reached.
func grant(globs []allowed, cache string) (Access, error) {
	parts := strings.Split(cache, "/")
	if len(cache) > maxName || !hostRE.MatchString(parts[0]) {
		return Access{}, errNotAllowed
	}
	var found, plain bool
	access := Access{Cache: cache}
	for _, a := range globs {
		if a.match(parts) {
			found, plain, access.Named = true, plain || a.plain, access.Named || a.named
		}
	}
	if !found {
		return Access{}, errNotAllowed
	}
	if plain {
		access.Cache = "http://" + cache
	}
	if err := registry.Check(access.Cache); err != nil {
		return Access{}, err
	}
	local := access.Named && registry.Loopback(parts[0])
	if registry.Plain(access.Cache) && !plain && !local {
		return Access{}, errNotAllowed
	}
	return access, nil
}
