package cli

import (
	"context"
	"errors"
	"io"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/ui"
)

// The exit statuses of all commands. They are an interface: scripts test them.
const (
	ExitDone        = 0
	ExitFailed      = 1
	ExitUsage       = 2 // wrong usage or configuration
	ExitPartly      = 3 // some of the work is done and acknowledged, some failed
	ExitInterrupted = 130
)

type statusError struct {
	error
	status int
}

func (e *statusError) Unwrap() error { return e.error }

// WithStatus attaches an exit status to err. Its message stays as it is. A nil
// err stays nil.
func WithStatus(err error, status int) error {
	if err == nil {
		return nil
	}
	return &statusError{err, status}
}

// Usage attaches ExitUsage to err, and a pointer to the help unless err has a
// hint. It serves a command's own checks of its configuration; several are
// joined by errors.Join. A nil err stays nil.
func (f *Flags) Usage(err error) error {
	if err != nil && hint.Of(err) == "" {
		err = hint.Wrap(err, "see "+Name+" help "+f.command.Name)
	}
	return WithStatus(err, ExitUsage)
}

// output is the "error" of --help and --version.
type output struct{ text string }

func (*output) Error() string { return "nothing to do but print" }

// Report prints what err says and returns the exit status: ExitDone for nil,
// else that of WithStatus, else ExitFailed. If ctx is cancelled an error means
// ExitInterrupted, whatever it is: work that was stopped fails in many ways.
func Report(ctx context.Context, err error, getenv func(string) string, stdout, stderr io.Writer) int {
	if err == nil {
		return ExitDone
	}
	if out := (*output)(nil); errors.As(err, &out) {
		if _, err := io.WriteString(stdout, out.text); err != nil {
			return ExitFailed
		}
		return ExitDone
	}
	m := ui.New(stderr, getenv)
	if ctx.Err() != nil {
		m.Error(errors.New("interrupted"))
		return ExitInterrupted
	}
	m.Error(err)
	if s := (*statusError)(nil); errors.As(err, &s) {
		return s.status
	}
	return ExitFailed
}
