package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/proxy"
)

// opener opens what the proxy serves.
type opener struct {
	config
	getenv func(string) string
	log    *slog.Logger
}

// service is all that the configuration names.
func (o opener) service() (proxy.Service, error) {
	home, err := o.home()
	if err != nil || len(o.allow) == 0 {
		return home, err
	}
	many := newMany(o)
	return proxy.NewRouter(proxy.RouterOptions{
		Allow:       o.allow,
		Open:        many.open,
		Verify:      many.verify,
		Home:        home,
		Version:     cli.Version(),
		Refresh:     o.refresh,
		IndexMemory: o.indexMemory,
		Logger:      o.log,
	})
}

// home is what --cache names; nil if it names nothing.
func (o opener) home() (proxy.Service, error) {
	if len(o.caches) == 0 {
		return nil, nil
	}
	up := proxy.Options{Version: cli.Version(), Upstreams: o.upstream, UpstreamNARs: proxy.UpstreamNARs(o.upstreamNARs), Logger: o.log}
	if len(o.caches) == 1 {
		return o.named(o.caches[0], up)
	}
	var servers []*proxy.Server
	for _, cache := range o.caches {
		s, err := o.named(cache, proxy.Options{Version: cli.Version(), Logger: o.log.With("cache", cache)})
		if err != nil {
			return nil, err
		}
		servers = append(servers, s)
	}
	return proxy.NewUnion(servers, up)
}

// named opens a cache of --cache, with the proxy's own credentials.
func (o opener) named(cache string, p proxy.Options) (*proxy.Server, error) {
	keychain := cli.HostKeychain()
	if registry.Host(cache) == registry.Host(o.caches[0]) {
		keychain = cli.Keychain(o.getenv) // the variables' login is one registry's
	}
	repo, err := registry.Open(cache, registry.Options{
		Keychain:  keychain,
		UserAgent: userAgent(),
		// no Logger: what the proxy says about a failure is enough; each of its
		// retries, for each of many paths, would bury it
	})
	if err != nil {
		return nil, err
	}
	p.Index = index.Open(repo, index.Options{Dir: o.cacheDir, Logger: p.Logger})
	p.Blobs, p.Cache, p.Refresh = repo, cache, o.refresh
	return proxy.New(p)
}

func userAgent() string { return "nixoci-proxy/" + cli.Version() }

// many opens the caches that clients name. Nothing of them is kept on disk,
// where it would outlive the credentials with which it was read, and nothing
// is read from there: what the proxy's user once published or read himself is
// not for those who ask the proxy.
type many struct {
	opener
	// connections are shared by all repositories: to registries named in full,
	// and to others
	trusted, public http.RoundTripper
}

func newMany(o opener) *many {
	return &many{o, registry.NewTransport(false), registry.NewTransport(true)}
}

func (m *many) repository(a proxy.Access) (registry.Repository, error) {
	o := registry.Options{Transport: m.public, UserAgent: userAgent()}
	var keychain authn.Keychain // anonymous
	if a.Named {
		o.Transport = m.trusted
	}
	switch {
	case a.Credentials != nil:
		keychain = cli.Password(a.Credentials.User, a.Credentials.Password)
	case m.ownCredentials && a.Named:
		keychain = cli.HostKeychain() // not NIXOCI_USERNAME: it is for one registry
	}
	o.Keychain = keychain
	return registry.Open(a.Cache, o)
}

func (m *many) open(a proxy.Access) (*proxy.Server, error) {
	repo, err := m.repository(a)
	if err != nil {
		return nil, err
	}
	log := m.log.With("cache", a.Cache)
	return proxy.New(proxy.Options{
		Index:   index.Open(repo, index.Options{Logger: log, Reserve: a.Reserve}),
		Blobs:   repo,
		Cache:   a.Cache,
		Version: cli.Version(),
		Refresh: m.refresh,
		Logger:  log,
	})
}

// verify makes a connection of its own: a token that was given to an earlier
// one may be valid for longer than the credentials are.
func (m *many) verify(ctx context.Context, a proxy.Access) error {
	repo, err := m.repository(a)
	if err != nil {
		return err
	}
	if _, err := repo.Resolve(ctx, index.RootTag); err != nil {
		return fmt.Errorf("verifying access to %s: %w", a.Cache, err)
	}
	return nil
}
