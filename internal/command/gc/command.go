// Package gc is the command that removes from a binary cache in an OCI registry
// what no publication needs any more.
package gc

import (
	"context"
	"io"

	"github.com/org/nixoci-action/internal/cli"
)

// Run is the command. It returns the exit status.
func Run(ctx context.Context, args []string, getenv func(string) string, _ io.Reader, stdout, stderr io.Writer) int {
	cfg, err := parseConfig(args, getenv)
	if err == nil {
		err = run(ctx, cfg, getenv, stdout, stderr)
	}
	return cli.Report(ctx, err, getenv, stdout, stderr)
}
