// Command gc removes from a binary cache in an OCI registry what no
// publication needs any more.
package main

import (
	"context"
	"io"

	"github.com/org/nixoci-action/internal/cli"
)

func main() { cli.Main(run) }

func run(ctx context.Context, args []string, getenv func(string) string, _ io.Reader, stdout, stderr io.Writer) int {
	cfg, err := parseConfig(args, getenv)
	if err == nil {
		err = collect(ctx, cfg, getenv, stdout, stderr)
	}
	return cli.Report(ctx, err, getenv, stdout, stderr)
}
