// Package inspect is the command that shows what a binary cache in an OCI
// registry holds: on the terminal, as JSON, or as a folder of web pages.
package inspect

import (
	"context"
	"io"

	"github.com/org/nixoci-action/internal/cli"
)

// Run is the command. It returns the exit status.
func Run(ctx context.Context, args []string, getenv func(string) string, _ io.Reader, stdout, stderr io.Writer) int {
	cfg, err := parseConfig(args, getenv)
	if err == nil {
		err = inspect(ctx, cfg, getenv, stdout, stderr)
	}
	return cli.Report(ctx, err, getenv, stdout, stderr)
}
