package nix

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/org/nixoci-action/internal/hint"
)

// Version is the version of the Nix that a Client runs.
type Version struct {
	// Major and Minor are of Nix itself; for Determinate Nix, of the Nix it is
	// built from; for Lix, of Lix.
	Major, Minor int
	// Lix tells that it is Lix, which left Nix at 2.18.
	Lix bool
}

// String returns "2.8", or "Lix 2.91".
func (v Version) String() string {
	s := fmt.Sprintf("%d.%d", v.Major, v.Minor)
	if v.Lix {
		s = "Lix " + s
	}
	return s
}

// since reports whether the version has what Nix has since 2.minor. Lix
// counts as the Nix 2.18 it comes from: newer inventions of Nix it may have,
// or not, or otherwise.
func (v Version) since(minor int) bool {
	if v.Lix {
		v.Major, v.Minor = 2, 18
	}
	return v.Major > 2 || v.Major == 2 && v.Minor >= minor
}

// HasRootInstallable reports whether "FLAKE#." is the flake itself: measured
// in 2.26, missing in 2.8.
func (v Version) HasRootInstallable() bool { return v.since(26) }

// NestsFlakes reports whether the path of a flake in a subfolder is that folder,
// and not that of the whole source: since 2.14.
func (v Version) NestsFlakes() bool { return v.since(14) }

// HasCacheInfoTTL reports whether Nix has the setting narinfo-cache-meta-ttl,
// since 2.34. Determinate Nix had it earlier.
func (v Version) HasCacheInfoTTL() bool { return v.since(34) }

// hasStdin: "--stdin" reads installables, and a .drv as an installable is
// that file, not its outputs. Both since 2.15.
func (v Version) hasStdin() bool { return v.since(15) }

// hasJSONFormat: path-info knows "--json-format", since 2.33.
func (v Version) hasJSONFormat() bool { return v.since(33) }

// oldest is the oldest supported version, 2.8.
const oldest = 8

var versionNumber = regexp.MustCompile(`\b(\d{1,4})\.(\d{1,4})(\.|pre|\b)`)

// parseVersion reads the line that "nix --version" prints:
//
//	nix (Nix) 2.8.0
//	nix (Nix) 2.35.0pre20260101_abcdef0
//	nix (Lix, like Nix) 2.91.1
//	nix (Determinate Nix 3.6.2) 2.29.0
func parseVersion(line string) (Version, error) {
	line = strings.TrimSpace(line)
	_, rest, ok := strings.Cut(line, ")")
	m := versionNumber.FindStringSubmatch(rest)
	if !ok || !strings.HasPrefix(line, "nix (") || m == nil {
		return Version{}, fmt.Errorf("understanding Nix's version %q", line)
	}
	v := Version{Lix: strings.Contains(line, "(Lix")}
	v.Major, _ = strconv.Atoi(m[1]) // at most four digits
	v.Minor, _ = strconv.Atoi(m[2])
	return v, nil
}

// Version returns the version of Nix, asking for it once.
func (c *Client) Version(ctx context.Context) (Version, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.version != nil {
		return *c.version, nil
	}
	var out []byte
	err := c.run(ctx, command{program: "nix", args: []string{"--version"}, bare: true, quiet: true}, func(r io.Reader) (err error) {
		out, err = io.ReadAll(io.LimitReader(r, 4096))
		return err
	})
	if err != nil {
		return Version{}, fmt.Errorf("asking for Nix's version: %w", err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	v, err := parseVersion(line)
	if err != nil {
		return Version{}, err
	}
	if !v.since(oldest) {
		err := fmt.Errorf("using Nix %s: it is older than 2.%d", v, oldest)
		return Version{}, hint.Wrap(err, "update Nix: https://nixos.org/download")
	}
	c.version = &v
	return v, nil
}
