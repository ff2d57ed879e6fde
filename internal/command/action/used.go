package action

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/internal/retry"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/internal/ui"
)

// How long and how often the proxy is asked what it has.
const (
	usedTries = 3
	usedPause = 500 * time.Millisecond
	usedLimit = time.Minute // for all paths
)

// used returns those of the paths that the job may have taken from the cache:
// those that the proxy has, and those of which it does not say. What the cache
// has and nobody uses, a collection may remove.
func (s *session) used(ctx context.Context, paths []string) []string {
	if s.state.URL == "" {
		return nil // nothing could be taken from it
	}
	ctx, cancel := context.WithTimeout(ctx, usedLimit)
	defer cancel()
	var mu sync.Mutex
	var used []string
	unknown, why := 0, error(nil)
	var g errgroup.Group
	g.SetLimit(16)
	for _, p := range paths {
		parsed, err := storepath.Parse(p)
		if err != nil {
			continue // no cache has it
		}
		g.Go(func() error {
			has, err := s.has(ctx, parsed.HashPart)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				unknown, why = unknown+1, err
			}
			if has || err != nil {
				used = append(used, p)
			}
			return nil
		})
	}
	_ = g.Wait() // none fails
	if unknown > 0 {
		s.msg.Warn(fmt.Errorf("it could not be found out of %s whether the job took them from the cache, so they count as if it had: %w", ui.Count(unknown, "path"), why))
	}
	slices.Sort(used)
	return used
}

// has reports whether the proxy has a store path.
func (s *session) has(ctx context.Context, hashPart string) (bool, error) {
	for try := 1; ; try++ {
		status, _, err := s.ask(ctx, http.MethodHead, "/"+hashPart+".narinfo")
		switch {
		case err == nil && status == http.StatusOK:
			return true, nil
		case err == nil && status == http.StatusNotFound:
			return false, nil
		case err == nil:
			err = fmt.Errorf("asking the proxy: got the status %d", status)
		}
		if try == usedTries || retry.Sleep(ctx, retry.Spread(usedPause)) != nil {
			return false, err
		}
	}
}
