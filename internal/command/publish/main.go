// Command publish puts what a flake builds, or store paths, into a binary
// cache in an OCI registry.
package main

import (
	"context"
	"io"

	"github.com/org/nixoci-action/internal/cli"
)

func main() { cli.Main(run) }

func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	cfg, err := parseConfig(args, getenv)
	if err == nil {
		err = publish(ctx, cfg, getenv, stdin, stdout, stderr)
	}
	return cli.Report(ctx, err, getenv, stdout, stderr)
}
