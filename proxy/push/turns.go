package push

import (
	"context"
	"sync"
)

// turns lets one holder of each key through at a time, in the order in which
// they come. The zero value is ready.
type turns struct {
	mu   sync.Mutex
	keys map[string]*turn
}

type turn struct {
	free chan struct{} // holds a token: nobody has the turn
	used int           // who has it, and who waits
}

// take waits for the turn of a key. done ends it.
func (t *turns) take(ctx context.Context, key string) (done func(), err error) {
	t.mu.Lock()
	of := t.keys[key]
	if of == nil {
		if t.keys == nil {
			t.keys = map[string]*turn{}
		}
		of = &turn{free: make(chan struct{}, 1)}
		of.free <- struct{}{}
		t.keys[key] = of
	}
	of.used++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if of.used--; of.used == 0 {
			delete(t.keys, key)
		}
	}
	select {
	case <-of.free:
		return func() { of.free <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}
