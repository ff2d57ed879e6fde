// Package lru has a map that is bounded by what its values take, and by time.
package lru

import (
	"container/list"
	"iter"
	"sync"
	"time"
)

// Map holds values until they are too many, too large together, or too old. What
// was not used for longest makes room. So whoever reads it must be able to do
// without: what is lost is a repeated question. It is safe for concurrent use.
type Map[K comparable, V any] struct {
	max    int64
	sizeOf func(V) int64

	mu   sync.Mutex
	size int64
	used *list.List // of *item[K, V], the last used first
	at   map[K]*list.Element
}

type item[K comparable, V any] struct {
	key   K
	value V
	size  int64
	until time.Time // zero: it does not age
}

// New returns an empty map for values whose sizes add up to max. Without sizeOf
// each has the size 1. If max is 0, nothing makes room by itself: the owner
// calls RemoveOldest.
func New[K comparable, V any](max int64, sizeOf func(V) int64) *Map[K, V] {
	if sizeOf == nil {
		sizeOf = func(V) int64 { return 1 }
	}
	return &Map[K, V]{max: max, sizeOf: sizeOf, used: list.New(), at: map[K]*list.Element{}}
}

// Get returns a value, and notes that it was used.
func (m *Map[K, V]) Get(key K) (value V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.at[key]
	if e == nil {
		return value, false
	}
	i := e.Value.(*item[K, V])
	if i.old(time.Now()) {
		m.remove(e)
		return value, false
	}
	m.used.MoveToFront(e)
	return i.value, true
}

// Has reports whether Get would return a value. That is no use of it.
func (m *Map[K, V]) Has(key K) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.at[key]
	return e != nil && !e.Value.(*item[K, V]).old(time.Now())
}

// Put adds a value, in the place of the key's old one. One that is larger than
// all may be together is not kept.
func (m *Map[K, V]) Put(key K, value V) { m.put(key, value, time.Time{}) }

// PutFor is Put for some time.
func (m *Map[K, V]) PutFor(key K, value V, ttl time.Duration) { m.put(key, value, time.Now().Add(ttl)) }

func (m *Map[K, V]) put(key K, value V, until time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.at[key]; e != nil {
		m.remove(e)
	}
	size := m.sizeOf(value)
	if m.max > 0 && size > m.max {
		return
	}
	m.at[key] = m.used.PushFront(&item[K, V]{key, value, size, until})
	m.size += size
	for m.max > 0 && m.size > m.max {
		m.remove(m.used.Back())
	}
}

// Remove removes a value, if there is one.
func (m *Map[K, V]) Remove(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.at[key]; e != nil {
		m.remove(e)
	}
}

// RemoveOldest removes the value that was not used for longest. It returns
// false if there is none.
func (m *Map[K, V]) RemoveOldest() (key K, value V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.used.Back()
	if e == nil {
		return key, value, false
	}
	i := m.remove(e)
	return i.key, i.value, true
}

// RemoveOld removes what is too old, which otherwise stays until somebody asks
// for it or it makes room.
func (m *Map[K, V]) RemoveOld() {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for _, e := range m.at {
		if e.Value.(*item[K, V]).old(now) {
			m.remove(e)
		}
	}
}

// Clear removes all.
func (m *Map[K, V]) Clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used.Init()
	clear(m.at)
	m.size = 0
}

// Len is the number of values, with those that are too old and still there.
func (m *Map[K, V]) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.at)
}

// Size is what they take together.
func (m *Map[K, V]) Size() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.size
}

// Values yields the values, in no order. The map must not be used meanwhile.
func (m *Map[K, V]) Values() iter.Seq[V] {
	return func(yield func(V) bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		now := time.Now()
		for _, e := range m.at {
			if i := e.Value.(*item[K, V]); !i.old(now) && !yield(i.value) {
				return
			}
		}
	}
}

func (m *Map[K, V]) remove(e *list.Element) *item[K, V] {
	i := m.used.Remove(e).(*item[K, V])
	delete(m.at, i.key)
	m.size -= i.size
	return i
}

func (i *item[K, V]) old(now time.Time) bool { return !i.until.IsZero() && now.After(i.until) }
