// Package action is the command that the GitHub Action consists of. "action
// main" is its step. "action post" follows the job's last step. The launcher in
// the folder launch runs it. The work is done by the commands publish, proxy
// and gc, each in a process of its own.
package action

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/org/nixoci-action/internal/cli"
)

// Command is what the help says of it.
var Command = &cli.Command{
	Name:     "action",
	Summary:  "is the GitHub Action",
	Synopsis: "main | post",
	About:    "The GitHub Action's step, and its end after the job's last step. It is configured by the variables INPUT_* that a runner makes of the inputs in action.yml.",
}

// Run is the command. It returns the exit status.
func Run(ctx context.Context, args []string, getenv func(string) string, _ io.Reader, _, stderr io.Writer) int {
	f := Command.Flags(getenv)
	rest, err := f.Parse(args)
	if err == nil && len(rest) != 1 {
		err = f.Usage(errors.New("give one of main and post"))
	}
	var s *session
	if err == nil {
		s, err = newSession(getenv, stderr)
	}
	if err == nil {
		switch rest[0] {
		case "main":
			err = s.main(ctx)
		case "post":
			err = s.post(ctx)
		default:
			err = f.Usage(fmt.Errorf("unexpected argument %q", rest[0]))
		}
	}
	if f := (failed{}); errors.As(err, &f) {
		return f.status
	}
	return cli.Report(ctx, err, getenv, stderr, stderr)
}
