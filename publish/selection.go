package publish

import (
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/ci"
	"github.com/org/nixoci-action/internal/secret"
)

// selection tells apart what different jobs publish from the same branch: what
// was chosen of the flake, or which packages, and in CI which job did it. It is
// the same for each run of a job, and is not for people.
func selection(o Options, roots []root, job ci.Job) string {
	v := url.Values{}
	set := func(name string, values []string) {
		values = slices.Compact(slices.Sorted(slices.Values(values)))
		if len(values) > 0 {
			v[name] = values
		}
	}
	if o.Flake != "" {
		if kinds := kindNames(o.Kinds); !slices.Equal(kinds, kindNames(discover.DefaultKinds())) {
			set("kind", kinds)
		}
		if _, attr, _ := strings.Cut(o.Flake, "#"); attr != "" {
			v.Set("attribute", attr)
		}
		set("include", o.Include)
		set("exclude", o.Exclude)
		if o.DenyUnfree {
			v.Set("deny-unfree", strconv.FormatBool(true))
		}
	} else {
		var bases []string
		for _, r := range roots {
			bases = append(bases, path.Base(r.path))
		}
		v = format.SelectPaths(o.Series, bases)
	}
	if job.System != "" {
		v.Set("workflow", job.Workflow)
		v.Set("job", job.Name)
		v.Set("flake", flakeName(o.Flake, job.Workspace))
	}
	return format.Selection(v)
}

func kindNames(kinds []discover.Kind) []string {
	var names []string
	for _, k := range kinds {
		names = append(names, string(k))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// locked is what pins a flake reference: a revision or a hash.
var locked = regexp.MustCompile(`[0-9a-f]{40,}|sha256-[A-Za-z0-9+/=%]+`)

// flakeName is a flake reference without what changes from run to run: a job
// may publish two flakes of one branch. It has no secrets in it, which are also
// others in each run.
func flakeName(flake, workspace string) string {
	flake, _ = secret.Reference(flake)
	if rest, ok := strings.CutPrefix(flake, workspace); ok && workspace != "" {
		flake = "." + rest
	}
	return locked.ReplaceAllString(flake, "*")
}

// series is what a whole matrix has in common: what its plan and its record
// choose of the flake. These are different jobs of a workflow, so a job's name is
// not in it; nor are the systems, so that a list of systems that changes leaves
// no series behind.
func series(o Options, job ci.Job) string {
	job.Name = ""
	return "matrix&" + selection(o, nil, job)
}
