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
	mu      sync.Mutex
	fails   int           // in a row
	pause   time.Duration // between tries while it is open
	next    time.Time     // of the next try
	probing bool          // a try is under way
}

const (
	breakerFails = 2
	minPause     = 15 * time.Second
	maxPause     = 2 * time.Minute
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
	b.probing, b.next = true, now.Add(b.pause)
	return true
}

// report tells how a request went. It returns true when it opens the breaker.
func (b *breaker) report(ok bool) (opened bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case ok:
		b.fails, b.probing = 0, false
		return false
	case b.fails+1 < breakerFails:
		b.fails++
		return false
	case b.fails < breakerFails:
		b.fails, b.pause, opened = breakerFails, minPause, true
	case b.probing:
		b.pause = min(2*b.pause, maxPause)
	default: // begun before it opened
		return false
	}
	b.probing, b.next = false, time.Now().Add(b.pause)
	return opened
}

// open reports whether requests are being held back.
func (b *breaker) open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fails >= breakerFails
}
