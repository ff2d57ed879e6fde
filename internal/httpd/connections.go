package httpd

import (
	"container/list"
	"net"
	"net/http"
	"net/netip"
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
	clients map[netip.Prefix]int       // how many connections each has
}

// clientShare is the part of all connections that one client may have.
const clientShare = 4

func newConnections(limit int) *connections {
	return &connections{
		slots: make(chan struct{}, limit), idle: list.New(), place: map[net.Conn]*list.Element{},
		fresh: map[net.Conn]struct{}{}, clients: map[netip.Prefix]int{},
	}
}

// clientOf is who has a connection: an address, of IPv6 the network of a host,
// in which it picks addresses as it likes. A web server on this machine is many
// clients, so what comes from here is none, nor is what has no address.
func clientOf(conn net.Conn) (client netip.Prefix, ok bool) {
	addr, tcp := conn.RemoteAddr().(*net.TCPAddr)
	if !tcp {
		return client, false
	}
	ip := addr.AddrPort().Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	client, err := ip.Prefix(bits)
	return client, err == nil && !ip.IsLoopback()
}

// admit counts a connection of a client, until leave. It refuses one that would
// take more than the client's share. If the client has a connection that it does
// not use, that makes way.
func (c *connections) admit(conn net.Conn) (leave func(), ok bool) {
	client, counts := clientOf(conn)
	if !counts {
		return func() {}, true
	}
	var unused net.Conn
	c.mu.Lock()
	full := c.clients[client] >= max(1, cap(c.slots)/clientShare)
	if full {
		unused = c.unusedOf(client)
	}
	if !full || unused != nil {
		c.clients[client]++
	}
	c.mu.Unlock()
	switch {
	case unused != nil:
		unused.Close()
	case full:
		return nil, false
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.clients[client]--; c.clients[client] == 0 {
			delete(c.clients, client)
		}
	}, true
}

// unusedOf takes the connection of a client out of idle that it has not used for
// longest; nil if there is none.
func (c *connections) unusedOf(client netip.Prefix) net.Conn {
	for e := c.idle.Front(); e != nil; e = e.Next() {
		conn := e.Value.(net.Conn)
		if of, _ := clientOf(conn); of == client {
			c.idle.Remove(e)
			delete(c.place, conn)
			return conn
		}
	}
	return nil
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
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		leave, ok := l.conns.admit(conn)
		if !ok { // to wait would have all others wait, too
			conn.Close()
			continue
		}
		if !l.conns.acquire(l.done) {
			leave()
			conn.Close()
			return nil, http.ErrServerClosed
		}
		return &counted{Conn: conn, release: sync.OnceFunc(func() { <-l.conns.slots; leave() })}, nil
	}
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
