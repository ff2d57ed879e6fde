package publish

import (
	"context"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/matrix"
	"github.com/org/nixoci-action/report"
)

// planMatrix divides what must be built into jobs. It builds and writes nothing.
func (p *publisher) planMatrix(ctx context.Context, wait func() (*index.Snapshot, error)) error {
	outputs, err := p.evaluate(ctx)
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
	m, err := matrix.Plan(todo, func(path string) bool { return h.where[path] == "" }, matrix.Options{
		Jobs: p.MatrixJobs, Runners: p.Runners, Systems: p.report.Systems, Series: series(p.Options, p.Job),
	})
	if err != nil {
		return err
	}
	p.report.Matrix = m
	for i := range m.Include {
		for _, o := range m.Include[i].Members() {
			p.report.planned(o, m.Include[i].Name)
		}
	}
	return report.AsPartly(p.report.CheckOutputs())
}
