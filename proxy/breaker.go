package proxy

import (
	"sync"
	"time"
)

// breaker keeps requests from a server that is down or hangs, so that each of
// a build's thousand paths does not wait for the same time-out. While it is
// open it lets one request through every now and then, to see. The zero value
// is closed.
type breaker struct {
	mu    sync.Mutex
	fails int // in a row
	next  time.Time
}

const (
	breakerFails    = 2
	breakerCooldown = 15 * time.Second
)

// allow reports whether a request may be made. Whoever made one calls report,
// unless its result says nothing about the server.
func (b *breaker) allow() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fails < breakerFails {
		return true
	}
	now := time.Now()
	if now.Before(b.next) {
		return false
	}
	b.next = now.Add(breakerCooldown)
	return true
}

// report tells how a request went. It returns true when it opens the breaker.
func (b *breaker) report(ok bool) (opened bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ok {
		b.fails = 0
		return false
	}
	b.fails++
	b.next = time.Now().Add(breakerCooldown)
	return b.fails == breakerFails
}

// open reports whether requests are being held back.
func (b *breaker) open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fails >= breakerFails
}
