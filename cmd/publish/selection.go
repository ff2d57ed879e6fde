package main

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/internal/ci"
	"github.com/org/nixoci-action/internal/storepath"
)

// maxSelection bounds a selection's text; a longer one is recorded as its hash.
const maxSelection = 512

// selection tells apart what different jobs publish from the same branch: what
// was chosen of the flake, or which packages, and in CI which job did it. It is
// the same for each run of a job, and is not for people.
func selection(c config, roots []root, getenv func(string) string) string {
	v := url.Values{}
	set := func(name string, values []string) {
		values = slices.Compact(slices.Sorted(slices.Values(values)))
		if len(values) > 0 {
			v[name] = values
		}
	}
	if c.Flake != "" {
		if kinds := kindNames(c.Kinds); !slices.Equal(kinds, kindNames(discover.DefaultKinds())) {
			set("kind", kinds)
		}
		set("include", c.Include)
		set("exclude", c.Exclude)
		if c.DenyUnfree {
			v.Set("deny-unfree", strconv.FormatBool(true))
		}
	} else if c.Series != "" {
		v.Set("series", c.Series)
	} else {
		set("package", packages(roots))
	}
	if job := ci.Detect(getenv); job.System != "" {
		v.Set("workflow", job.Workflow)
		v.Set("job", job.Name)
		v.Set("flake", flakeName(c.Flake, job.Workspace))
	}
	s := v.Encode() // sorted
	if len(s) > maxSelection {
		sum := sha256.Sum256([]byte(s))
		return "sha256:" + hex.EncodeToString(sum[:])
	}
	return s
}

func kindNames(kinds []discover.Kind) []string {
	var names []string
	for _, k := range kinds {
		names = append(names, string(k))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// packages are the names of store paths without their versions, as Nix's
// parseDrvName takes them apart.
func packages(roots []root) []string {
	var names []string
	for _, r := range roots {
		p, err := storepath.ParseBase(path.Base(r.path))
		if err != nil {
			continue // Nix will say what is wrong with it
		}
		name := p.Name
		if i := version.FindStringIndex(name); i != nil {
			name = name[:i[0]]
		}
		names = append(names, name)
	}
	return names
}

var (
	// version starts at the first dash that no letter follows.
	version = regexp.MustCompile(`-[^A-Za-z]`)
	// locked is what pins a flake reference: a revision or a hash.
	locked = regexp.MustCompile(`[0-9a-f]{40,}|sha256-[A-Za-z0-9+/=%]+`)
)

// flakeName is a flake reference without what changes from run to run: a job
// may publish two flakes of one branch.
func flakeName(flake, workspace string) string {
	if rest, ok := strings.CutPrefix(flake, workspace); ok && workspace != "" {
		flake = "." + rest
	}
	return locked.ReplaceAllString(flake, "*")
}
