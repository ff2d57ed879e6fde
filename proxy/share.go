package proxy

import "sync"

// share is the memory that several caches have together, for their packs. The
// packs themselves are never shared: who may read one cache may not read
// another, whatever digests its index names.
type share struct {
	max int64 // bytes

	mu   sync.Mutex
	used int64
}

// take takes n bytes if they are free. A nil share is unlimited.
func (s *share) take(n int64) bool {
	if s == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used+n > s.max {
		return false
	}
	s.used += n
	return true
}

func (s *share) give(n int64) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
}

// share takes n bytes of what the caches have together, at the cost of this
// one's older packs, or undoes what reserve did.
func (c *packs) share(n int64) bool {
	for c.closed || !c.shared.take(n) {
		if c.closed || !c.drop() {
			c.busy -= n
			return false
		}
	}
	return true
}

// close gives back what the packs take. Whoever is being served from one goes
// on.
func (c *packs) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for more := true; more; { // what is still being read is given back by read
		more = c.drop()
	}
}
