package publish

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/ui"
)

// Values of --matrix.
const (
	matrixOff    = "off"
	matrixPlan   = "plan"
	matrixRecord = "record"
)

const (
	// maxMatrixJobs is how many jobs GitHub makes of a matrix.
	maxMatrixJobs = 256
	// maxMatrixSize is what a job may hand on, in bytes: GitHub takes 1 MB, and
	// counts two bytes for a letter.
	maxMatrixSize = 500_000
	// maxPartSize is what fits into an environment variable, in bytes, with
	// room for what toJSON adds.
	maxPartSize = 100_000
	// maxJobName bounds a job's name, in characters.
	maxJobName = 100
)

// defaultRunners are GitHub's labels.
var defaultRunners = map[string]string{
	"x86_64-linux":   "ubuntu-24.04",
	"aarch64-linux":  "ubuntu-24.04-arm",
	"aarch64-darwin": "macos-15",
	"x86_64-darwin":  "macos-15-intel",
}

// matrix is what a workflow fans out over.
type matrix struct {
	Include []job `json:"include"`
}

// parseRunners reads "SYSTEM=LABEL", and adds them to the default.
func parseRunners(list []string) (map[string]string, error) {
	runners := maps.Clone(defaultRunners)
	var errs []error
	for _, text := range list {
		system, label, _ := strings.Cut(text, "=")
		if system == "" || label == "" {
			errs = append(errs, fmt.Errorf("--runner %q is not like x86_64-linux=ubuntu-24.04", text))
			continue
		}
		runners[system] = label
	}
	return runners, errors.Join(errs...)
}

func noRunner(system string) error {
	return hint.Wrap(fmt.Errorf("no runner is known for the system %s", system), "name one with --runner "+system+"=LABEL")
}

// planMatrix divides what must be built into jobs. It builds and writes nothing.
func (p *publisher) planMatrix(ctx context.Context, wait func() (*index.Snapshot, error)) error {
	outputs, err := p.discover(ctx)
	if err != nil {
		return err
	}
	base, err := wait()
	if err != nil {
		return err
	}
	h, err := p.holdings(ctx, base, outputs)
	if err != nil {
		return err
	}
	var todo []discover.Output
	for i := range outputs {
		if where := h.output(&outputs[i]); where != "" {
			p.report.cached(&outputs[i], where)
		} else {
			todo = append(todo, outputs[i])
		}
	}
	m, err := p.jobs(todo, func(path string) bool { return h.where[path] == "" })
	if err != nil {
		return err
	}
	p.report.Matrix = m
	if err := p.report.failedOutputs(); err != nil {
		p.report.partial = true
		return cli.WithStatus(err, cli.ExitPartly)
	}
	return nil
}

// readable is the index as far as a plan needs it. A registry that refuses to
// show the cache may not have it yet: GitHub's does not tell the difference.
// Nothing is lost if all is planned then; what may not be written ends the jobs.
func (p *publisher) readable(base *index.Snapshot, err error) (*index.Snapshot, error) {
	if err != nil && registry.Denied(err) {
		p.msg.Warn(hint.Wrap(fmt.Errorf("the cache cannot be read, so all that no upstream cache has is planned: %w", err),
			"that is normal before the first publish; else the job needs the permission to read packages"))
		return nil, nil
	}
	return base, err
}

// jobs divides outputs into the jobs of a matrix.
func (p *publisher) jobs(outputs []discover.Output, missing func(path string) bool) (*matrix, error) {
	m := &matrix{Include: []job{}}
	groups := map[string][][]*discover.Output{} // by system
	for _, g := range group(outputs, missing) {
		system := hostSystem(g[0], p.report.Systems)
		groups[system] = append(groups[system], g)
	}
	share, err := shares(groups, p.cfg.MatrixJobs)
	if err != nil {
		return nil, err
	}
	whole := series(p.cfg, p.getenv)
	systems := strings.Join(p.report.Systems, "\n")
	for _, system := range slices.Sorted(maps.Keys(groups)) {
		runner := p.cfg.Runners[system]
		if runner == "" {
			return nil, noRunner(system)
		}
		for _, members := range deal(groups[system], share[system]) {
			j := job{Name: jobName(members), System: system, Runner: runner, Systems: systems, Series: whole}
			var patterns []string
			for _, o := range members {
				patterns = append(patterns, o.Pattern())
				p.report.planned(o, j.Name)
			}
			j.Outputs = strings.Join(patterns, "\n")
			if text, err := json.Marshal(j); err != nil || len(text) > maxPartSize {
				return nil, hint.Wrap(fmt.Errorf("the job %s has %s, more than a runner can hand on", j.Name, ui.Count(len(members), "output")), "allow more jobs with --matrix-jobs")
			}
			m.Include = append(m.Include, j)
		}
	}
	if text, err := m.marshal(); err != nil {
		return nil, err
	} else if len(text) > maxMatrixSize {
		return nil, hint.Wrap(fmt.Errorf("the matrix has %s, more than a job can hand on", ui.Bytes(int64(len(text)))), "plan a part of the flake at a time, with --include or --kinds")
	}
	return m, nil
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

// marshal writes the matrix in one line.
func (m *matrix) marshal() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(m); err != nil {
		return nil, fmt.Errorf("writing the matrix: %w", err)
	}
	return b.Bytes(), nil
}

// write prints the matrix, if there is one.
func (m *matrix) write(w io.Writer) error {
	if m == nil {
		return nil
	}
	text, err := m.marshal()
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return fmt.Errorf("writing the matrix: %w", err)
	}
	return nil
}

// text is the matrix for people, ending in a newline; "" if there is none.
func (m *matrix) text() string {
	if m == nil {
		return ""
	}
	if len(m.Include) == 0 {
		return "nothing has to be built\n"
	}
	var rows [][]string
	for _, j := range m.Include {
		rows = append(rows, []string{ui.Number(len(lines(j.Outputs))), j.System, j.Runner, j.Name})
	}
	return ui.Table([]string{"outputs", "system", "runner", "job"}, rows)
}

// planned takes in an output that a job of the matrix builds.
func (r *report) planned(o *discover.Output, job string) {
	r.Outputs = append(r.Outputs, outputReport{Attr: o.Attr.String(), Kind: string(o.Kind), System: o.System, Status: statusPlanned, Job: job, Paths: o.Paths()})
}

// absent takes in outputs that are to be recorded, and are not there.
func (r *report) absent(outputs []discover.Output) error {
	for i := range outputs {
		o := &outputs[i]
		r.Outputs = append(r.Outputs, outputReport{Attr: o.Attr.String(), Kind: string(o.Kind), System: o.System, Status: statusFailed, Reason: "not in the cache", Missing: o.Paths()})
	}
	err := r.failedOutputs()
	if err != nil && len(outputs) > 0 {
		err = hint.Wrap(err, "--matrix record builds nothing: did every job of the matrix succeed, with the same flake and the same key? Only what the key has signed counts: --trusted-key lets the jobs sign what they substitute")
	}
	return err
}
