package httpd

import (
	"container/list"
	"net"
	"net/http"
	"sync"
)

// connections bounds how many connections are open. Clients keep connections
// that they do not use, Nix 25 for two minutes; these make way for new ones,
// which every client takes well, since it may happen at any time anyway.
type connections struct {
	slots chan struct{} // one for each open connection

	mu      sync.Mutex
	waiting int                        // new connections for which there is no slot
	fresh   map[net.Conn]struct{}      // without a request so far
	idle    *list.List                 // of net.Conn, the one longest not used first
	place   map[net.Conn]*list.Element // in idle
}

func newConnections(limit int) *connections {
	return &connections{slots: make(chan struct{}, limit), idle: list.New(), place: map[net.Conn]*list.Element{}, fresh: map[net.Conn]struct{}{}}
}

// state is the server's ConnState hook.
func (c *connections) state(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	if e := c.place[conn]; e != nil {
		c.idle.Remove(e)
		delete(c.place, conn)
	}
	delete(c.fresh, conn)
	if state == http.StateNew {
		c.fresh[conn] = struct{}{}
	}
	yield := state == http.StateIdle && c.waiting > 0
	if state == http.StateIdle && !yield {
		c.place[conn] = c.idle.PushBack(conn)
	}
	c.mu.Unlock()
	if yield {
		conn.Close()
	}
}

// awaiting reports whether some connection has made no request yet.
func (c *connections) awaiting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.fresh) > 0
}

// acquire waits for a slot. It returns false when done is closed first.
func (c *connections) acquire(done <-chan struct{}) bool {
	select {
	case c.slots <- struct{}{}:
		return true
	default:
	}
	c.mu.Lock()
	c.waiting++
	var oldest net.Conn
	if e := c.idle.Front(); e != nil {
		oldest = e.Value.(net.Conn)
		c.idle.Remove(e)
		delete(c.place, oldest)
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.waiting--
		c.mu.Unlock()
	}()
	if oldest != nil {
		oldest.Close()
	}
	select {
	case c.slots <- struct{}{}:
		return true
	case <-done:
		return false
	}
}

// limit makes l's connections wait for their slots.
func (c *connections) limit(l net.Listener, done <-chan struct{}) net.Listener {
	return &limited{l, c, done}
}

type limited struct {
	net.Listener
	conns *connections
	done  <-chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if !l.conns.acquire(l.done) {
		conn.Close()
		return nil, http.ErrServerClosed
	}
	return &counted{Conn: conn, release: sync.OnceFunc(func() { <-l.conns.slots })}, nil
}

// counted is a connection that has a slot.
type counted struct {
	net.Conn
	release func()
}

func (c *counted) Close() error {
	defer c.release()
	return c.Conn.Close()
}
