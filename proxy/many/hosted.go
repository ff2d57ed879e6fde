package many

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/proxy"
)

// hosted is a cache of a Router, opened with one client's credentials or with
// none.
type hosted struct {
	key     key
	started time.Time // of the opening
	ready   chan struct{}
	// server, or why there is none; to be read when ready is closed
	server *proxy.Server
	err    error

	// guarded by the Router's mutex
	active   int       // requests that it is serving
	used     time.Time // when the last one began or ended
	memory   int64     // bytes
	reserved int64     // bytes, that it is about to take
	verified time.Time // when the registry last confirmed that it may be served
	failed   time.Time // when it last gave no answer
	checking *checking // the confirmation under way, or nil
	lost     error     // why it must not be served any more, or nil
}

// checking is one confirmation by the registry.
type checking struct {
	started time.Time
	done    chan struct{}
}

func newHosted(k key) *hosted {
	return &hosted{key: k, started: time.Now(), ready: make(chan struct{}), used: time.Now()}
}

// opened reports whether the opening has ended.
func (c *hosted) opened() bool {
	select {
	case <-c.ready:
		return true
	default:
		return false
	}
}

var (
	errDenied = errors.New("the registry refuses access")
	errAbsent = errors.New("there is no cache")
	errAway   = errors.New("the registry does not answer")
	errBusy   = errors.New("too many caches are being opened")
)

// enter returns the cache, opened and confirmed, for one request, which ends
// with leave.
func (r *Router) enter(ctx context.Context, access Access) (*hosted, error) {
	k := key{access.Cache, r.ids.of(access.Credentials)}
	switch {
	case r.denied.Has(k.String()):
		return nil, errDenied
	case r.absent.Has(k.String()):
		return nil, errAbsent
	}
	c, err := r.take(k, access)
	if err != nil {
		return nil, err
	}
	// Counted from the opening's beginning: of a thousand requests that come
	// while the registry hangs, each one after another, none should wait anew.
	if !await(ctx, c.ready, c.started.Add(r.opts.Wait)) {
		err = errAway
	} else if err = c.err; err == nil {
		err = r.freshen(ctx, c, access)
	}
	if err != nil {
		r.leave(c)
		return nil, err
	}
	return c, nil
}

// await waits for done until a time.
func await(ctx context.Context, done <-chan struct{}, until time.Time) bool {
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// take returns the cache, which may still be opening.
func (r *Router) take(k key, access Access) (*hosted, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.caches[k]
	if c == nil {
		if r.opening >= maxWaiting {
			return nil, errBusy
		}
		c = newHosted(k)
		r.caches[k] = c
		r.opening++
		go r.open(c, access)
	}
	c.active++
	c.used = time.Now()
	return c, nil
}

func (r *Router) leave(c *hosted) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.active--
	c.used = time.Now()
}

// open opens a cache for all who wait for it, and for those who come later.
func (r *Router) open(c *hosted, access Access) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), openTimeout, errAway)
	defer cancel()
	access.Reserve = func(n int64) error { return r.reserve(c, n) }
	begin := time.Now()
	select {
	case r.slots <- struct{}{}:
		begin = time.Now()
		c.server, c.err = r.read(ctx, access)
		<-r.slots
	case <-ctx.Done():
		c.err = errAway
	}
	r.mu.Lock()
	r.opening--
	c.verified = begin
	if c.err != nil {
		delete(r.caches, c.key)
		r.remember(c.key, c.err)
	}
	close(c.ready)
	r.mu.Unlock()
	r.settle(c)
}

// read opens a cache and reads its index.
func (r *Router) read(ctx context.Context, access Access) (s *proxy.Server, err error) {
	defer func() { // a bug met here must not end the other caches
		if p := recover(); p != nil {
			s, err = nil, fmt.Errorf("opening it hit a bug in the proxy, please report it: %v", p)
		}
		if err != nil && !errors.Is(err, errAbsent) && !errors.Is(err, errDenied) {
			r.log.Warn("a cache could not be opened", "cache", access.Cache, "error", err)
		}
	}()
	if s, err = r.opts.Open(access); err != nil {
		return nil, err
	}
	s.SharePacks(r.packs)
	if err := s.Reload(ctx, false); err != nil {
		if registry.Denied(err) {
			err = errDenied
		}
		return nil, err
	}
	if s.Blank() {
		return nil, errAbsent
	}
	return s, nil
}

// remember keeps the next requests from asking the same in vain.
func (r *Router) remember(k key, err error) {
	switch {
	case errors.Is(err, errDenied):
		r.denied.PutFor(k.String(), struct{}{}, absentTTL)
	case errors.Is(err, errAbsent):
		r.absent.PutFor(k.String(), struct{}{}, absentTTL)
	default:
		r.absent.PutFor(k.String(), struct{}{}, openFailTTL)
	}
}

// freshen has the registry confirm, now and then, that the cache may be served
// to who sends these credentials, and reads what is new. At half the time this
// goes on beside the request; when it is overdue the request waits.
//
// A cache that was opened without a client's credentials goes on being served
// when the registry is away, as a proxy for that cache alone would do. One
// that was opened with some is not: they may have been revoked.
func (r *Router) freshen(ctx context.Context, c *hosted, access Access) error {
	age, k, err := r.checkIfDue(c, access)
	if err != nil || age < r.opts.Refresh {
		return err
	}
	if k != nil {
		await(ctx, k.done, k.started.Add(freshWait))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.lost == nil && access.Credentials != nil && time.Since(c.verified) >= r.opts.Refresh {
		return errAway
	}
	return c.lost
}

func (r *Router) checkIfDue(c *hosted, access Access) (age time.Duration, k *checking, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	age = time.Since(c.verified)
	if c.lost == nil && c.checking == nil && age >= r.opts.Refresh/2 && time.Since(c.failed) >= min(retryAfter, r.opts.Refresh) {
		c.checking = &checking{time.Now(), make(chan struct{})}
		go r.check(c, access, c.checking)
	}
	return age, c.checking, c.lost
}

// check asks the registry, and reads the index if that changed.
func (r *Router) check(c *hosted, access Access, k *checking) {
	ctx, cancel := registry.Within(context.Background(), checkTimeout)
	defer cancel()
	err := r.opts.Verify(ctx, access)
	lost := error(nil)
	switch {
	case registry.Denied(err):
		lost = errDenied
	case errors.Is(err, registry.ErrNotFound): // or its root only; opening it anew tells
		lost = errAbsent
	}
	r.mu.Lock()
	switch {
	case lost != nil:
		c.lost = lost
		r.remove(c)
		if errors.Is(lost, errDenied) {
			r.remember(c.key, lost)
		}
	case err != nil:
		c.failed = time.Now()
	default:
		c.verified = k.started
	}
	r.mu.Unlock()
	if err == nil {
		err = c.server.Reload(ctx, c.server.SweepDue())
		r.settle(c)
	}
	if err != nil && lost == nil {
		r.log.Warn("a cache was not refreshed", "cache", access.Cache, "error", err)
	}
	r.mu.Lock()
	c.checking = nil
	r.mu.Unlock()
	close(k.done)
}
