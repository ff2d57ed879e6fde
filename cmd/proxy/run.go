package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/httpd"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/proxy"
)

func run(ctx context.Context, args []string, getenv func(string) string, _ io.Reader, stdout, stderr io.Writer) int {
	c, err := parseConfig(args, getenv)
	if err == nil {
		err = serve(ctx, c, getenv, stdout, stderr)
	}
	return cli.Report(ctx, err, getenv, stdout, stderr)
}

// serve returns nil when ctx is cancelled: that is how a proxy ends.
func serve(ctx context.Context, c config, getenv func(string) string, stdout, stderr io.Writer) (err error) {
	m := ui.New(stderr, getenv)
	log := m.Logger(slog.LevelInfo)
	repo, err := registry.Open(c.cache, registry.Options{
		Keychain:  cli.Keychain(getenv),
		UserAgent: "nixoci-proxy/" + cli.Version(),
		// no Logger: what the proxy says about a failure is enough; each of its
		// retries, for each of many paths, would bury it
	})
	if err != nil {
		return err
	}
	o := proxy.Options{
		Index:     index.Open(repo, index.Options{Dir: c.cacheDir, Logger: log}),
		Blobs:     repo,
		Cache:     c.cache,
		Version:   cli.Version(),
		Upstreams: c.upstream,
		Refresh:   c.refresh,
		Logger:    log,
	}
	if c.redirect {
		o.Redirect = repo.(proxy.Redirector) // every registry is; see validate
	}
	var disk *proxy.DiskBlobs
	if c.narCache > 0 {
		if disk, err = proxy.OpenDiskBlobs(repo, proxy.DiskOptions{Dir: filepath.Join(c.cacheDir, "blobs"), MaxSize: c.narCache, Logger: log}); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, disk.Close()) }()
		o.Blobs = disk
	}
	s, err := proxy.New(o)
	if err != nil {
		return err
	}
	access, err := openAccessLog(c, stderr, log)
	if err != nil {
		return err
	}
	defer access.Close()
	reloads := make(chan os.Signal, 1)
	signal.Notify(reloads, syscall.SIGHUP)
	defer signal.Stop(reloads)
	srv, err := newService(c, httpd.Options{
		Handler:    s,
		AccessLog:  access,
		Reloads:    reloads,
		Reload:     func(ctx context.Context) error { return reload(ctx, s, repo) },
		Supervisor: httpd.NewSupervisor(getenv),
		Logger:     log,
	}, measured(s, repo, disk))
	if err != nil {
		return err
	}
	// Listening comes before reading: a port that is taken should not wait for
	// the registry, and a client that comes early waits instead of being refused.
	listeners, err := listen(c, getenv)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return srv.Serve(ctx, listeners) })
	g.Go(func() error {
		if err := s.Prepare(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			m.Warn(err)
		}
		status, err := announce(s, c, listeners, stdout, m)
		if err != nil {
			return err
		}
		srv.Ready(status)
		s.Run(ctx)
		return nil
	})
	return g.Wait()
}

// announce tells that the proxy serves from now on, and returns the same for
// the service manager. What it writes to standard output is text for nix.conf
// and nothing else, in one write, so that a script can wait for it.
func announce(s *proxy.Server, c config, listeners []net.Listener, stdout io.Writer, m *ui.Messages) (status string, err error) {
	url := ""
	for _, l := range listeners {
		addr, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			continue // Nix speaks TCP only
		}
		if url == "" {
			url = clientURL(addr, c.tlsCert != "")
		}
		if !addr.IP.IsLoopback() {
			m.Warn(fmt.Errorf("everybody who reaches %s can read the cache", addr))
		}
	}
	keys := s.Config().PublicKeys
	if len(keys) == 0 && s.Len() > 0 {
		m.Warn(hint.Wrap(errors.New("the cache has no public key; Nix takes its paths only if they carry a signature it trusts"),
			"publish with --sign-key-file, or, if you trust everybody who can write to the cache, append ?trusted=1 to the substituter"))
	}
	if url == "" {
		m.Printf("ready: %d store paths of %s on %s", s.Len(), c.cache, listeners[0].Addr())
		return "serving " + c.cache, nil
	}
	lines := "extra-substituters = " + url + "\n"
	if len(keys) > 0 {
		lines += "extra-trusted-public-keys = " + strings.Join(keys, " ") + "\n"
	}
	m.Printf("ready: %d store paths of %s on %s", s.Len(), c.cache, url)
	_, err = io.WriteString(stdout, lines)
	return "serving " + c.cache + " on " + url, err
}

// clientURL is where programs on this machine reach the proxy. It has no slash
// at its end, as in most configurations: Nix keeps what it learns by URL.
func clientURL(addr *net.TCPAddr, tls bool) string {
	host := addr.IP.String()
	if addr.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	scheme := "http://"
	if tls {
		scheme = "https://"
	}
	return scheme + net.JoinHostPort(host, fmt.Sprint(addr.Port))
}
