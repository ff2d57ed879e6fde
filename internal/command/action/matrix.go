package action

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/org/nixoci-action/matrix"
	"github.com/org/nixoci-action/report"
	"github.com/org/nixoci-action/summary"
)

// plans reports whether the step only plans a matrix.
func (c *config) plans() bool { return c.text["matrix"] == matrix.Planning }

// checkMatrix finds what is wrong with the inputs for a matrix.
func (c *config) checkMatrix() error {
	var errs []error
	switch m := c.text["matrix"]; m {
	case "", matrix.Planning, matrix.Recording:
	default:
		errs = append(errs, fmt.Errorf("input matrix: %q is neither %s nor %s", m, matrix.Planning, matrix.Recording))
	}
	for _, name := range []string{"matrix", "part"} {
		if c.text[name] != "" && c.text["flake"] == "" {
			errs = append(errs, fmt.Errorf("input %s: it needs the input flake", name))
		}
	}
	return errors.Join(errs...)
}

// plan makes a matrix of what must be built. It needs no right to write, and no
// substituter.
func (s *session) plan(ctx context.Context) error {
	var r report.Publish
	status, out, err := s.run(ctx, publishCommand, nil, &r)
	if err != nil {
		out.Finish(false)
		return s.mayWarn(ctx, err)
	}
	s.annotate(&r, s.lenient(ctx, status, r.Denied))
	text := ""
	if r.Matrix != nil && len(r.Matrix.Include) > 0 { // no job can be made of none
		var line []byte
		line, err = r.Matrix.JSON()
		text = strings.TrimSpace(string(line))
	}
	list, lerr := outputsJSON(&r)
	s.warn(errors.Join(err, lerr, s.output("matrix", text), s.output("outputs", list), s.output("failed", strconv.Itoa(failures(&r))), s.output("report", s.reportFile()),
		s.summarise(func(o summary.Options) string { return summary.Matrix(&r, o) })))
	return s.verdict(ctx, status, r.Denied, out)
}
