// Package publish is the command that puts what a flake builds, or store paths,
// into a binary cache in an OCI registry.
package publish

import (
	"context"
	"io"

	"github.com/org/nixoci-action/internal/cli"
)

// Run is the command. It returns the exit status.
func Run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	cfg, err := parseConfig(args, getenv)
	if err == nil {
		err = publish(ctx, cfg, getenv, stdin, stdout, stderr)
	}
	return cli.Report(ctx, err, getenv, stdout, stderr)
}
