// Package proxy is the command that serves a cache to Nix over HTTP, on this
// machine.
package proxy

import (
	"context"
	"io"

	"github.com/org/nixoci-action/internal/cli"
)

// Run is the command. It returns the exit status, when ctx has ended.
func Run(ctx context.Context, args []string, getenv func(string) string, _ io.Reader, stdout, stderr io.Writer) int {
	c, err := parseConfig(args, getenv)
	if err == nil {
		err = serve(ctx, c, getenv, stdout, stderr)
	}
	return cli.Report(ctx, err, getenv, stdout, stderr)
}
