package registry

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/hint"
)

// Where no connection is made the error says why, once, and the hint what to do.
func TestConnecting(t *testing.T) {
	f := newUnstartedFake(t)
	secure := httptest.NewUnstartedServer(f)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	plain := httptest.NewServer(f)
	defer plain.Close()
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	for _, tt := range []struct {
		name, cache string
		transport   http.RoundTripper
		want, hint  string
		not         []string
	}{
		{name: "private authority", cache: strings.TrimPrefix(secure.URL, "https://"), want: "x509: ", hint: "SSL_CERT_FILE", not: []string{"HTTP request to an HTTPS server", "http://"}},
		{name: "without TLS", cache: "registry.example.org", transport: to(plain), want: "server gave HTTP response", hint: "write the cache as http://registry.example.org/" + fakeRepo},
		{name: "nobody there", cache: nobody.Addr().String(), want: "connection refused", hint: "does a registry run at"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := Options{Transport: tt.transport}
			_, err := quick(t, tt.cache+"/"+fakeRepo, o).Manifest(within(t, 20*time.Second), "x")
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(hint.Of(err), tt.hint) {
				t.Fatalf("got %v, hint %q", err, hint.Of(err))
			}
			for _, not := range tt.not {
				if strings.Contains(err.Error(), not) {
					t.Errorf("%q is in: %v", not, err)
				}
			}
			if n := strings.Count(err.Error(), tt.want); n != 1 {
				t.Errorf("it says %d times why: %v", n, err)
			}
		})
	}
}

// to leads all connections to one server.
func to(s *httptest.Server) *http.Transport {
	t := NewTransport(false)
	addr := strings.TrimPrefix(s.URL, "http://")
	t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	return t
}

// refusing dials, unless the other end is dead.
func refusing(dead *atomic.Bool, dials *atomic.Int64) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		if dead.Load() {
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
}

// A registry that has never answered is given up soon; one that has is not.
func TestUnreached(t *testing.T) {
	f := newFake(t)
	var dials atomic.Int64
	var dead atomic.Bool
	transport := NewTransport(false)
	transport.DisableKeepAlives = true
	transport.DialContext = refusing(&dead, &dials)
	f.opts.Transport = transport
	dead.Store(true)
	r := f.open()
	if _, err := r.Manifest(within(t, 10*time.Second), "x"); err == nil {
		t.Fatal("a dead registry answered")
	}
	// with TLS, and without
	if n := dials.Load(); n != 2*unreachedTries {
		t.Errorf("%d connections were tried", n)
	}
	dead.Store(false)
	if _, err := r.PutBlob(within(t, 10*time.Second), []byte("x")); err != nil {
		t.Fatal(err)
	}
	dead.Store(true)
	dials.Store(0)
	if _, err := r.PutBlob(within(t, 10*time.Second), []byte("x")); err == nil {
		t.Fatal("a dead registry answered")
	}
	if n := dials.Load(); n != int64(r.retry.tries) {
		t.Errorf("%d connections were tried to one that had answered", n)
	}
}
