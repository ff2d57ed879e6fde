package proxy

import (
	"maps"
	"sync"
	"time"
)

// expiring is a set of keys that are forgotten after a time. It is bounded:
// when it is full and nothing in it is old enough, it starts anew, since all
// that is lost is a repeated question.
type expiring struct {
	max int

	mu    sync.Mutex
	until map[string]time.Time
}

func newExpiring(size int) *expiring { return &expiring{max: size, until: map[string]time.Time{}} }

func (x *expiring) has(key string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	until, ok := x.until[key]
	if ok && time.Now().After(until) {
		delete(x.until, key)
		return false
	}
	return ok
}

func (x *expiring) add(key string, ttl time.Duration) {
	now := time.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.until) >= x.max {
		maps.DeleteFunc(x.until, func(_ string, until time.Time) bool { return now.After(until) })
		if len(x.until) >= x.max {
			clear(x.until)
		}
	}
	x.until[key] = now.Add(ttl)
}

func (x *expiring) reset() {
	x.mu.Lock()
	defer x.mu.Unlock()
	clear(x.until)
}
