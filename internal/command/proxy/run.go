package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/httpd"
	"github.com/org/nixoci-action/internal/secret"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/proxy"
	"github.com/org/nixoci-action/proxy/many"
)

// serve returns nil when ctx is cancelled: that is how a proxy ends.
func serve(ctx context.Context, c config, getenv func(string) string, stdout, stderr io.Writer) (err error) {
	m := ui.New(stderr, getenv)
	log := m.Logger(slog.LevelInfo)
	if c.understood != "" {
		m.Printf("%s", c.understood)
	}
	for _, err := range cli.SecretFiles(getenv, append(c.keyFiles, c.tokenFile, c.tlsKey)...) {
		m.Warn(err)
	}
	// GitHub's runner ends what a job has left, such as a proxy whose last step did
	// not run, and finds it by this variable in /proc
	if getenv("RUNNER_TRACKING_ID") != "" && !c.allowPush {
		if err := secret.Show(); err != nil {
			log.Warn("the runner will not find this proxy", "error", err)
		}
	}
	page := &cachePage{mode: c.page}
	o := opener{config: c, page: page, getenv: getenv, msg: m, log: log, metrics: proxy.NewMetrics(), secrets: cli.Secrets(getenv)}
	defer func() { err = errors.Join(err, o.close()) }()
	s, err := o.service(ctx)
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
		Handler:    o.metrics.Measure(s),
		Private:    page.private,
		AccessLog:  access,
		Reloads:    reloads,
		Reload:     func(ctx context.Context) error { return o.reload(ctx, s) },
		Supervisor: httpd.NewSupervisor(getenv),
		Logger:     log,
	}, o.measured())
	if err != nil {
		return err
	}
	// Listening comes before reading: a port that is taken should not wait for
	// the registry, and a client that comes early waits instead of being refused.
	listeners, err := listen(c, getenv)
	if err != nil {
		return err
	}
	page.show(o.one, c, listeners)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return srv.Serve(ctx, listeners) })
	g.Go(func() error {
		if err := s.Prepare(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.As(err, new(*many.StoreDirError)) {
				return hint.Wrap(err, "serve them with a proxy each")
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
func announce(s proxy.Service, c config, listeners []net.Listener, stdout io.Writer, m *ui.Messages) (status string, err error) {
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
			warnOpen(c, addr, m)
		}
	}
	for _, one := range s.Servers() {
		if one.Absent() {
			m.Warn(cli.NoCache(one.Cache()))
		}
	}
	chain := s.Keys()
	keys := chain.Trusted
	if chain.Keyless() && s.Len() > 0 {
		m.Warn(hint.Wrap(errors.New("the cache has no public key; Nix takes its paths only if they carry a signature it trusts"),
			"publish with --sign-key-file, or, if you trust everybody who can write to the cache, append ?trusted=1 to the substituter"))
	}
	names := "nothing"
	switch {
	case len(c.caches) > 0:
		names = strings.Join(c.caches, ", ")
	case len(c.allow) > 0:
		names = "caches that match " + strings.Join(c.allow, ", ")
	}
	if url == "" {
		m.Printf("ready: %s of %s on %s", ui.Count(s.Len(), "store path"), names, listeners[0].Addr())
		return "serving " + names, nil
	}
	lines := "# " + bincache.SettingSubstituters + " = " + url + "/HOST/NAME\n" // for those that wait for it
	if len(c.caches) > 0 {
		if lines, err = bincache.Setting(bincache.SettingSubstituters, url); err != nil {
			return "", err
		}
	}
	if len(keys) > 0 {
		trusted, err := bincache.Setting(bincache.SettingKeys, keys...)
		if err != nil {
			return "", err
		}
		lines += trusted
	}
	if len(c.caches) > 0 {
		m.Printf("ready: %s of %s on %s", ui.Count(s.Len(), "store path"), names, url)
	}
	if len(c.allow) > 0 {
		m.Printf("ready: caches that match %s on %s/HOST/NAME", strings.Join(c.allow, ", "), url)
	}
	_, err = io.WriteString(stdout, lines)
	return "serving " + names + " on " + url, err
}

// warnOpen says what it means that not only this machine reaches the proxy.
func warnOpen(c config, addr *net.TCPAddr, m *ui.Messages) {
	if len(c.caches) > 0 || c.ownCredentials {
		m.Warn(fmt.Errorf("everybody who reaches %s can read the cache", addr))
	}
	if len(c.allow) > 0 && c.tlsCert == "" {
		m.Warn(fmt.Errorf("passwords that clients send to %s for their registries can be read on the way", addr))
	}
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
