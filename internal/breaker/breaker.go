// Package breaker keeps requests from a server that does not answer.
package breaker

import (
	"sync"
	"time"
)

// Breaker keeps requests from a server that is down or hangs, so that each of
// a build's thousand paths does not wait for the same time-out. While it is
// open it lets one request through every now and then, to see. The zero value
// is closed. It is safe for concurrent use.
type Breaker struct {
	mu      sync.Mutex
	fails   int           // in a row
	pause   time.Duration // between tries while it is open
	next    time.Time     // of the next try
	probing bool          // a try is under way
}

const (
	failsToOpen = 2 // in a row
	minPause    = 15 * time.Second
	maxPause    = 2 * time.Minute
)

// Allow reports whether a request may be made. Whoever made one calls Report,
// unless its result says nothing about the server.
func (b *Breaker) Allow() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fails < failsToOpen {
		return true
	}
	now := time.Now()
	if now.Before(b.next) {
		return false
	}
	b.probing, b.next = true, now.Add(b.pause)
	return true
}

// Report tells how a request went. It returns true when it opens the breaker.
func (b *Breaker) Report(ok bool) (opened bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case ok:
		b.fails, b.probing = 0, false
		return false
	case b.fails+1 < failsToOpen:
		b.fails++
		return false
	case b.fails < failsToOpen:
		b.fails, b.pause, opened = failsToOpen, minPause, true
	case b.probing:
		b.pause = min(2*b.pause, maxPause)
	default: // begun before it opened
		return false
	}
	b.probing, b.next = false, time.Now().Add(b.pause)
	return opened
}

// Open reports whether requests are being held back.
func (b *Breaker) Open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fails >= failsToOpen
}
