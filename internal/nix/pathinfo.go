package nix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/org/nixoci-action/internal/storepath"
)

// maxPathInfoSize bounds what is read of path-info's output; a hundred
// thousand paths are some 100 MB.
const maxPathInfoSize = 4 << 30

// InvalidPathsError names the paths that the local store does not have.
type InvalidPathsError struct {
	// Paths are absolute store paths, sorted. There is at least one.
	Paths []string
}

func (e *InvalidPathsError) Error() string {
	const shown = 5
	if len(e.Paths) == 1 {
		return fmt.Sprintf("path %s is not in the local store", e.Paths[0])
	}
	s := strings.Join(e.Paths[:min(shown, len(e.Paths))], ", ")
	if n := len(e.Paths) - shown; n > 0 {
		s += fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("%d paths are not in the local store: %s", len(e.Paths), s)
}

// PathInfo returns what the local store records about paths, which are
// absolute store paths, and if recursive is true about everything in their
// closure. The result is sorted by path and holds each path once. It takes one
// Nix process, whatever the number of paths. If paths are missing from the
// store, the error wraps an *InvalidPathsError.
func (c *Client) PathInfo(ctx context.Context, paths []string, recursive bool) ([]PathInfo, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	paths = slices.Compact(slices.Sorted(slices.Values(paths)))
	if err := checkPaths(paths); err != nil {
		return nil, fmt.Errorf("reading path information: %w", err)
	}
	v, err := c.Version(ctx)
	if err != nil {
		return nil, err
	}
	cmd := command{program: "nix", args: []string{"path-info", "--json"}}
	if v.hasJSONFormat() {
		cmd.args = append(cmd.args, "--json-format", "1")
	}
	// A .drv among the arguments is its outputs where there is no --stdin.
	isDrv := func(p string) bool { return strings.HasSuffix(p, ".drv") }
	all := false
	switch {
	case v.hasStdin():
		cmd.args = append(cmd.args, "--stdin")
		cmd.stdin = strings.NewReader(strings.Join(paths, "\n") + "\n")
	case len(batches(paths)) == 1 && !slices.ContainsFunc(paths, isDrv):
		cmd.args = append(cmd.args, paths...)
	default: // the whole store, and the closure is found here
		all = true
		cmd.args = append(cmd.args, "--all")
	}
	if recursive && !all {
		cmd.args = append(cmd.args, "--recursive")
	}
	infos, invalid, err := c.pathInfo(ctx, cmd)
	if err == nil && all {
		infos, invalid = selectPaths(infos, paths, recursive)
	}
	var failed *CommandError
	if errors.As(err, &failed) { // with --recursive, Nix fails on a missing path
		missing, verr := c.Invalid(ctx, paths)
		if verr != nil {
			return nil, fmt.Errorf("reading path information: %w", errors.Join(err, verr))
		}
		if invalid = missing; len(invalid) > 0 {
			err = nil
		}
	}
	if err == nil && len(invalid) > 0 {
		err = &InvalidPathsError{Paths: invalid}
	}
	if err != nil {
		return nil, fmt.Errorf("reading path information: %w", err)
	}
	return infos, nil
}

func (c *Client) pathInfo(ctx context.Context, cmd command) (infos []PathInfo, invalid []string, err error) {
	// Nix's message goes into the error; for a missing path that is not
	// an error here, the live log stays clean.
	cmd.quiet = true
	err = c.run(ctx, cmd, func(r io.Reader) (err error) {
		infos, invalid, err = ParsePathInfo(r, "")
		return err
	})
	return infos, invalid, err
}

// selectPaths returns those of infos that are among paths, or in their
// closure, and the paths that infos lacks.
func selectPaths(infos []PathInfo, paths []string, closure bool) (selected []PathInfo, missing []string) {
	byPath := make(map[string]int, len(infos))
	for i := range infos {
		byPath[infos[i].Path] = i
	}
	seen := make(map[string]bool, len(paths))
	todo := slices.Clone(paths)
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[p] {
			continue
		}
		seen[p] = true
		i, ok := byPath[p]
		if !ok {
			missing = append(missing, p)
			continue
		}
		selected = append(selected, infos[i])
		if closure {
			todo = append(todo, infos[i].References...)
		}
	}
	slices.SortFunc(selected, func(a, b PathInfo) int { return strings.Compare(a.Path, b.Path) })
	slices.Sort(missing)
	return selected, missing
}

// checkPaths makes sure that every path is a store path and nothing that Nix
// would take for an option or another installable.
func checkPaths(paths []string) error {
	for _, s := range paths {
		if _, err := storepath.Parse(s); err != nil {
			return err
		}
	}
	return nil
}
