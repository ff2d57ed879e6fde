package httpd

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// Clients that announce a body and do not send it hold no connection for good,
// be it that the handler does not want it, that it answers at length, or that
// nothing is ready yet.
func TestBodiesThatDoNotCome(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]http.Handler{
		"a short answer": text("ok"), "a long answer": text(strings.Repeat("x", 100_000)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, Options{Handler: h, MaxConnections: 3})
			r.Ready("")
			for i, method := range []string{"GET", "HEAD", "PUT"} {
				conn, err := net.Dial("tcp", r.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				fmt.Fprintf(conn, "%s / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx", method)
				eventually(t, "the connection is open", func() bool { return r.Connections() > i })
			}
			if status, _ := get(t, client(t), "http://"+r.addr); status != 200 {
				t.Errorf("got %d", status)
			}
		})
	}
}

// deadlines are those that a body was given.
type deadlines struct {
	*httptest.ResponseRecorder
	at []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.at = append(d.at, t)
	return nil
}

func TestBodyDeadlines(t *testing.T) {
	sent := bytes.Repeat([]byte("x"), 5000)
	r := httptest.NewRequest(http.MethodPut, "/", iotest.OneByteReader(bytes.NewReader(sent)))
	r.ContentLength = int64(len(sent))
	d := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	before := time.Now()
	done := bound(d, r)
	r.Body.(*body).waited = time.Hour // for a byte now and then
	got, err := io.ReadAll(r.Body)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("got %d bytes: %v", len(got), err)
	}
	for i, at := range d.at {
		if at.IsZero() || i > 0 && d.at[i-1].IsZero() && at.After(before.Add(bodyUnread-time.Second)) {
			continue // after a read
		}
		if i > 0 && at.After(before.Add(bodyStall-time.Hour+5*time.Second)) {
			t.Fatalf("deadline %d is %s after the start, for a client that has sent too little", i, at.Sub(before))
		}
	}
	if !d.at[len(d.at)-1].IsZero() {
		t.Error("what the handler does after the body has its deadline")
	}
	n := len(d.at)
	if done(); len(d.at) != n {
		t.Error("the connection has the body's deadline")
	}

	d = &deadlines{ResponseRecorder: httptest.NewRecorder()}
	bound(d, httptest.NewRequest(http.MethodGet, "/", nil))()
	if len(d.at) > 0 {
		t.Error("a request without a body has a deadline")
	}
}

// A handler that lets a client wait, for room among others' bodies, does not
// count that against the client.
func TestHandlersTakeTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequest(http.MethodPut, "/", strings.NewReader("body"))
		defer bound(d, r)()
		for _, size := range []int{1, 3} {
			time.Sleep(10 * bodyStall)
			before := len(d.at)
			if n, err := io.ReadFull(r.Body, make([]byte, size)); n != size {
				t.Fatal(n, err)
			}
			if left := time.Until(d.at[before]); left < bodyStall {
				t.Errorf("the client has %s to send", left)
			}
		}
	})
}
