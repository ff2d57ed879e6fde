package publish

import (
	"context"
	"fmt"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/matrix"
	"github.com/org/nixoci-action/report"
)

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

// readable is the index as far as a plan needs it. A registry that refuses to
// show the cache may not have it yet: GitHub's does not tell the difference.
// Nothing is lost if all is planned then; what may not be written ends the jobs.
func (p *publisher) readable(base *index.Snapshot, err error) (*index.Snapshot, error) {
	if err != nil && registry.Denied(err) {
		p.Messages.Warn(hint.Wrap(fmt.Errorf("the cache cannot be read, so all that no upstream cache has is planned: %w", err),
			"that is normal before the first publish; else the job needs the permission to read packages"))
		return nil, nil
	}
	return base, err
}
