package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/proxy"
)

func run(ctx context.Context, args []string, getenv func(string) string, _ io.Reader, stdout, stderr io.Writer) int {
	c, err := parseConfig(args, getenv)
	if err == nil {
		err = serve(ctx, c, getenv, stdout, ui.New(stderr, getenv))
	}
	return cli.Report(ctx, err, getenv, stdout, stderr)
}

// serve returns nil when ctx is cancelled: that is how a proxy ends.
func serve(ctx context.Context, c config, getenv func(string) string, stdout io.Writer, m *ui.Messages) error {
	log := m.Logger(slog.LevelInfo)
	if c.understood != "" {
		m.Printf("%s", c.understood)
	}
	repo, err := registry.Open(c.cache, registry.Options{
		Keychain:  cli.Keychain(getenv),
		UserAgent: "nixoci-proxy/" + cli.Version(),
		// no Logger: what the proxy says about a failure is enough; each of its
		// retries, for each of many paths, would bury it
	})
	if err != nil {
		return err
	}
	s, err := proxy.New(proxy.Options{
		Index:     index.Open(repo, index.Options{Dir: c.cacheDir, Logger: log}),
		Blobs:     repo,
		Cache:     c.cache,
		Version:   cli.Version(),
		Upstreams: c.upstream,
		Refresh:   c.refresh,
		Logger:    log,
	})
	if err != nil {
		return err
	}
	// Listening comes first: a port that is taken should not wait for the
	// registry, and a client that comes early waits instead of being refused.
	l, err := net.Listen("tcp", c.listen)
	if err != nil {
		return hint.Wrap(fmt.Errorf("listening on %s: %w", c.listen, err), "is another proxy running? --listen 127.0.0.1:0 picks a free port")
	}
	if err := s.Prepare(ctx); err != nil {
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), l.Close())
		}
		m.Warn(err)
	}
	if err := announce(s, c.cache, l.Addr().(*net.TCPAddr), stdout, m); err != nil {
		return errors.Join(err, l.Close())
	}
	return s.Serve(ctx, l)
}

// announce tells that the proxy serves from now on. What it writes to standard
// output is text for nix.conf and nothing else, in one write, so that a script
// can wait for it.
func announce(s *proxy.Server, cache string, addr *net.TCPAddr, stdout io.Writer, m *ui.Messages) error {
	url := clientURL(addr)
	lines := "extra-substituters = " + url + "\n"
	keys := s.Config().PublicKeys
	if len(keys) > 0 {
		lines += "extra-trusted-public-keys = " + strings.Join(keys, " ") + "\n"
	}
	if !addr.IP.IsLoopback() {
		m.Warn(fmt.Errorf("everybody who reaches %s can read the cache", addr))
	}
	if len(keys) == 0 && s.Len() > 0 {
		m.Warn(hint.Wrap(errors.New("the cache has no public key; Nix takes its paths only if they carry a signature it trusts"),
			"publish with --sign-key-file, or, if you trust everybody who can write to the cache, append ?trusted=1 to the substituter"))
	}
	m.Printf("ready: %d store paths of %s on %s", s.Len(), cache, url)
	_, err := io.WriteString(stdout, lines)
	return err
}

// clientURL is where programs on this machine reach the proxy. It has no slash
// at its end, as in most configurations: Nix keeps what it learns by URL.
func clientURL(addr *net.TCPAddr) string {
	host := addr.IP.String()
	if addr.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, fmt.Sprint(addr.Port))
}
