package blobs

import "sync"

// Budget is the memory that several caches have together, for their packs. The
// packs themselves are never shared: who may read one cache may not read
// another, whatever digests its index names.
type Budget struct {
	max int64 // bytes

	mu   sync.Mutex
	used int64
}

// NewBudget returns one of max bytes.
func NewBudget(max int64) *Budget { return &Budget{max: max} }

// Used is how many bytes are taken.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// take takes n bytes if they are free. A nil Budget is unlimited.
func (b *Budget) take(n int64) bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > b.max {
		return false
	}
	b.used += n
	return true
}

func (b *Budget) give(n int64) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
}
