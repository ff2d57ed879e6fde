package action

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/report"
	"github.com/org/nixoci-action/summary"
)

// mayWrite makes sure that the cache can be written to: the job's work must not
// end at a locked door. A publish of nothing does.
func (s *session) mayWrite(ctx context.Context) error {
	if s.cfg.dryRun {
		return nil
	}
	var r report.Publish
	status, out, err := s.run(ctx, publishCommand, strings.NewReader("\n"), &r, "-")
	loud := r.Denied || status == cli.ExitUsage || ctx.Err() != nil
	out.Finish(!loud)
	switch {
	case err != nil:
		return err
	case status == cli.ExitDone:
	case loud:
		s.warn(s.summarise(func(o summary.Options) string {
			o.OfJob = true
			return summary.Publish(&r, o)
		}))
		return failed{status}
	default:
		s.msg.Printf("the job goes on; what it builds is published at its end if the cache can be reached then")
	}
	return nil
}

// publish builds and publishes the flake.
func (s *session) publish(ctx context.Context, args ...string) error {
	return s.publishWith(ctx, nil, args...)
}

// publishBuilt publishes what was built since the step, and records with it
// what the job took from the cache: what it needs stays there.
func (s *session) publishBuilt(ctx context.Context) error {
	built, fetched, err := s.nix().Built(ctx, s.state.Started)
	if err != nil {
		return s.mayWarn(ctx, fmt.Errorf("finding out what the job has built: %w", err))
	}
	used := s.used(ctx, fetched)
	s.msg.Printf("built in this job: %s; taken from the cache: %s", ui.Count(len(built), "path"), ui.Count(len(used), "path"))
	paths := append(built, used...)
	if len(paths) == 0 {
		return nil
	}
	return s.publishWith(ctx, paths, "--series", s.series(), "-")
}

// series tells apart the jobs of a matrix that run on different machines.
func (s *session) series() string {
	return strings.Join([]string{"job", s.getenv("RUNNER_OS"), s.getenv("RUNNER_ARCH")}, " ")
}

// publishWith publishes store paths, or the flake if paths is nil, and tells
// about it.
func (s *session) publishWith(ctx context.Context, paths []string, args ...string) error {
	var r report.Publish
	begun := time.Now()
	status, out, err := s.run(ctx, publishCommand, strings.NewReader(strings.Join(paths, "\n")), &r, args...)
	if err != nil {
		out.Finish(false)
		return s.mayWarn(ctx, err)
	}
	took := time.Since(begun)
	if s.cfg.dryRun {
		s.showPlan(r.PlanText())
	}
	s.annotate(&r, s.lenient(ctx, status, r.Denied))
	s.warn(errors.Join(s.publishOutputs(&r), s.summarise(func(o summary.Options) string {
		o.Flake, o.OfJob, o.Took = s.cfg.text["flake"], paths != nil, took
		if o.Flake == "." {
			o.Flake = cmp.Or(r.Origin, o.Flake)
		}
		return summary.Publish(&r, o)
	})))
	return s.verdict(ctx, status, r.Denied, out)
}

// warn warns of what could not be handed on; the work itself is done.
func (s *session) warn(err error) {
	if err != nil {
		s.msg.Warn(err)
	}
}

// mayWarn makes a warning of an error, if that is wanted.
func (s *session) mayWarn(ctx context.Context, err error) error {
	if !s.lenient(ctx, cli.ExitFailed, false) {
		return err
	}
	s.msg.Warn(err)
	return nil
}

// summarisedName is the variable that tells a later step of the job which cache
// an earlier one has summarised.
const summarisedName = "NIXOCI_SUMMARISED"

// summarise appends to the job's summary, if that is wanted.
func (s *session) summarise(write func(summary.Options) string) error {
	if !s.cfg.summary {
		return nil
	}
	text := write(summary.Options{
		Cache: s.cfg.cache(), Idle: s.idle, Wording: inInputs, Keys: s.state.Keys, Again: s.getenv(summarisedName) == s.cfg.cache(), Secrets: s.cfg.secrets(),
	})
	if err := s.msg.Summary(text); err != nil {
		return err
	}
	return set(s.getenv, "GITHUB_ENV", summarisedName, s.cfg.cache())
}

// failures is the number of outputs and store paths that failed.
func failures(r *report.Publish) int { return r.Count()[report.OutputFailed] + len(r.Failures) }

// outputsJSON is the output "outputs": without logs and messages, which may be
// long.
func outputsJSON(r *report.Publish) (string, error) {
	type output struct {
		Attr   string              `json:"attr"`
		System string              `json:"system,omitempty"`
		Status report.OutputStatus `json:"status"`
		Paths  []string            `json:"paths"`
	}
	list := make([]output, 0, len(r.Outputs))
	for _, o := range r.Outputs {
		list = append(list, output{o.Attr, o.System, o.Status, append([]string{}, o.Paths...)})
	}
	text, err := json.Marshal(list)
	if err != nil {
		return "", fmt.Errorf("writing the outputs: %w", err)
	}
	return string(text), nil
}

func (s *session) publishOutputs(r *report.Publish) error {
	list, err := outputsJSON(r)
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range [][2]string{
		{"outputs", list},
		{"published", strconv.Itoa(r.Published())},
		{"uploaded-paths", strconv.Itoa(r.Uploaded.Paths)},
		{"uploaded-bytes", strconv.FormatInt(r.Uploaded.FileSize, 10)},
		{"upstream-paths", strconv.Itoa(r.OnUpstream.Paths)},
		{"cached-paths", strconv.Itoa(r.InCache.Paths)},
		{"failed", strconv.Itoa(failures(r))},
		{"report", s.reportFile()},
	} {
		errs = append(errs, s.output(o[0], o[1]))
	}
	return errors.Join(errs...)
}

// showPlan prints what a dry run would do, for runners that show no summary.
func (s *session) showPlan(text string) {
	if text != "" {
		s.msg.Printf("%s", strings.TrimSuffix(text, "\n"))
	}
}

// collect removes from the cache what nothing needs.
func (s *session) collect(ctx context.Context) error {
	var r report.GC
	status, out, err := s.run(ctx, gcCommand, nil, &r)
	if err != nil {
		out.Finish(false)
		return s.mayWarn(ctx, err)
	}
	if s.cfg.dryRun {
		s.showPlan(r.PlanText())
	}
	s.warn(errors.Join(s.output("report", s.reportFile()), s.summarise(func(o summary.Options) string { return summary.GC(&r, o) })))
	return s.verdict(ctx, status, r.Denied, out)
}

// sign signs what other jobs have built.
func (s *session) sign(ctx context.Context) error {
	var r report.Sign
	status, out, err := s.run(ctx, signCommand, nil, &r)
	if err != nil {
		out.Finish(false)
		return s.mayWarn(ctx, err)
	}
	s.warn(s.output("report", s.reportFile()))
	return s.verdict(ctx, status, r.Denied, out)
}
