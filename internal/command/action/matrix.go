package action

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/org/nixoci-action/internal/ui"
)

// Values of the input matrix.
const (
	matrixPlan   = "plan"
	matrixRecord = "record"
)

// plans reports whether the step only plans a matrix.
func (c *config) plans() bool { return c.text["matrix"] == matrixPlan }

// checkMatrix finds what is wrong with the inputs for a matrix.
func (c *config) checkMatrix() error {
	var errs []error
	switch m := c.text["matrix"]; m {
	case "", matrixPlan, matrixRecord:
	default:
		errs = append(errs, fmt.Errorf("input matrix: %q is neither %s nor %s", m, matrixPlan, matrixRecord))
	}
	for _, name := range []string{"matrix", "part"} {
		if c.text[name] != "" && c.text["flake"] == "" {
			errs = append(errs, fmt.Errorf("input %s: it needs the input flake", name))
		}
	}
	return errors.Join(errs...)
}

// matrixJob is what this program shows of a job of a matrix.
type matrixJob struct{ Name, System, Runner, Outputs string }

// plan makes a matrix of what must be built. It needs no right to write, and no
// substituter.
func (s *session) plan(ctx context.Context) error {
	var r publishReport
	status, out, err := s.run(ctx, publishCommand, nil, &r)
	if err != nil {
		out.finish(false)
		return s.soften(ctx, err)
	}
	s.annotate(&r, s.lenient(ctx, status, r.Denied))
	text, jobs, err := r.matrix()
	list, lerr := r.outputsJSON()
	_, failures := r.counts()
	s.told(errors.Join(err, lerr, s.output("matrix", text), s.output("outputs", list), s.output("failed", strconv.Itoa(failures)), s.output("report", s.reportFile()),
		s.summarise(func() string { return s.matrixSummary(&r, jobs) })))
	return s.verdict(ctx, status, r.Denied, out)
}

// matrix returns the matrix in one line, and its jobs. A matrix without any is
// "", because no job can be made of it.
func (r *publishReport) matrix() (text string, jobs []matrixJob, err error) {
	var m struct{ Include []matrixJob }
	var b bytes.Buffer
	if len(r.Matrix) > 0 {
		if err := errors.Join(json.Unmarshal(r.Matrix, &m), json.Compact(&b, r.Matrix)); err != nil {
			return "", nil, fmt.Errorf("reading the matrix: %w", err)
		}
	}
	if len(m.Include) == 0 {
		return "", nil, nil
	}
	return b.String(), m.Include, nil
}

// matrixSummary tells what is built where, and why the rest is not.
func (s *session) matrixSummary(r *publishReport, jobs []matrixJob) string {
	var b strings.Builder
	b.WriteString(s.heading("Plan"))
	n := map[string]int{}
	for _, o := range r.Outputs {
		n[o.Status]++
	}
	parts := []string{"✅ <b>nothing has to be built</b>"}
	if len(r.Matrix) == 0 {
		parts = []string{"❌ <b>nothing was planned</b>"}
	} else if len(jobs) > 0 {
		parts = []string{fmt.Sprintf("🛠️ <b>%s to build in %s</b>", ui.Count(n["planned"], "output"), ui.Count(len(jobs), "job"))}
	}
	if n["cached"] > 0 {
		parts = append(parts, fmt.Sprintf("⏭️ %d in a cache already", n["cached"]))
	}
	if n["failed"] > 0 {
		parts = append(parts, fmt.Sprintf("❌ <b>%d failed</b>", n["failed"]))
	}
	b.WriteString(strings.Join(parts, " · ") + "\n\n")
	b.WriteString(s.problem(r.Error, r.Failures))
	b.WriteString(s.failures(r))
	if len(jobs) > 0 {
		var rows [][]string
		for _, j := range jobs {
			rows = append(rows, []string{code(j.Name), literal(j.System), literal(j.Runner), ui.Number(strings.Count(j.Outputs, "\n") + 1)})
		}
		b.WriteString(table([]string{"job", "system", "runner", "outputs"}, false, rows) + "\n")
	}
	b.WriteString(s.allOutputs(r.Outputs))
	return b.String()
}
