// Command inspect shows what a binary cache in an OCI registry holds: on the
// terminal, as JSON, or as a folder of web pages.
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
		err = inspect(ctx, cfg, getenv, stdout, stderr)
	}
	return cli.Report(ctx, err, getenv, stdout, stderr)
}
