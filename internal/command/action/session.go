package action

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/steplog"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/report"
	"github.com/org/nixoci-action/summary"
)

// session is one run of this program.
type session struct {
	cfg     config
	getenv  func(string) string
	env     []string // of this process, and what the step adds
	stderr  *steplog.Pulse
	msg     *ui.Messages
	program string // this one, whose other commands do the work
	idle    string // why nothing is published
	state   state
}

// state is what main leaves for post.
type state struct {
	Mode    mode      `json:"mode"`
	Dir     string    `json:"dir"` // for files that outlive the step
	Started time.Time `json:"started"`
	URL     string    `json:"url,omitempty"` // of the proxy
	PID     int       `json:"pid,omitempty"`
	Keys    []string  `json:"keys,omitempty"` // public ones of the cache
}

// stateName is the state's name in the runner's file; the runner gives it back
// as the variable STATE_nixoci.
const stateName = "nixoci"

func newSession(getenv func(string) string, stderr io.Writer) (*session, error) {
	out := steplog.NewPulse(stderr, steplog.Heartbeat)
	msg := ui.New(out, getenv)
	cfg, err := parseConfig(getenv)
	for _, secret := range cfg.secrets().Texts() {
		msg.Mask(secret)
	}
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("looking for the program: %w", err)
	}
	return &session{cfg: cfg, getenv: getenv, env: os.Environ(), stderr: out, msg: msg, program: self}, nil
}

func (s *session) nix() *nix.Client { return nix.New(nix.Options{Env: s.env}) }

// main is the step.
func (s *session) main(ctx context.Context) error {
	defer s.stderr.Beat()()
	m, reason, err := choose(s.cfg, s.getenv)
	if err != nil {
		return err
	}
	s.msg.Printf("mode: %s (%s)", m, reason)
	if s.cfg.foreign() {
		s.cfg.distrust()
	}
	dir, err := os.MkdirTemp(s.getenv("RUNNER_TEMP"), "nixoci-")
	if err != nil {
		return fmt.Errorf("making a folder for the step: %w", err)
	}
	s.state = state{Mode: m, Dir: dir, Started: time.Now()}
	if err := errors.Join(s.saveState(), s.output("cache", s.cfg.cache())); err != nil {
		return err
	}
	switch m {
	case modeGC:
		return s.collect(ctx)
	case modeMatrix:
		return s.plan(ctx)
	case modeSign:
		return s.sign(ctx)
	case modeReadOnly, modeBuild, modeSkip:
		s.idle = reason
		s.msg.Notice("nothing is published to " + s.cfg.cache() + ": " + reason)
		if m != modeBuild {
			s.warn(s.summarise(func(o summary.Options) string { return summary.Idle(m == modeReadOnly, o) }))
		}
		if m == modeSkip {
			return nil
		}
	case modeCache:
		if err := s.mayWrite(ctx); err != nil {
			s.state.Mode = modeReadOnly // post need not try
			return errors.Join(err, s.saveState())
		}
	}
	if err := s.substitute(ctx); err != nil {
		if ctx.Err() != nil {
			return err
		}
		s.msg.Warn(fmt.Errorf("the job goes on without the cache as a substituter: %w", err))
	}
	switch m {
	case modePublish:
		return s.publish(ctx)
	case modeBuild:
		if s.cfg.dryRun {
			return s.publish(ctx)
		}
		return s.publish(ctx, "--build-only")
	}
	return nil
}

// post is what follows the job's last step, also if a step failed.
func (s *session) post(ctx context.Context) error {
	text := s.getenv("STATE_" + stateName)
	if text == "" {
		return nil // main did not come so far
	}
	defer s.stderr.Beat()()
	if err := json.Unmarshal([]byte(text), &s.state); err != nil {
		return fmt.Errorf("reading the step's state: %w", err)
	}
	var err error
	if s.state.Mode == modeCache {
		err = s.publishBuilt(ctx)
	}
	s.endSubstituter()
	return err
}

func (s *session) saveState() error {
	text, err := json.Marshal(s.state)
	if err != nil {
		return fmt.Errorf("saving the step's state: %w", err)
	}
	return set(s.getenv, "GITHUB_STATE", stateName, string(text))
}

func (s *session) output(name, value string) error {
	return set(s.getenv, "GITHUB_OUTPUT", name, value)
}

// stopTime is how long an interrupted command may take to commit what it has.
const stopTime = 45 * time.Second

// reportFile has the report of the last command.
func (s *session) reportFile() string { return filepath.Join(s.state.Dir, "report.json") }

// run runs one of the other commands with --json and decodes its report. The
// caller finishes the relay, which holds back the errors. The error is one of
// running the command; that the command failed says its status. If the command
// came to no report, the result has what it printed.
func (s *session) run(ctx context.Context, command string, stdin io.Reader, result any, args ...string) (int, *steplog.Relay, error) {
	out := steplog.NewRelay(s.stderr, s.edit)
	file, err := os.OpenFile(s.reportFile(), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return 0, out, fmt.Errorf("making a file for the report: %w", err)
	}
	defer file.Close()
	if s.cfg.deadline > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, s.cfg.deadline, fmt.Errorf("the deadline of %s has passed", cli.FormatDuration(s.cfg.deadline)))
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, s.program, append([]string{command, "--json"}, args...)...)
	cmd.Env = s.cfg.environ(command, s.env)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, file, out
	// A group of its own: a signal for all of ours would be a second one there,
	// which ends it at once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		s.msg.Printf("stopping %s: %s", command, context.Cause(ctx))
		return cmd.Process.Signal(syscall.SIGTERM)
	}
	cmd.WaitDelay = stopTime
	err = cmd.Run()
	status := cli.ExitDone
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil && ctx.Err() == nil {
		return 0, out, fmt.Errorf("running %s: %w", command, err)
	} else if err != nil {
		status = cli.ExitInterrupted
	}
	if text, rerr := readFile(s.reportFile(), maxReport); rerr != nil {
		return status, out, fmt.Errorf("reading the report of %s: %w", command, rerr)
	} else if len(text) > 0 {
		if err := json.Unmarshal(text, result); err != nil {
			return status, out, fmt.Errorf("reading the report of %s: %w", command, err)
		}
	} else if r, ok := result.(interface{ Finish([]report.Stage, error) }); ok && status != cli.ExitDone {
		r.Finish(nil, errors.New(cmp.Or(strings.Join(out.Held(), "\n"), fmt.Sprintf("%s ended without a report: %v", command, err))))
	}
	return status, out, nil
}

const maxReport = 1 << 30

// failed is an error that was printed already.
type failed struct{ status int }

func (f failed) Error() string { return fmt.Sprintf("failed with status %d", f.status) }

// lenient reports whether a failure is to be a warning.
func (s *session) lenient(ctx context.Context, status int, denied bool) bool {
	return s.cfg.warn && !denied && status != cli.ExitUsage && ctx.Err() == nil
}

// verdict is what a command's end means for the step.
func (s *session) verdict(ctx context.Context, status int, denied bool, out *steplog.Relay) error {
	warn := s.lenient(ctx, status, denied)
	out.Finish(warn)
	if status == cli.ExitDone || warn {
		return nil
	}
	return failed{status}
}
