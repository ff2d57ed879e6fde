package proxy

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/registry"
)

const (
	// sweepInterval is the time between looks at the tag list, which show
	// what a lost race has kept out of the root.
	sweepInterval = time.Hour
	// refreshTimeout bounds one read of the index.
	refreshTimeout = 2 * time.Minute
	// retryInterval is the time to the next try after a read that failed,
	// doubled up to the ordinary interval.
	retryInterval = 10 * time.Second

	// How long Prepare waits for the registry, if the disk has a copy of the
	// index, and if there is nothing else to serve.
	waitWithCopy    = 10 * time.Second
	waitWithoutCopy = 30 * time.Second
)

// Prepare makes the server ready: with the registry's index if that answers in
// time, else with the copy on disk, else with nothing.
//
// The error tells why it is not the registry's index. It is a warning: the
// server can serve in every case, and should. A proxy that answers 404 costs
// builds; one that is away, while Nix remembers it, fails them. Run keeps
// trying.
func (s *Server) Prepare(ctx context.Context) error {
	wait := waitWithoutCopy
	snap, diskErr := s.opts.Index.Load()
	if diskErr == nil {
		s.adopt(snap)
		wait = waitWithCopy
		ctx = registry.Once(ctx) // the copy serves at once, and Run tries again
	}
	ctx, cancel := registry.Within(ctx, wait)
	defer cancel()
	err := s.Reload(ctx, false)
	s.away = err != nil
	switch {
	case err == nil:
		return nil
	case diskErr == nil:
		return fmt.Errorf("serving the copy of the index on disk until the registry answers: %w", err)
	}
	return fmt.Errorf("serving nothing until the registry answers: %w", err)
}

// Refresh reads the index now, the tag list included, and forgets what was not
// found on upstream caches. On failure what is known stays.
func (s *Server) Refresh(ctx context.Context) error {
	ctx, cancel := registry.Within(ctx, refreshTimeout)
	defer cancel()
	err := s.Reload(ctx, true)
	s.upstreams.Forget()
	return err
}

// Run keeps the index fresh, and records what is pushed, until ctx is
// cancelled. Pushes that are under way then may take some seconds more.
func (s *Server) Run(ctx context.Context) {
	if s.push != nil {
		pushed := make(chan struct{})
		go func() {
			defer close(pushed)
			s.push.Run(ctx)
		}()
		defer func() { <-pushed }()
	}
	s.running.Store(true)
	// At once after the start comes the look at the tag list, for which the
	// start itself does not wait.
	timer := time.NewTimer(0)
	defer timer.Stop()
	retry := retryInterval
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next := s.opts.Refresh
		rctx, cancel := registry.Within(ctx, refreshTimeout)
		err := s.Reload(rctx, s.SweepDue())
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			next = min(retry, next)
			retry = min(2*retry, s.opts.Refresh)
			if !s.away { // it is told once
				s.log.Warn("the cache index was not refreshed; serving what is known until the registry answers", "error", err)
			}
		default:
			retry = retryInterval
			if s.away {
				s.log.Info("the registry answers again")
			}
		}
		s.away = err != nil
		timer.Reset(next)
	}
}

// SweepDue reports whether the tag list should be read again.
func (s *Server) SweepDue() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.swept) >= sweepInterval
}

// Reload reads the index from the registry; on failure the old one stays. It
// never joins a read that is under way, because that may have begun before
// what its caller wants to see was published.
func (s *Server) Reload(ctx context.Context, sweep bool) error {
	select {
	case s.refresh <- struct{}{}:
		defer func() { <-s.refresh }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	read := s.opts.Index.Refresh
	if sweep {
		read = s.opts.Index.Sweep
	}
	snap, err := read(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		s.counts.refreshFailures.Add(1)
	}
	now := time.Now()
	s.mu.Lock()
	s.refreshTime, s.refreshErr = now, err
	if err == nil {
		s.refreshed = now
		if sweep {
			s.swept = now
		}
	}
	s.mu.Unlock()
	if err == nil {
		s.adopt(snap)
	}
	return err
}

func (s *Server) adopt(snap *index.Snapshot) {
	if s.snapshot.Load() == snap {
		return
	}
	snap.LookupNAR(strings.Repeat("0", 52)) // makes the table that the first NAR would wait for
	old := s.snapshot.Swap(snap)
	if s.pushed != nil {
		s.pushed.Seen(snap)
	}
	s.noticeOranc(snap)
	if s.running.Load() && (old == nil || old.Len() != snap.Len() || old.Digest() != snap.Digest()) {
		s.log.Info("the cache has changed", "paths", snap.Len())
	}
}
