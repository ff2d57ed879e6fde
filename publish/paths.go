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

// given returns the store paths that were given, and lets the stream know of
// each as soon as it is read.
// Links to store paths, such as ./result, are followed. An error beside them
// tells of those that are no store paths, or that the local store does not have.
func (p *publisher) given(ctx context.Context, s *stream) ([]root, error) {
	names := newQueue[string]()
	var readErr error
	if p.Input == nil {
		names.put(p.Paths...)
		names.close()
	} else {
		go func() { // which may wait for a line for ever
			readErr = readNames(p.Input, func(line []string) { names.put(line...) })
			names.close()
		}()
	}
	var roots []root
	var bad []error
	var missing []string
	seen := 0
	for {
		some := names.take(ctx)
		if len(some) == 0 {
			break
		}
		var paths []string
		for _, name := range some {
			path, err := storePath(name)
			if err != nil {
				bad = append(bad, err)
				continue
			}
			paths = append(paths, path)
		}
		seen += len(some)
		invalid, err := p.Nix.Invalid(ctx, paths)
		if err != nil {
			return nil, err
		}
		missing = append(missing, invalid...)
		paths = slices.DeleteFunc(paths, func(path string) bool {
			_, absent := slices.BinarySearch(invalid, path)
			return absent
		})
		for _, path := range paths {
			roots = append(roots, root{path: path})
		}
		s.want(paths)
		s.arrived(paths)
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case readErr != nil:
		return nil, readErr
	case seen == 0:
		p.Messages.Printf("no store paths were given, so there is nothing to publish")
	case len(roots)+len(missing) == 0:
		return nil, report.AsMisuse(errors.Join(bad...))
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		bad = append(bad, fmt.Errorf("looking for store paths: %w", &nix.InvalidPathsError{Paths: missing}))
	}
	return roots, errors.Join(bad...)
}

// readNames reads names that are separated by white space, and tells of those of
// each line. A line that is the name of a file as a whole is one name. Where
// nothing at all is written, the command that should have written has most likely
// failed.
func readNames(r io.Reader, tell func(names []string)) error {
	empty := true
	for lines := bufio.NewScanner(r); ; {
		if !lines.Scan() {
			err := lines.Err()
			if err == nil && empty {
				err = hint.Wrap(errors.New("nothing was written to standard input"),
					"has the command before the pipe failed? An empty line says that there are no paths")
			}
			if err != nil {
				err = fmt.Errorf("reading store paths: %w", err)
			}
			return err
		}
		empty = false
		line := strings.TrimSpace(lines.Text())
		if _, err := os.Lstat(line); err == nil {
			tell([]string{line})
		} else {
			tell(strings.Fields(line))
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
