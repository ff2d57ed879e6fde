package publish

import (
	"bufio"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/report"
)

// given returns the store paths that were given.
// Links to store paths, such as ./result, are followed. An error beside them
// tells of paths that the local store does not have.
func (p *publisher) given(ctx context.Context) ([]root, error) {
	names := p.Paths
	if p.Input != nil {
		lines := bufio.NewScanner(p.Input)
		for lines.Scan() {
			if name := strings.TrimSpace(lines.Text()); name != "" {
				names = append(names, name)
			}
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("reading store paths: %w", err)
		}
	}
	if len(names) == 0 {
		p.Messages.Printf("no store paths were given, so there is nothing to publish")
	}
	var paths []string
	for _, name := range names {
		path, err := storePath(name)
		if err != nil {
			return nil, report.AsMisuse(err)
		}
		paths = append(paths, path)
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
		return roots, fmt.Errorf("looking for store paths: %w", &nix.InvalidPathsError{Paths: missing})
	}
	return roots, nil
}

// storePath returns the store path that name is or leads to. A path below a
// store path stands for the whole.
func storePath(name string) (string, error) {
	if _, err := storepath.Parse(name); err == nil {
		return name, nil
	}
	target, err := filepath.EvalSymlinks(name)
	if err != nil {
		if ref := discover.NoAttribute(name); ref != nil { // as nix build takes it
			return "", ref
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
