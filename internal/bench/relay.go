package main

import (
	"context"
	"io"
	"net"
	"time"
)

// relay passes connections on to a server, and everything that is sent half a
// round trip later. It does not bound how much is on its way at a time, as far
// as that fits its memory. To connect takes no round trip.
type relay struct {
	addr string
	net.Listener
}

// startRelay makes a round trip to the server at addr take so long. The relay
// ends with ctx, or when it is closed.
func startRelay(ctx context.Context, addr string, roundTrip time.Duration) (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer near.Close()
				far, err := (&net.Dialer{Timeout: startTimeout}).DialContext(ctx, "tcp", addr)
				if err != nil {
					return
				}
				defer far.Close()
				defer context.AfterFunc(ctx, func() { near.Close(); far.Close() })()
				there, back := delayed(far, near, roundTrip/2), delayed(near, far, roundTrip/2)
				<-there
				<-back
			}()
		}
	}()
	return &relay{l.Addr().String(), l}, nil
}

// delayed copies what comes from one connection to another, each piece when it
// is so old. It ends the sending, and tells, when there is no more.
func delayed(to, from net.Conn, delay time.Duration) <-chan struct{} {
	type piece struct {
		due  time.Time
		data []byte
	}
	const onTheWay = 1024 // pieces
	pieces, done := make(chan piece, onTheWay), make(chan struct{})
	go func() {
		defer close(pieces)
		for {
			data := make([]byte, 64<<10)
			n, err := from.Read(data)
			if n > 0 {
				pieces <- piece{time.Now().Add(delay), data[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	go func() {
		defer close(done)
		var w io.Writer = to
		for p := range pieces {
			time.Sleep(time.Until(p.due))
			if _, err := w.Write(p.data); err != nil {
				w = io.Discard // the reader must not wait for ever
				from.Close()
			}
		}
		if c, ok := to.(*net.TCPConn); ok {
			_ = c.CloseWrite()
		}
	}()
	return done
}
