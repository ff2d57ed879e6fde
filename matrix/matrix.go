// Package matrix divides what must be built into jobs. A workflow runs them as
// its matrix.
package matrix

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/ui"
)

// What a run of publish does for a matrix.
const (
	// Planning makes the matrix, and builds nothing.
	Planning = "plan"
	// Recording publishes the whole when the jobs are done.
	Recording = "record"
)

// MaxJobs is how many jobs GitHub makes of a matrix.
const MaxJobs = 256

const (
	// maxSize is what a job may hand on, in bytes: GitHub takes 1 MB, and counts
	// two bytes for a letter.
	maxSize = 500_000
	// maxJobSize is what fits into an environment variable, in bytes, with room
	// for what toJSON adds.
	maxJobSize = 100_000
	// maxJobName bounds a job's name, in characters.
	maxJobName = 100
)

// Matrix is what a workflow fans out over.
type Matrix struct {
	Include []Job `json:"include"`
}

// DefaultRunners are GitHub's labels, by system.
func DefaultRunners() map[string]string {
	return map[string]string{
		"x86_64-linux":   "ubuntu-24.04",
		"aarch64-linux":  "ubuntu-24.04-arm",
		"aarch64-darwin": "macos-15",
		"x86_64-darwin":  "macos-15-intel",
	}
}

// NoRunner is the error for a system that has no runner.
func NoRunner(system string) error {
	return hint.Wrap(fmt.Errorf("no runner is known for the system %s", system), "name one with --runner "+system+"=LABEL")
}

// Options say how to divide.
type Options struct {
	// Jobs is the largest number of jobs, from 1 to MaxJobs.
	Jobs int
	// Runners are labels by system. A system with something to build and
	// without a label is an error.
	Runners map[string]string
	// Systems are those that the outputs were chosen for, at least one.
	Systems []string
	// Series is what each job carries along.
	Series string
}

// Plan divides outputs into jobs: those that lack a store path or a derivation
// in common are built by one job, and each system has its share of the jobs.
// missing reports whether no cache has a store path. Without outputs the matrix
// is empty. The same outputs give the same matrix.
func Plan(outputs []discover.Output, missing func(path string) bool, o Options) (*Matrix, error) {
	m := &Matrix{Include: []Job{}}
	groups := map[string][][]*discover.Output{} // by system
	for _, g := range group(outputs, missing) {
		system := hostSystem(g[0], o.Systems)
		groups[system] = append(groups[system], g)
	}
	share, err := shares(groups, o.Jobs)
	if err != nil {
		return nil, err
	}
	systems := strings.Join(o.Systems, "\n")
	for _, system := range slices.Sorted(maps.Keys(groups)) {
		runner := o.Runners[system]
		if runner == "" {
			return nil, NoRunner(system)
		}
		for _, members := range deal(groups[system], share[system]) {
			j := Job{Name: jobName(members), System: system, Runner: runner, Systems: systems, Series: o.Series, members: members}
			var patterns []string
			for _, o := range members {
				patterns = append(patterns, o.Pattern())
			}
			j.Outputs = strings.Join(patterns, "\n")
			if text, err := json.Marshal(j); err != nil || len(text) > maxJobSize {
				return nil, hint.Wrap(fmt.Errorf("the job %s has %s, more than a runner can hand on", j.Name, ui.Count(len(members), "output")), "allow more jobs with --matrix-jobs")
			}
			m.Include = append(m.Include, j)
		}
	}
	if text, err := m.JSON(); err != nil {
		return nil, err
	} else if len(text) > maxSize {
		return nil, hint.Wrap(fmt.Errorf("the matrix has %s, more than a job can hand on", ui.Bytes(int64(len(text)))), "plan a part of the flake at a time, with --include or --kinds")
	}
	return m, nil
}

// JSON is the matrix in one line, which ends in a newline.
func (m *Matrix) JSON() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(m); err != nil {
		return nil, fmt.Errorf("writing the matrix: %w", err)
	}
	return b.Bytes(), nil
}

// Text is the matrix for people, ending in a newline; "" for nil.
func (m *Matrix) Text() string {
	if m == nil {
		return ""
	}
	if len(m.Include) == 0 {
		return "nothing has to be built\n"
	}
	var rows [][]string
	for _, j := range m.Include {
		rows = append(rows, []string{ui.Number(len(Lines(j.Outputs))), j.System, j.Runner, j.Name})
	}
	return ui.Table([]string{"outputs", "system", "runner", "job"}, rows)
}

// group puts outputs together that one job had better build: those that lack a
// store path or a derivation in common. Groups and their members are in the
// order of the outputs.
func group(outputs []discover.Output, missing func(path string) bool) [][]*discover.Output {
	leader := make([]int, len(outputs))
	find := func(i int) int {
		for leader[i] != i {
			i = leader[i]
		}
		return i
	}
	first := map[string]int{} // who lacks a path or derivation
	join := func(key string, i int) {
		if j, ok := first[key]; ok {
			a, b := find(i), find(j)
			leader[max(a, b)] = min(a, b)
			return
		}
		first[key] = i
	}
	for i := range outputs {
		leader[i] = i
		o := &outputs[i]
		for _, path := range o.Paths() {
			if missing(path) {
				join(path, i)
			}
		}
		for _, d := range append([]discover.Derivation{o.Derivation}, o.Needs...) {
			for _, path := range d.Outputs {
				if missing(path) {
					join(d.DrvPath, i)
				}
			}
		}
	}
	var groups [][]*discover.Output
	at := map[int]int{}
	for i := range outputs {
		l := find(i)
		if _, ok := at[l]; !ok {
			at[l] = len(groups)
			groups = append(groups, nil)
		}
		groups[at[l]] = append(groups[at[l]], &outputs[i])
	}
	return groups
}

// hostSystem is the system of the machine that builds an output.
func hostSystem(o *discover.Output, systems []string) string {
	switch {
	case slices.Contains(systems, o.System):
		return o.System
	case len(o.Attr) > 1 && slices.Contains(systems, o.Attr[1]):
		return o.Attr[1]
	case slices.Contains(systems, "x86_64-linux"): // of i686-linux, outside a set of packages
		return "x86_64-linux"
	}
	return systems[0]
}

// shares gives each system its number of jobs, in proportion to its groups.
func shares(groups map[string][][]*discover.Output, most int) (map[string]int, error) {
	if len(groups) > most {
		return nil, hint.Wrap(fmt.Errorf("there is something to build for %d systems, and --matrix-jobs is %d", len(groups), most), "each system needs a job of its own")
	}
	systems := slices.Sorted(maps.Keys(groups))
	share := map[string]int{}
	for _, s := range systems {
		share[s] = 1
	}
	for n := len(systems); 0 < n && n < most; n++ {
		// the next goes to where there are most groups for a job
		s := slices.MaxFunc(systems, func(a, b string) int {
			return cmp.Compare(len(groups[a])*share[b], len(groups[b])*share[a])
		})
		if share[s] == len(groups[s]) {
			break // there as everywhere each group has a job
		}
		share[s]++
	}
	return share, nil
}

// deal divides groups into at most n lists of outputs: the largest group first,
// each to the shortest list. The lists are in the order of their first outputs.
func deal(groups [][]*discover.Output, n int) [][]*discover.Output {
	lists := make([][]*discover.Output, min(n, len(groups)))
	for _, g := range slices.SortedStableFunc(slices.Values(groups), func(a, b []*discover.Output) int { return cmp.Compare(len(b), len(a)) }) {
		shortest := 0
		for i := range lists {
			if len(lists[i]) < len(lists[shortest]) {
				shortest = i
			}
		}
		lists[shortest] = append(lists[shortest], g...)
	}
	byAttr := func(a, b *discover.Output) int { return slices.Compare(a.Attr, b.Attr) }
	for _, l := range lists {
		slices.SortFunc(l, byAttr)
	}
	slices.SortFunc(lists, func(a, b []*discover.Output) int { return byAttr(a[0], b[0]) })
	return lists
}

// jobName names a job after its first output.
func jobName(members []*discover.Output) string {
	name, more := []rune(members[0].Attr.String()), ""
	if len(members) > 1 {
		more = fmt.Sprintf(" and %d more", len(members)-1)
	}
	if len(name) > maxJobName {
		name = append(name[:maxJobName-1], '…')
	}
	return string(name) + more
}
