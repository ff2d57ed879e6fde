package inspect

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/page"
)

// inspect reads the cache and shows what cfg asks for.
func inspect(ctx context.Context, cfg config, getenv func(string) string, stdout, stderr io.Writer) error {
	msg := ui.New(stderr, getenv)
	snap, err := read(ctx, cfg, getenv, msg)
	if err != nil {
		return err
	}
	p := page.New(page.Options{Snapshot: func() *index.Snapshot { return snap }, Cache: cfg.cache, Version: cli.Version()})
	switch {
	case cfg.export != "":
		return export(ctx, cfg, p, msg, stdout)
	case cfg.query != "":
		return showPath(ctx, cfg, p, stdout)
	}
	s, err := p.Summary(ctx)
	if err != nil {
		return err
	}
	return print(stdout, cfg.json, &s, func() string { return summaryText(s) })
}

// read reads the index, the tag list included.
func read(ctx context.Context, cfg config, getenv func(string) string, msg *ui.Messages) (*index.Snapshot, error) {
	log := msg.Logger(cli.LogLevel(cfg.verbose))
	repo, err := cli.OpenRepository(cfg.cache, registry.Options{
		Keychain: cli.Keychain(getenv),
		Logger:   log,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.deadline, fmt.Errorf("the registry did not answer within %s", cli.FormatDuration(cfg.deadline)))
	defer cancel()
	snap, err := index.Open(repo, index.Options{Dir: cfg.cacheDir, Logger: log}).Sweep(ctx)
	switch {
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, context.Cause(ctx)
	case errors.As(err, new(*format.TooNewError)):
		return nil, hint.Wrap(err, "use a newer version of nixoci-action")
	case err == nil && snap.Absent():
		return nil, cli.NoCache(repo.String())
	}
	return snap, err
}

// showPath shows the store path that is meant, or the list of those that may
// be.
func showPath(ctx context.Context, cfg config, p *page.Page, stdout io.Writer) error {
	found, count, err := p.Find(ctx, cfg.query)
	if err != nil {
		return err
	}
	switch {
	case count == 0:
		return hint.Wrap(fmt.Errorf("the cache has no store path %q", cfg.query), "part of a name is enough: try less of it")
	case count > 1:
		list := pathList{Count: count, Paths: found}
		return print(stdout, cfg.json, &list, func() string { return listText(list) })
	}
	r, err := p.Path(ctx, found[0])
	if err != nil {
		return err
	}
	return print(stdout, cfg.json, &r, func() string { return pathText(r) })
}

// pathList is the answer to a name that several store paths have.
type pathList struct {
	Count int                `json:"count"`
	Paths []page.PathSummary `json:"paths"`
}

func print(w io.Writer, asJSON bool, result any, text func() string) error {
	if asJSON {
		return cli.WriteJSON(w, result)
	}
	if _, err := io.WriteString(w, ui.Text(text())); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}
