package publish

import (
	"context"
	"sync"
)

// queue hands on items in the order in which they came. Whoever puts some in
// never waits. It is for one taker.
type queue[T any] struct {
	mu     sync.Mutex
	items  []T
	closed bool
	news   chan struct{} // has a word if there may be something new
}

func newQueue[T any]() *queue[T] { return &queue[T]{news: make(chan struct{}, 1)} }

func (q *queue[T]) put(items ...T) {
	q.mu.Lock()
	q.items = append(q.items, items...)
	q.mu.Unlock()
	q.tell()
}

// refill puts items in the place of those that were not taken.
func (q *queue[T]) refill(items []T) {
	q.mu.Lock()
	q.items = items
	q.mu.Unlock()
	q.tell()
}

// close says that no more is expected.
func (q *queue[T]) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.tell()
}

func (q *queue[T]) tell() {
	select {
	case q.news <- struct{}{}:
	default:
	}
}

// take waits until there is something, and returns all of it; nothing if the
// queue is closed, or ctx is done.
func (q *queue[T]) take(ctx context.Context) []T {
	for ctx.Err() == nil {
		q.mu.Lock()
		items, closed := q.items, q.closed
		q.items = nil
		q.mu.Unlock()
		if len(items) > 0 || closed {
			return items
		}
		select {
		case <-q.news:
		case <-ctx.Done():
		}
	}
	return nil
}

func (q *queue[T]) isClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}
