package closure

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/storepath"
)

// globs are patterns in the syntax of path.Match.
type globs []string

func parseGlobs(patterns []string) (globs, error) {
	var errs []error
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			errs = append(errs, fmt.Errorf("glob %q: %w", p, err))
		} else if strings.Contains(p, "/") {
			err := fmt.Errorf("glob %q has a slash and matches no store path name", p)
			errs = append(errs, hint.Wrap(err, "give the name only, such as 'hello-*', without the store directory"))
		}
	}
	return patterns, errors.Join(errs...)
}

// match returns the first pattern that matches the path's name or base name,
// or "".
func (g globs) match(p storepath.Path) string {
	for _, pattern := range g {
		for _, s := range [...]string{p.Name, p.Base()} {
			if ok, _ := path.Match(pattern, s); ok { // patterns were checked
				return pattern
			}
		}
	}
	return ""
}
