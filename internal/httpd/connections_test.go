package httpd

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
)

// from has connections come from an address.
type from struct {
	net.Listener
	addr atomic.Pointer[net.TCPAddr]
}

type disguised struct {
	net.Conn
	addr net.Addr
}

func (f *from) Accept() (net.Conn, error) {
	conn, err := f.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &disguised{conn, f.addr.Load()}, nil
}

func (d *disguised) RemoteAddr() net.Addr { return d.addr }

// One client cannot have all connections; what it does not use makes way for
// what it does. A web server on this machine is many clients.
func TestClientsHaveAShare(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &from{Listener: l}
	come := func(ip string) { f.addr.Store(&net.TCPAddr{IP: net.ParseIP(ip), Port: 1}) }
	b := newBlocking()
	r := start(t, Options{Handler: b, MaxConnections: 8}, f)
	defer close(b.leave)
	r.Ready("")
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	ask := func(path string) net.Conn {
		t.Helper()
		conn := dial()
		if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	closed := func(conn net.Conn) {
		t.Helper()
		if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
	}
	come("203.0.113.7")
	idle := ask(PathHealth)
	eventually(t, "the connection is idle", func() bool {
		r.conns.mu.Lock()
		defer r.conns.mu.Unlock()
		return r.conns.idle.Len() == 1
	})
	for range 2 {
		ask("/")
		<-b.come
	}
	closed(idle)
	closed(dial())
	if n := r.Connections(); n != 2 {
		t.Errorf("the client has %d connections", n)
	}
	come("2001:db8::1")
	ask("/")
	<-b.come
	come("2001:db8::2") // the same host, perhaps
	ask("/")
	<-b.come
	closed(dial())
	come("127.0.0.1")
	for range 4 {
		ask("/")
		<-b.come
	}
}
