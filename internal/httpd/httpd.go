// Package httpd runs an HTTP handler as a service. It has sockets of its own or
// from systemd, TLS, limits, health, an access log, reloading and draining. It
// does not know what the handler serves.
package httpd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

const (
	readHeaderTimeout = 30 * time.Second
	// idleTimeout is longer than curl, inside Nix, keeps an unused connection
	// (118 s), so that no request meets a connection that is being closed.
	idleTimeout    = 5 * time.Minute
	maxHeaderBytes = 64 << 10
	// firstRequest is how long the end waits for the first requests of
	// connections that are just open.
	firstRequest = time.Second
	// requestBegins is the time from when a request is read until net/http has
	// looked for the last time whether the server ends.
	requestBegins = 10 * time.Millisecond
	// reloadTimeout bounds a reload. systemd waits 90 seconds for one.
	reloadTimeout = time.Minute
)

// Options configures New. Handler is required; the zero value of everything
// else works.
type Options struct {
	// Handler answers everything but PathHealth and PathReady, and PathMetrics
	// if there are metrics. Until Ready is called its requests wait. It sets its own write deadlines.
	Handler http.Handler
	// Metrics answers PathMetrics; nil leaves that path to Handler.
	Metrics http.Handler
	// Private reports whether a request is for what is not answered under any name,
	// as Metrics are not: only under an address, a name that no other site can have,
	// or one of Hosts. With TLS every name counts. nil means no request is.
	Private func(r *http.Request) bool
	// Hosts are names of this server, without ports.
	Hosts []string
	// Certificate makes the TCP sockets speak TLS, with HTTP/2; nil means
	// plain HTTP. Unix sockets are always plain.
	Certificate *Certificate
	// MaxConnections bounds the connections that are open at a time. When
	// there are more, those that are not in use are closed; if all are, new
	// ones wait. A client may have a quarter of them, unless it is on this
	// machine: that may be a web server, for many. If less than or equal to 0,
	// DefaultMaxConnections.
	MaxConnections int
	// Grace is how long the server goes on at the end, with PathReady telling
	// that it will not, before it takes no more connections; usually 0.
	Grace time.Duration
	// Drain is how long requests under way may take at the end; if less than
	// or equal to 0, DefaultDrain.
	Drain time.Duration
	// AccessLog receives a line for each request; nil means none.
	AccessLog *AccessLog
	// Reloads asks for a reload with each value, usually a signal.
	Reloads <-chan os.Signal
	// Reload is what a reload does besides reading the certificate again and
	// opening the access log again; nil means nothing.
	Reload func(ctx context.Context) error
	// Supervisor is told how the service is; nil means nobody is.
	Supervisor *Supervisor
	// Logger receives what operators would want to know; nil discards it.
	Logger *slog.Logger
}

// What Options have by default.
const (
	DefaultMaxConnections = 4096
	DefaultDrain          = 10 * time.Second
)

// Server is a service. Its methods are safe for concurrent use.
type Server struct {
	opts  Options
	log   *slog.Logger
	conns *connections

	ready    chan struct{} // closed by Ready
	once     sync.Once
	stopping chan struct{} // closed when the end begins
	draining chan struct{} // closed when connections end
}

// New returns a Server that does not listen yet.
func New(o Options) *Server {
	if o.MaxConnections <= 0 {
		o.MaxConnections = DefaultMaxConnections
	}
	if o.Drain <= 0 {
		o.Drain = DefaultDrain
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{
		opts: o, log: o.Logger,
		conns: newConnections(o.MaxConnections),
		ready: make(chan struct{}), stopping: make(chan struct{}), draining: make(chan struct{}),
	}
}

// Connections returns how many connections are open.
func (s *Server) Connections() int { return len(s.conns.slots) }

// Ready lets requests through, and tells the supervisor, with one line about
// what is served. Only the first call counts.
func (s *Server) Ready(status string) {
	s.once.Do(func() {
		close(s.ready)
		s.tell("READY=1", "STATUS="+status)
	})
}

// Serve answers on all listeners until ctx is cancelled, or one of them fails.
// Then, after the grace, it takes no more connections, lets the requests under way finish, for a
// bounded time, and returns nil, or why the listener failed. It closes the
// listeners. It is called once.
func (s *Server) Serve(ctx context.Context, listeners []net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnState:         s.conns.state,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	if s.opts.Certificate != nil {
		srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.opts.Certificate.get}
	}
	ctx, stop := context.WithCancel(ctx)
	var background sync.WaitGroup
	background.Go(func() { s.watch(ctx) })
	background.Go(func() { s.reloads(ctx) })
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { failed <- s.serveOn(srv, l) }()
	}
	var err error
	open := len(listeners)
	select {
	case <-ctx.Done():
		s.tell("STOPPING=1", "STATUS=serving what is under way")
		close(s.stopping)
		time.Sleep(s.opts.Grace)
	case err = <-failed:
		open--
		close(s.stopping)
	}
	stop()
	close(s.draining)
	_ = Close(listeners)
	for range open {
		if e := <-failed; !errors.Is(e, http.ErrServerClosed) && !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	s.drain(ctx, srv)
	background.Wait()
	return err
}

func (s *Server) serveOn(srv *http.Server, l net.Listener) (err error) {
	limited := s.conns.limit(l, s.draining)
	if _, tcp := l.Addr().(*net.TCPAddr); tcp && s.opts.Certificate != nil {
		err = srv.ServeTLS(limited, "", "")
	} else {
		err = srv.Serve(limited)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return fmt.Errorf("serving on %s: %w", l.Addr(), err)
}

// drain ends the connections, those with a request when it is answered.
func (s *Server) drain(ctx context.Context, srv *http.Server) {
	// What was accepted just now is under way, too; net/http would drop it.
	for end := time.Now().Add(firstRequest); s.conns.awaiting() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(requestBegins)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.Drain)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		s.log.Warn("some requests were cut off at the end", "after", s.opts.Drain)
		_ = srv.Close()
	}
}

func (s *Server) reloads(ctx context.Context) {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return
	}
	for {
		select {
		case <-s.opts.Reloads:
			s.reload(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// reload reads again what may have changed. What cannot be read stays as it
// is: a service with an old certificate is better than none.
func (s *Server) reload(ctx context.Context) {
	s.tell(reloading()...)
	ctx, cancel := context.WithTimeoutCause(ctx, reloadTimeout, fmt.Errorf("the reload took more than %s", reloadTimeout))
	defer cancel()
	var errs []error
	if s.opts.Certificate != nil {
		errs = append(errs, s.opts.Certificate.Reload())
	}
	if s.opts.AccessLog != nil {
		errs = append(errs, s.opts.AccessLog.Reopen())
	}
	if s.opts.Reload != nil {
		errs = append(errs, s.opts.Reload(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		s.log.Warn("the reload did not succeed; what could not be read again stays as it was", "error", err)
	} else {
		s.log.Info("reloaded")
	}
	s.tell("READY=1")
}

// watch feeds the supervisor's watchdog.
func (s *Server) watch(ctx context.Context) {
	every := s.opts.Supervisor.interval()
	if every <= 0 {
		return
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			s.tell("WATCHDOG=1")
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) tell(lines ...string) {
	if err := s.opts.Supervisor.notify(lines...); err != nil {
		s.log.Warn("the service manager was not told", "what", lines[0], "error", err)
	}
}
