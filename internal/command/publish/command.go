// Package publish is the command that puts what a flake builds, or store paths,
// into a binary cache in an OCI registry.
package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/ci"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/secret"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/matrix"
	"github.com/org/nixoci-action/publish"
	"github.com/org/nixoci-action/report"
	"github.com/org/nixoci-action/upstream"
)

// Run is the command. It returns the exit status.
func Run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	cfg, err := parseConfig(args, getenv)
	if err == nil {
		err = run(ctx, cfg, getenv, stdin, stdout, stderr)
	}
	return cli.Report(ctx, err, getenv, stdout, stderr)
}

// run does what cfg asks for and prints the report. Its error carries the exit
// status.
func run(ctx context.Context, cfg config, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) error {
	msg := ui.New(stderr, getenv)
	nixLog := msg.Log()
	defer nixLog.Close()
	o, err := options(cfg, getenv, stdin, msg, nixLog)
	if err != nil {
		return cli.WithStatus(err, cli.ExitUsage)
	}
	r, err := publish.Run(ctx, o)
	switch {
	case report.IsMisuse(err):
		err = cli.WithStatus(err, cli.ExitUsage)
	case report.IsPartly(err):
		err = cli.WithStatus(err, cli.ExitPartly)
	}
	if perr := printResult(stdout, cfg, r); perr != nil {
		err = errors.Join(err, perr)
	}
	if r.Closure.Paths > 0 || len(r.Outputs) > 0 {
		msg.Printf("%s", r.Text())
	}
	return err
}

// printResult prints what programs read.
func printResult(w io.Writer, cfg config, r *report.Publish) error {
	switch {
	case cfg.JSON:
		return cli.WriteJSON(w, r)
	case cfg.Matrix == matrix.Planning && r.Matrix != nil:
		text, err := r.Matrix.JSON()
		if err != nil {
			return err
		}
		if _, err := w.Write(text); err != nil {
			return fmt.Errorf("writing the matrix: %w", err)
		}
	case cfg.DryRun && cfg.Matrix != matrix.Planning:
		if _, err := io.WriteString(w, r.PlanText()); err != nil {
			return fmt.Errorf("writing the plan: %w", err)
		}
	}
	return nil
}

// options puts together what a run needs. An error is one of usage.
func options(cfg config, getenv func(string) string, stdin io.Reader, msg *ui.Messages, nixLog io.Writer) (publish.Options, error) {
	o := cfg.Options
	o.Messages, o.Job, o.Secrets = msg, ci.Detect(getenv), cli.Secrets(getenv)
	_, inURL := secret.Reference(cfg.Flake)
	o.Secrets.Add("the login in the flake's URL", inURL...)
	if cfg.Unsigned && cfg.KeyText != "" {
		msg.Warn(hint.Wrap(errors.New("NIX_SIGNING_KEY is set, and not used: --unsigned signs nothing"), "give the key only to the job that runs nixoci sign"))
		cfg.KeyText = ""
	}
	var err error
	o.Keys, err = cli.SigningKeys(cfg.KeyFiles, cfg.KeyText, getenv, o.Secrets, msg)
	if err != nil {
		return o, err
	}
	if o.Trusted, err = o.Keys.Trusted(cfg.TrustedKeys); err != nil {
		return o, err
	}
	o.Log = msg.Logger(cli.LogLevel(cfg.Verbose))
	own, _ := o.Job.Own(cfg.Cache)
	o.Repo, err = cli.OpenRepository(cfg.Cache, registry.Options{
		Push:     !cfg.DryRun && cfg.Matrix != matrix.Planning,
		Keychain: cli.Remember(cli.Keychain(getenv), o.Secrets),
		Advice:   own.Advice,
		Logger:   o.Log,
	})
	if err != nil {
		return o, err
	}
	if registry.Host(cfg.Cache) != "" {
		if o.Anonymous, err = cli.OpenRepository(cfg.Cache, registry.Options{Logger: o.Log}); err != nil {
			return o, err
		}
	}
	dir := cfg.CacheDir
	if cfg.DryRun {
		dir = "" // a dry run writes nothing anywhere
	}
	o.Index = index.Open(o.Repo, index.Options{Dir: dir, Logger: o.Log})
	for _, u := range cfg.UpstreamURLs {
		up, err := upstream.New(u, upstream.Options{Logger: o.Log})
		if err != nil {
			return o, err
		}
		o.Upstreams = append(o.Upstreams, up)
	}
	o.GitEnv = os.Environ()
	o.Nix = nix.New(nix.Options{Env: os.Environ(), Args: cfg.NixArgs, Stderr: nixLog, Logger: o.Log})
	if slices.Equal(cfg.Paths, []string{"-"}) {
		o.Paths, o.Input = nil, stdin
	}
	return o, nil
}
