package inspect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/page"
)

// marker is a file in each folder that an export has made: only such a folder
// is replaced.
const marker = ".nixoci-export"

// pagesLimit is what GitHub Pages takes, in bytes.
const pagesLimit = 1_000_000_000

// export writes the pages beside the folder that is asked for, and then puts
// them in its place.
func export(ctx context.Context, cfg config, p *page.Page, msg *ui.Messages, stdout io.Writer) (err error) {
	dir, err := filepath.Abs(cfg.export)
	if err != nil {
		return fmt.Errorf("finding the folder %q: %w", cfg.export, err)
	}
	if err := replaceable(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // it is for a web server
		return fmt.Errorf("making the folder for the pages: %w", err)
	}
	fresh, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+"-")
	if err != nil {
		return fmt.Errorf("making a folder beside %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(fresh)) }()
	done, err := p.Export(ctx, func(name string, body []byte) error { return write(fresh, name, body) })
	if err != nil {
		return err
	}
	if err := write(fresh, marker, nil); err != nil {
		return err
	}
	if err := exchange(fresh, dir); err != nil {
		return fmt.Errorf("putting the pages into %s: %w", dir, err)
	}
	msg.Printf("%s, %s in %s", ui.Count(done.Files, "file"), ui.Bytes(done.Size), dir)
	if done.Size > pagesLimit {
		msg.Warn(fmt.Errorf("GitHub Pages takes no more than %s", ui.Bytes(pagesLimit)))
	}
	if cfg.json {
		return cli.WriteJSON(stdout, done)
	}
	return nil
}

// replaceable refuses a folder that has something in it which no export has
// made.
func replaceable(dir string) error {
	list, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking into %s: %w", dir, err)
	case len(list) == 0:
		return nil
	}
	if _, err := os.Lstat(filepath.Join(dir, marker)); err != nil {
		return hint.Wrap(fmt.Errorf("%s is not empty, and no export has made it", dir), "name a folder that is not there yet")
	}
	return nil
}

func write(dir, name string, body []byte) error {
	file := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // it is for a web server
		return err
	}
	return os.WriteFile(file, body, 0o644) //nolint:gosec // so is this
}

// exchange puts fresh in the place of dir, of which nothing is left. If that
// fails dir is as it was.
func exchange(fresh, dir string) error {
	if err := os.Chmod(fresh, 0o755); err != nil { //nolint:gosec // it is for a web server
		return err
	}
	old := fresh + "-old"
	moved := os.Rename(dir, old)
	if moved != nil && !errors.Is(moved, fs.ErrNotExist) {
		return moved
	}
	err := os.Rename(fresh, dir)
	if err != nil && moved == nil {
		err = errors.Join(err, os.Rename(old, dir))
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(old)
}
