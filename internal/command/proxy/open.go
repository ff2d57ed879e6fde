package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/secret"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/proxy"
	"github.com/org/nixoci-action/proxy/blobs"
	"github.com/org/nixoci-action/proxy/many"
)

// opener opens what the proxy serves, and remembers what it has opened.
type opener struct {
	config
	getenv  func(string) string
	msg     *ui.Messages
	log     *slog.Logger
	metrics *proxy.Metrics
	secrets *secret.Set // not to be in what is pushed

	page *cachePage // nil for none

	one   *proxy.Server         // if --cache names one cache
	repos []registry.Repository // of --cache
	disk  *blobs.Disk           // nil if NARs are not kept
}

// close gives back what service has opened.
func (o *opener) close() error {
	if o.disk == nil {
		return nil
	}
	return o.disk.Close()
}

// service is all that the configuration names.
func (o *opener) service(ctx context.Context) (proxy.Service, error) {
	home, err := o.home(ctx)
	if err != nil || len(o.allow) == 0 {
		return home, err
	}
	named := newClientCaches(o)
	return many.NewRouter(many.RouterOptions{
		Allow:       o.allow,
		Open:        named.open,
		Verify:      named.verify,
		Home:        home,
		Version:     cli.Version(),
		Refresh:     o.refresh,
		IndexMemory: o.indexMemory,
		Logger:      o.log,
	})
}

// home is what --cache names; nil if it names nothing.
func (o *opener) home(ctx context.Context) (proxy.Service, error) {
	if len(o.caches) == 0 {
		return nil, nil
	}
	up := proxy.Options{Version: cli.Version(), Upstreams: o.upstream, UpstreamNARs: proxy.UpstreamNARs(o.upstreamNARs), Metrics: o.metrics, Logger: o.log}
	if len(o.caches) == 1 {
		if o.page != nil {
			up.Page = o.page
		}
		one, err := o.named(ctx, o.caches[0], up)
		if err != nil {
			return nil, err
		}
		o.one = one
		return one, nil
	}
	var servers []*proxy.Server
	for _, cache := range o.caches {
		s, err := o.named(ctx, cache, proxy.Options{Version: cli.Version(), Metrics: o.metrics, Logger: o.log.With("cache", cache)})
		if err != nil {
			return nil, err
		}
		servers = append(servers, s)
	}
	return many.NewUnion(servers, up)
}

// named opens a cache of --cache, with the proxy's own credentials.
func (o *opener) named(ctx context.Context, cache string, p proxy.Options) (*proxy.Server, error) {
	keychain := cli.HostKeychain(o.getenv)
	if registry.Host(cache) == registry.Host(o.caches[0]) {
		keychain = cli.Keychain(o.getenv) // the variables' login is one registry's
	}
	repo, err := cli.OpenRepository(cache, registry.Options{
		Keychain: cli.Remember(keychain, o.secrets),
		Push:     o.allowPush,
		// no Logger: what the proxy says about a failure is enough; each of its
		// retries, for each of many paths, would bury it
	})
	if err != nil {
		return nil, err
	}
	idx := index.Open(repo, index.Options{Dir: o.cacheDir, TrustedKeys: o.trusted, Logger: p.Logger})
	p.TrustedKeys = o.trusted
	if p.Push, err = o.receiver(ctx, idx, cache, repo, p.Logger); err != nil {
		return nil, err
	}
	p.Index = idx
	p.Blobs, p.Cache, p.Refresh = repo, cache, o.refresh
	o.repos = append(o.repos, repo)
	if o.redirect {
		p.Redirect, _ = repo.(proxy.Redirector) // every registry is one; see validate
	}
	if o.narCache > 0 {
		if p.Blobs, err = o.kept(repo); err != nil {
			return nil, err
		}
	}
	return proxy.New(p)
}

// kept keeps on disk what is read from a repository. All caches of --cache share
// the directory: whoever reaches the proxy may read them all.
func (o *opener) kept(repo registry.Repository) (blobs.Store, error) {
	if o.disk != nil {
		return o.disk.From(repo), nil
	}
	disk, err := blobs.OpenDisk(repo, blobs.DiskOptions{Dir: filepath.Join(o.cacheDir, "blobs"), MaxSize: o.narCache, Logger: o.log})
	if err != nil {
		return nil, err
	}
	o.disk = disk
	return disk, nil
}

// reload takes what has changed outside: who we are to the registries, and what
// the caches hold.
func (o *opener) reload(ctx context.Context, s proxy.Service) error {
	for _, repo := range o.repos {
		if r, ok := repo.(interface{ Renew() }); ok {
			r.Renew()
		}
	}
	return s.Refresh(ctx)
}

// clientCaches opens the caches that clients name. Nothing of them is kept on disk,
// where it would outlive the credentials with which it was read, and nothing
// is read from there: what the proxy's user once published or read himself is
// not for those who ask the proxy.
type clientCaches struct {
	*opener
	// connections are shared by all repositories: to registries named in full,
	// and to others
	trusted, public http.RoundTripper
}

func newClientCaches(o *opener) *clientCaches {
	return &clientCaches{o, registry.NewTransport(false), registry.NewTransport(true)}
}

func (c *clientCaches) repository(a many.Access) (registry.Repository, error) {
	o := registry.Options{Transport: c.public}
	var keychain authn.Keychain // anonymous
	if a.Named {
		o.Transport = c.trusted
	}
	switch {
	case a.Credentials != nil:
		keychain = cli.Password(a.Credentials.User, a.Credentials.Password)
	case c.ownCredentials && a.Named:
		keychain = cli.HostKeychain(c.getenv) // not NIXOCI_USERNAME: it is for one registry
	}
	o.Keychain = keychain
	return cli.OpenRepository(a.Cache, o)
}

func (c *clientCaches) open(a many.Access) (*proxy.Server, error) {
	repo, err := c.repository(a)
	if err != nil {
		return nil, err
	}
	log := c.log.With("cache", a.Cache)
	o := proxy.Options{
		Index:   index.Open(repo, index.Options{Logger: log, Reserve: a.Reserve}),
		Blobs:   repo,
		Cache:   a.Cache,
		Version: cli.Version(),
		Refresh: c.refresh,
		Metrics: c.metrics,
		Logger:  log,
	}
	if c.redirect {
		o.Redirect, _ = repo.(proxy.Redirector)
	}
	return proxy.New(o)
}

// verify makes a connection of its own: a token that was given to an earlier
// one may be valid for longer than the credentials are.
func (c *clientCaches) verify(ctx context.Context, a many.Access) error {
	repo, err := c.repository(a)
	if err != nil {
		return err
	}
	if _, err := repo.Resolve(ctx, format.RootTag); err != nil {
		return fmt.Errorf("verifying access to %s: %w", a.Cache, err)
	}
	return nil
}
