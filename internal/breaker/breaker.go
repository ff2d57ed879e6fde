// Package breaker keeps requests from a server that is down or hangs, so that
// each of a build's thousand paths does not wait for the same time-out.
package breaker

import (
	"sync"
	"time"
)

// Breaker tells whether a server may be asked. It opens when requests fail one
// after the other, and lets one through every now and then, to see. The zero
// value is closed and ready for use; it is safe for concurrent use.
type Breaker struct {
	// After is the number of failures in a row that open it; if less than or
	// equal to 0, 2.
	After int
	// Patience is how long there may be nothing but failures, if it is more
	// than 0; these are counted with those that Retry tells of.
	Patience time.Duration
	// ForGood keeps it open: no request is let through any more.
	ForGood bool

	mu      sync.Mutex
	fails   int       // in a row
	since   time.Time // of the first failure in a row
	isOpen  bool
	pause   time.Duration // between tries while it is open
	next    time.Time     // of the next try
	probing bool          // a try is under way
}

const (
	defaultAfter = 2
	minPause     = 15 * time.Second
	maxPause     = 2 * time.Minute
)

// Allow reports whether a request may be made. Whoever made one calls Report,
// unless its result says nothing about the server.
func (b *Breaker) Allow() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.isOpen {
		return true
	}
	now := time.Now()
	if b.ForGood || now.Before(b.next) {
		return false
	}
	b.probing, b.next = true, now.Add(b.pause)
	return true
}

// Report tells how a request went. It returns true when it opens the breaker.
func (b *Breaker) Report(ok bool) (opened bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ok {
		b.fails, b.since, b.probing = 0, time.Time{}, false
		b.isOpen = b.isOpen && b.ForGood
		return false
	}
	return b.failed(1)
}

// Retry tells that a request failed and will be made again, so that this is no
// failure to be counted, but time that has passed. It returns true when it opens
// the breaker.
func (b *Breaker) Retry() (opened bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed(0)
}

func (b *Breaker) failed(n int) (opened bool) {
	now := time.Now()
	if b.since.IsZero() {
		b.since = now
	}
	b.fails += n
	after := b.After
	if after <= 0 {
		after = defaultAfter
	}
	switch {
	case !b.isOpen && b.fails < after && (b.Patience <= 0 || now.Sub(b.since) < b.Patience):
		return false
	case !b.isOpen:
		b.isOpen, b.pause, opened = true, minPause, true
	case b.probing:
		b.pause = min(2*b.pause, maxPause)
	default: // begun before it opened
		return false
	}
	b.probing, b.next = false, now.Add(b.pause)
	return opened
}

// Open reports whether requests are being held back.
func (b *Breaker) Open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.isOpen
}

// Failing is for how long there have been nothing but failures.
func (b *Breaker) Failing() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.since.IsZero() {
		return 0
	}
	return time.Since(b.since)
}
