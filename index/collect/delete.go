package collect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
)

// fewRoots is the number of old roots for whose sake alone no root is written.
const fewRoots = 8

const (
	// deleteJobs is how many manifests are deleted at once.
	deleteJobs = 8
	// lookJobs is how many are looked at at once.
	lookJobs = 16
)

// deleteReplaced deletes the manifests that were replaced long enough ago, and
// takes them off the root's list.
func (c *collection) deleteReplaced(ctx context.Context, p *Plan) error {
	s, _, err := c.cache.Adopt(ctx, index.AdoptOptions{}) // nixcache-oci may have come between
	if err != nil {
		return err
	}
	until := c.cache.Options().Now().Add(-p.opts.Delay) // without a delay also what this run has replaced
	old, waiting := deletable(s, until)
	c.Waiting = waiting
	untagged, err := c.untagged(ctx, s, until)
	if err != nil {
		return err
	}
	old = append(old, untagged...)
	if len(old) < fewRoots && !slices.ContainsFunc(old, func(r format.Retired) bool { return r.Tag != "" }) {
		return nil // a few old roots are not worth another one
	}
	// what replaces them must be there: else they are all that is left
	gone, err := c.cache.Unanswered(ctx, s.Segments())
	if err != nil {
		return err
	}
	if len(gone) > 0 {
		return fmt.Errorf("%d segments of the index have lost their tags; nothing is deleted", len(gone))
	}
	deleted, err := c.deleteAll(ctx, old)
	if len(deleted) > 0 {
		err = errors.Join(err, c.unlist(ctx, s, deleted))
	}
	return err
}

// deleteAll deletes in the order of time: what was replaced goes before what
// replaced it. It returns what is gone.
func (c *collection) deleteAll(ctx context.Context, old []format.Retired) (map[v1.Hash]bool, error) {
	deleted := map[v1.Hash]bool{}
	var mu sync.Mutex
	for len(old) > 0 {
		n := 1
		for n < len(old) && old[n].Since.Equal(old[0].Since) {
			n++
		}
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(deleteJobs)
		for _, r := range old[:n] {
			g.Go(func() error {
				err := c.cache.Repository().DeleteManifest(gctx, r.Tag, r.Manifest)
				mu.Lock()
				defer mu.Unlock()
				var refused *registry.RefusedError
				switch {
				case err == nil:
					deleted[r.Manifest] = true
					c.Deleted++
				case errors.As(err, &refused):
					c.Refused = append(c.Refused, Refusal{r, err})
					if refused.All {
						return err
					}
				default:
					return err
				}
				return nil
			})
		}
		err := g.Wait()
		old = old[n:]
		var refused *registry.RefusedError
		if errors.As(err, &refused) {
			c.refuse(old, err)
			return deleted, nil
		}
		if err != nil {
			return deleted, err
		}
	}
	return deleted, nil
}

// refuse records what need not be tried.
func (c *collection) refuse(rs []format.Retired, err error) {
	for _, r := range rs {
		c.Refused = append(c.Refused, Refusal{r, err})
	}
}

// unlist writes a root that does not list what was deleted.
func (c *collection) unlist(ctx context.Context, s *index.Snapshot, deleted map[v1.Hash]bool) error {
	w, err := c.writer(s)
	if err != nil {
		return err
	}
	return w.WriteRoot(ctx, deleted)
}

// untagged returns old roots and segments without a tag that no list has, where
// the registry shows them. Manifests of other programs are left alone.
func (c *collection) untagged(ctx context.Context, s *index.Snapshot, until time.Time) ([]format.Retired, error) {
	digests, err := c.cache.Repository().Untagged(ctx, until)
	if errors.As(err, new(*registry.RefusedError)) {
		return nil, nil // deletions are refused, too, and that will be reported
	}
	if err != nil || len(digests) == 0 {
		return nil, err
	}
	known := map[string]bool{s.Digest(): true}
	for _, r := range s.Retired() {
		known[r.Manifest.String()] = true
	}
	for _, seg := range s.Loaded() {
		known[seg.Info.Manifest.String()] = true
	}
	digests = slices.DeleteFunc(slices.Clone(digests), func(h v1.Hash) bool { return known[h.String()] })
	ours := make([]bool, len(digests))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(lookJobs)
	for i, h := range digests {
		g.Go(func() (err error) {
			ours[i], err = c.ours(ctx, h)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var old []format.Retired
	for i, h := range digests {
		if ours[i] {
			old = append(old, format.Retired{Manifest: h})
		}
	}
	return old, nil
}

// ours reports whether a manifest is a root or a segment.
func (c *collection) ours(ctx context.Context, digest v1.Hash) (bool, error) {
	m, err := c.cache.Repository().Manifest(ctx, digest.String())
	if errors.Is(err, registry.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	im, _, err := format.DecodeManifest(m.Raw)
	return err == nil && (im.ArtifactType == format.MediaRoot || im.ArtifactType == format.MediaSegment), nil
}
