package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	readHeaderTimeout = 30 * time.Second
	// idleTimeout is longer than curl, inside Nix, keeps an unused connection
	// (118 s), so that no request meets a connection that is being closed.
	idleTimeout    = 5 * time.Minute
	maxHeaderBytes = 64 << 10
	// drainTimeout is how long NARs that are under way may take at the end.
	drainTimeout = 10 * time.Second
)

// Serve serves this cache; see the function Serve.
func (s *Server) Serve(ctx context.Context, l net.Listener) error { return Serve(ctx, s, l, s.log) }

// Serve answers on l with s, and keeps what s knows fresh, until ctx is
// cancelled. Then it lets the requests under way finish, for a bounded time,
// and returns nil. It closes l.
func Serve(ctx context.Context, s Service, l net.Listener, log *slog.Logger) error {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if err := srv.Shutdown(drain); err != nil {
			_ = srv.Close()
		}
	}()
	refreshed := make(chan struct{})
	go func() {
		defer close(refreshed)
		s.Run(ctx)
	}()
	err := srv.Serve(l)
	stop()
	<-stopped
	<-refreshed
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving on %s: %w", l.Addr(), err)
}
