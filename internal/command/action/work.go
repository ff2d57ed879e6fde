package action

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/ui"
)

// mayWrite makes sure that the cache can be written to: the job's work must not
// end at a locked door. A publish of nothing does.
func (s *session) mayWrite(ctx context.Context) error {
	if s.cfg.dryRun {
		return nil
	}
	var r publishReport
	status, out, err := s.run(ctx, publishCommand, strings.NewReader(""), &r, "-")
	loud := r.Denied || status == cli.ExitUsage || ctx.Err() != nil
	out.finish(!loud)
	switch {
	case err != nil:
		return err
	case status == cli.ExitDone:
	case loud:
		return failed{status}
	default:
		s.msg.Printf("the job goes on; what it builds is published at its end if the cache can be reached then")
	}
	return nil
}

// publish builds and publishes the flake.
func (s *session) publish(ctx context.Context) error {
	return s.publishWith(ctx, nil)
}

// publishBuilt publishes what was built since the step, and records with it
// what the job took from the cache: what it needs stays there.
func (s *session) publishBuilt(ctx context.Context) error {
	built, fetched, err := s.nix().Built(ctx, s.state.Started)
	if err != nil {
		return s.soften(ctx, fmt.Errorf("finding out what the job has built: %w", err))
	}
	used := s.cached(ctx, fetched)
	s.msg.Printf("built in this job: %s; taken from the cache: %s", ui.Count(len(built), "path"), ui.Count(len(used), "path"))
	paths := append(built, used...)
	if len(paths) == 0 {
		return nil
	}
	return s.publishWith(ctx, paths)
}

// series tells apart the jobs of a matrix that run on different machines.
func (s *session) series() string {
	return strings.Join([]string{"job", s.getenv("RUNNER_OS"), s.getenv("RUNNER_ARCH")}, " ")
}

// publishWith publishes store paths, or the flake if paths is nil, and tells
// about it.
func (s *session) publishWith(ctx context.Context, paths []string) error {
	var args []string
	if paths != nil {
		args = []string{"--series", s.series(), "-"}
	}
	var r publishReport
	begun := time.Now()
	status, out, err := s.run(ctx, publishCommand, strings.NewReader(strings.Join(paths, "\n")), &r, args...)
	if err != nil {
		out.finish(false)
		return s.soften(ctx, err)
	}
	r.took = time.Since(begun)
	s.annotate(&r, s.lenient(ctx, status, r.Denied))
	s.told(errors.Join(s.publishOutputs(&r), s.summarise(func() string { return s.publishSummary(&r, paths != nil) })))
	return s.verdict(ctx, status, r.Denied, out)
}

// told warns of what could not be told; the work itself is done.
func (s *session) told(err error) {
	if err != nil {
		s.msg.Warn(err)
	}
}

// soften makes a warning of an error, if that is wanted.
func (s *session) soften(ctx context.Context, err error) error {
	if !s.lenient(ctx, cli.ExitFailed, false) {
		return err
	}
	s.msg.Warn(err)
	return nil
}

func (s *session) publishOutputs(r *publishReport) error {
	list, err := r.outputsJSON()
	if err != nil {
		return err
	}
	published, failures := r.counts()
	var errs []error
	for _, o := range [][2]string{
		{"outputs", list},
		{"published", strconv.Itoa(published)},
		{"uploaded-paths", strconv.Itoa(r.Uploaded.Paths)},
		{"uploaded-bytes", strconv.FormatInt(r.Uploaded.FileSize, 10)},
		{"upstream-paths", strconv.Itoa(r.OnUpstream.Paths)},
		{"cached-paths", strconv.Itoa(r.InCache.Paths)},
		{"failed", strconv.Itoa(failures)},
		{"report", s.reportFile()},
	} {
		errs = append(errs, s.output(o[0], o[1]))
	}
	return errors.Join(errs...)
}

// collect removes from the cache what nothing needs.
func (s *session) collect(ctx context.Context) error {
	var r gcReport
	status, out, err := s.run(ctx, gcCommand, nil, &r)
	if err != nil {
		out.finish(false)
		return s.soften(ctx, err)
	}
	s.told(errors.Join(s.output("report", s.reportFile()), s.summarise(func() string { return s.gcSummary(&r) })))
	return s.verdict(ctx, status, r.Denied, out)
}
