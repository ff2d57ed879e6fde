package publish

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/report"
)

// given returns the store paths that were given.
// Links to store paths, such as ./result, are followed. An error beside them
// tells of those that are no store paths, or that the local store does not have.
func (p *publisher) given(ctx context.Context) ([]root, error) {
	names := p.Paths
	if p.Input != nil {
		var err error
		if names, err = readNames(p.Input); err != nil {
			return nil, err
		}
	}
	if len(names) == 0 {
		p.Messages.Printf("no store paths were given, so there is nothing to publish")
	}
	var paths []string
	var bad []error
	for _, name := range names {
		path, err := storePath(name)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		paths = append(paths, path)
	}
	if len(paths) == 0 {
		return nil, report.AsMisuse(errors.Join(bad...))
	}
	missing, err := p.Nix.Invalid(ctx, paths)
	if err != nil {
		return nil, err
	}
	var roots []root
	for _, path := range paths {
		if _, absent := slices.BinarySearch(missing, path); !absent {
			roots = append(roots, root{path: path})
		}
	}
	if len(missing) > 0 {
		bad = append(bad, fmt.Errorf("looking for store paths: %w", &nix.InvalidPathsError{Paths: missing}))
	}
	return roots, errors.Join(bad...)
}

// readNames reads names that are separated by white space. A line that is the
// name of a file as a whole is one name. Where nothing at all is written, the
// command that should have written has most likely failed.
func readNames(r io.Reader) (names []string, err error) {
	empty := true
	for lines := bufio.NewScanner(r); ; {
		if !lines.Scan() {
			if err = lines.Err(); err == nil && empty {
				err = hint.Wrap(errors.New("nothing was written to standard input"),
					"has the command before the pipe failed? An empty line says that there are no paths")
			}
			if err != nil {
				err = fmt.Errorf("reading store paths: %w", err)
			}
			return names, err
		}
		empty = false
		line := strings.TrimSpace(lines.Text())
		if _, err := os.Lstat(line); err == nil {
			names = append(names, line)
		} else {
			names = append(names, strings.Fields(line)...)
		}
	}
}

// storePath returns the store path that name is or leads to. A path below a
// store path stands for the whole.
func storePath(name string) (string, error) {
	if _, err := storepath.Parse(name); err == nil {
		return name, nil
	}
	target, err := filepath.EvalSymlinks(name)
	if err != nil {
		if strings.Contains(name, "#") { // as nix build takes it
			flake, _, _ := strings.Cut(name, "^")
			return "", hint.Wrap(fmt.Errorf("%q is no store path, but a flake reference", name), "give --flake "+flake)
		}
		return "", fmt.Errorf("%q is no store path: %w", name, err)
	}
	for dir := target; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		if _, err := storepath.Parse(dir); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%q is no store path, and no link to one", name)
}
