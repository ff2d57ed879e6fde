package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/ghpackages"
)

// packages deletes on ghcr.io, which answers 405 itself: there a manifest is a
// version of a package, which GitHub's API deletes by its number.
type packages struct {
	remote *remote

	turn     chan struct{} // holds a token during the use of what follows, and a listing
	client   *ghpackages.Client
	versions map[string]ghpackages.Version // by digest; nil until they are listed
	listed   time.Time
}

// freshListing is the age at which a listing does not answer any more for what
// it lacks: nothing that is deleted is so young.
const freshListing = time.Minute

func newPackages(r *remote) *packages { return &packages{remote: r, turn: make(chan struct{}, 1)} }

// lock may have to wait for a listing.
func (p *packages) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case p.turn <- struct{}{}:
		return func() { <-p.turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// delete deletes a version with its tags. Without a tag, only if it has none:
// it may have got one since it was listed.
func (p *packages) delete(ctx context.Context, tag string, digest v1.Hash) error {
	v, ok, err := p.find(ctx, digest)
	if err == nil && !ok {
		return p.unlisted(ctx, digest, nil)
	}
	if err == nil && tag == "" {
		err = p.checkUntagged(ctx, v)
	}
	if err == nil {
		err = p.client.Delete(ctx, v.ID)
	}
	switch {
	case err == nil:
		if unlock, err := p.lock(ctx); err == nil {
			delete(p.versions, digest.String())
			unlock()
		}
		return nil
	case errors.Is(err, ghpackages.ErrNotFound):
		return p.unlisted(ctx, digest, err)
	}
	return fmt.Errorf("deleting manifest %s: %w", digest, refusedBy(err))
}

// unlisted decides about a manifest that GitHub does not list, or of a package
// that it does not show: it is gone if the registry does not have it either.
func (p *packages) unlisted(ctx context.Context, digest v1.Hash, err error) error {
	_, look := p.remote.Resolve(ctx, digest.String())
	switch {
	case errors.Is(look, ErrNotFound):
		return nil
	case look != nil:
		err = look
	case err == nil:
		err = &RefusedError{Reason: "GitHub does not list it among the package's versions", Remedy: "try again later"}
	}
	return fmt.Errorf("deleting manifest %s: %w", digest, refusedBy(err))
}

func (p *packages) checkUntagged(ctx context.Context, v ghpackages.Version) error {
	now, err := p.client.Version(ctx, v.ID)
	if err == nil && len(now.Tags) > 0 {
		err = &RefusedError{Reason: fmt.Sprintf("it has the tag %q now", now.Tags[0])}
	}
	return err
}

// untagged lists the versions without a tag that have not changed lately.
func (p *packages) untagged(ctx context.Context, before time.Time) ([]v1.Hash, error) {
	unlock, err := p.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if p.versions == nil {
		err := p.list(ctx)
		if errors.Is(err, ghpackages.ErrNotFound) {
			if tags, look := p.remote.Tags(ctx); look == nil && len(tags) == 0 {
				return nil, nil // there is no package yet
			}
		}
		if err != nil {
			return nil, fmt.Errorf("listing untagged manifests: %w", refusedBy(err))
		}
	}
	var digests []v1.Hash
	for _, v := range p.versions {
		if len(v.Tags) > 0 || !v.Changed.Before(before) {
			continue
		}
		if digest, err := v1.NewHash(v.Digest); err == nil {
			digests = append(digests, digest)
		}
	}
	return digests, nil
}

// find returns the version that a digest is.
func (p *packages) find(ctx context.Context, digest v1.Hash) (ghpackages.Version, bool, error) {
	unlock, err := p.lock(ctx)
	if err != nil {
		return ghpackages.Version{}, false, err
	}
	defer unlock()
	v, ok := p.versions[digest.String()]
	if !ok && time.Since(p.listed) > freshListing {
		if err := p.list(ctx); err != nil {
			return v, false, err
		}
		v, ok = p.versions[digest.String()]
	}
	return v, ok, nil
}

// list asks GitHub for all versions.
func (p *packages) list(ctx context.Context) error {
	if err := p.open(); err != nil {
		return err
	}
	all, err := p.client.Versions(ctx)
	if err != nil {
		return err
	}
	p.versions, p.listed = make(map[string]ghpackages.Version, len(all)), time.Now()
	for _, v := range all {
		p.versions[v.Digest] = v
	}
	return nil
}

func (p *packages) open() (err error) {
	if p.client == nil {
		o := p.remote.opts
		p.client, err = ghpackages.New(p.remote.repo.RepositoryStr(), ghpackages.Options{
			API: o.GitHubAPI, Token: p.token, Transport: o.Transport, UserAgent: o.UserAgent, Logger: o.Logger,
		})
	}
	return err
}

// token is what one logs in to ghcr.io with: "" if one does not.
func (p *packages) token(ctx context.Context) (string, error) {
	auth, err := p.remote.credentials(ctx)
	if err != nil {
		return "", err
	}
	cfg, err := authn.Authorization(ctx, auth)
	if err != nil {
		return "", fmt.Errorf("reading the registry's credentials: %w", err)
	}
	return cfg.Password, nil
}

// refusedBy makes a *RefusedError of GitHub's.
func refusedBy(err error) error {
	var refused *ghpackages.RefusedError
	if !errors.As(err, &refused) {
		return err
	}
	return &RefusedError{All: refused.All, Reason: refused.Reason, Remedy: refused.Remedy, Err: err}
}
