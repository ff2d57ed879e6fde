package httpd

import (
	"errors"
	"io"
	"net/http"
	"time"
)

const (
	// bodyStall is how long a client may send nothing of a request's body while
	// the handler reads it, bodyRate how many bytes a second it must send after
	// that time, so that a byte now and then does not hold a connection.
	bodyStall = 2 * time.Minute
	bodyRate  = 1 << 10
	// bodyUnread is how long the rest of a body is waited for that the handler
	// does not want. net/http reads it, before the answer or after it.
	bodyUnread = 5 * time.Second
)

// body is a request's body with deadlines. A request without one has none:
// the deadline would end what its handler does.
type body struct {
	io.ReadCloser
	rc      *http.ResponseController
	n       int64         // bytes that came
	waited  time.Duration // for them; what the handler does meanwhile does not count
	ended   bool
	awaited bool // the connection serves no other request before the body's end
}

// bound gives the body of a request deadlines. done is called after the handler.
func bound(w http.ResponseWriter, r *http.Request) (done func()) {
	if r.ContentLength == 0 {
		return func() {}
	}
	b := &body{ReadCloser: r.Body, rc: http.NewResponseController(w), awaited: r.ProtoMajor == 1}
	r.Body = b
	b.unread()
	return b.unread
}

// unread bounds the wait for what the handler has not read.
func (b *body) unread() {
	if b.awaited && !b.ended {
		_ = b.rc.SetReadDeadline(time.Now().Add(bodyUnread))
	}
}

func (b *body) Read(p []byte) (int, error) {
	began := time.Now()
	left := bodyStall + time.Duration(b.n/bodyRate)*time.Second - b.waited
	_ = b.rc.SetReadDeadline(began.Add(min(left, bodyStall)))
	n, err := b.ReadCloser.Read(p)
	b.waited += time.Since(began)
	b.n += int64(n)
	b.ended = b.ended || errors.Is(err, io.EOF)
	_ = b.rc.SetReadDeadline(time.Time{})
	b.unread()
	return n, err
}
