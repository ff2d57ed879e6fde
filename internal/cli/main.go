package cli

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/secret"
	"github.com/org/nixoci-action/internal/ui"
)

// Run is a command without its process: it reads nothing and writes nothing
// but what it is given, and returns the exit status.
type Run func(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int

// Main runs a command as the process and exits, in the environment with secrets
// from files (see WithSecretFiles). It hides the secrets in its environment from
// other processes. The first SIGINT or SIGTERM cancels the
// context, a second one kills.
func Main(run Run) {
	// without /proc there is nobody to hide from
	_ = secret.Hide(nix.Withheld)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, func() {
		stop() // from here on a signal has its default effect
		ui.New(os.Stderr, os.Getenv).Printf("stopping; interrupt again to stop at once")
	})
	getenv, err := WithSecretFiles(os.Getenv)
	if err != nil {
		os.Exit(Report(ctx, err, os.Getenv, os.Stdout, os.Stderr))
	}
	os.Exit(run(ctx, os.Args[1:], getenv, os.Stdin, os.Stdout, os.Stderr))
}
