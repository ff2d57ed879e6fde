package httpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything here may take.
const patience = 20 * time.Second

// running is a server that serves on a TCP socket.
type running struct {
	*Server
	addr string
	stop func() error // ends it and waits
}

func start(t *testing.T, o Options, more ...net.Listener) *running {
	t.Helper()
	ls, err := Listen([]string{"127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	s := New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, append(ls, more...)) }()
	r := &running{Server: s, addr: ls[0].Addr().String()}
	r.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// client makes connections of its own.
func client(t *testing.T) *http.Client {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

func get(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func text(s string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) })
}

// blocking is a handler whose requests wait to be let go.
type blocking struct{ come, leave chan struct{} }

func newBlocking() *blocking { return &blocking{make(chan struct{}, 100), make(chan struct{})} }

func (b *blocking) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, "first ")
	_ = http.NewResponseController(w).Flush()
	b.come <- struct{}{}
	<-b.leave
	_, _ = io.WriteString(w, "last")
}

func TestRequestsWaitUntilReady(t *testing.T) {
	r := start(t, Options{Handler: text("handler"), Metrics: text("metrics")})
	c := client(t)
	url := "http://" + r.addr
	for path, want := range map[string]int{PathHealth: 200, PathReady: 503, PathMetrics: 200} {
		if got, _ := get(t, c, url+path); got != want {
			t.Errorf("%s before it is ready: got %d, want %d", path, got, want)
		}
	}
	answers := make(chan string, 1)
	go func() {
		_, body := get(t, c, url+"/x")
		answers <- body
	}()
	select {
	case got := <-answers:
		t.Errorf("a request was answered early: %q", got)
	case <-time.After(50 * time.Millisecond):
	}
	r.Ready("")
	r.Ready("again")
	if got := <-answers; got != "handler" {
		t.Errorf("got %q", got)
	}
	if got, body := get(t, c, url+PathReady); got != 200 {
		t.Errorf("%s: got %d, %q", PathReady, got, body)
	}
}

// Where nobody measures, the path is the handler's.
func TestNoMetrics(t *testing.T) {
	r := start(t, Options{Handler: text("handler")})
	r.Ready("")
	if _, body := get(t, client(t), "http://"+r.addr+PathMetrics); body != "handler" {
		t.Errorf("got %q", body)
	}
}

func TestDrains(t *testing.T) {
	b := newBlocking()
	r := start(t, Options{Handler: b, Drain: patience})
	r.Ready("")
	answers := make(chan string, 1)
	go func() {
		_, body := get(t, client(t), "http://"+r.addr+"/")
		answers <- body
	}()
	<-b.come
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	eventually(t, "nobody listens", func() bool {
		conn, err := net.Dial("tcp", r.addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	select {
	case err := <-stopped:
		t.Fatalf("it ended before the request: %v", err)
	default:
	}
	close(b.leave)
	if got := <-answers; got != "first last" {
		t.Errorf("the request under way got %q", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// A load balancer has time to notice.
func TestGrace(t *testing.T) {
	r := start(t, Options{Handler: text("ok"), Grace: 500 * time.Millisecond})
	r.Ready("")
	url := "http://" + r.addr
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	<-r.stopping
	if status, body := get(t, client(t), url+PathReady); status != 503 || body != "stopping\n" {
		t.Errorf("%s: got %d, %q", PathReady, status, body)
	}
	if status, _ := get(t, client(t), url+PathHealth); status != 200 {
		t.Errorf("%s: got %d", PathHealth, status)
	}
	if _, body := get(t, client(t), url); body != "ok" {
		t.Errorf("got %q", body)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestDrainIsBounded(t *testing.T) {
	b := newBlocking()
	r := start(t, Options{Handler: b, Drain: 50 * time.Millisecond})
	defer close(b.leave)
	r.Ready("")
	failed := make(chan error, 1)
	go func() {
		resp, err := client(t).Get("http://" + r.addr)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		failed <- err
	}()
	<-b.come
	began := time.Now()
	if err := r.stop(); err != nil || time.Since(began) > patience/2 {
		t.Errorf("got %v after %s", err, time.Since(began))
	}
	if err := <-failed; err == nil {
		t.Error("the answer was cut off, and looked complete")
	}
}

func TestListenerFails(t *testing.T) {
	bad := errors.New("no")
	ls, err := Listen([]string{"127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	err = New(Options{Handler: text("")}).Serve(t.Context(), []net.Listener{ls[0], failing{ls[0], bad}})
	if !errors.Is(err, bad) || !strings.Contains(err.Error(), "serving on 127.0.0.1:") {
		t.Errorf("got %v", err)
	}
	if _, err := net.Dial("tcp", ls[0].Addr().String()); err == nil {
		t.Error("the other listener is open")
	}
}

type failing struct {
	net.Listener
	err error
}

func (f failing) Accept() (net.Conn, error) { return nil, f.err }

func TestListen(t *testing.T) {
	ls, err := Listen([]string{"127.0.0.1:0", "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	first := ls[0].Addr().String()
	if _, err := Listen([]string{ls[1].Addr().String()}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a port that is taken: got %v", err)
	}
	if err := Close(ls); err != nil {
		t.Error(err)
	}
	if _, err := Listen([]string{first, "127.0.0.1:x"}); err == nil {
		t.Error("a bad address: got no error")
	}
	again, err := Listen([]string{first})
	if err != nil {
		t.Errorf("one that failed left another open: %v", err)
	}
	_ = Close(again)
	for addr, ok := range map[string]bool{"127.0.0.1:80": true, "[::1]:0": true, ":80": true, "80": false, "x:http": false, "x:70000": false, "": false} {
		if err := CheckAddress(addr); (err == nil) != ok {
			t.Errorf("%q: got %v", addr, err)
		}
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	b := newBlocking()
	mux := http.NewServeMux()
	mux.Handle("/block", b)
	mux.Handle("/", text("ok"))
	r := start(t, Options{Handler: mux, MaxConnections: 2})
	r.Ready("")
	url := "http://" + r.addr
	// connections that are not used make way, the oldest first
	for i := range 10 {
		if _, body := get(t, client(t), url); body != "ok" {
			t.Fatalf("client %d: got %q", i, body)
		}
		if n := r.Connections(); n > 2 {
			t.Fatalf("%d connections", n)
		}
	}
	// those in use do not
	answers := make(chan string, 3)
	for range 2 {
		go func() { _, body := get(t, client(t), url+"/block"); answers <- body }()
		<-b.come
	}
	go func() { _, body := get(t, client(t), url); answers <- body }()
	select {
	case got := <-answers:
		t.Errorf("a third connection was served: %q", got)
	case <-time.After(50 * time.Millisecond):
	}
	close(b.leave)
	got := []string{<-answers, <-answers, <-answers}
	if n := strings.Count(strings.Join(got, ","), "first last"); n != 2 {
		t.Errorf("got %q", got)
	}
}

// A connection that waits for its slot does not keep the server from ending.
func TestEndsWhileConnectionsWait(t *testing.T) {
	b := newBlocking()
	r := start(t, Options{Handler: b, MaxConnections: 1, Drain: 50 * time.Millisecond})
	defer close(b.leave)
	r.Ready("")
	for range 2 {
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	<-b.come
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	cert := newCertificate(t, t.TempDir(), "a") // TLS is for TCP only
	r := start(t, Options{Handler: text("unix"), Certificate: cert}, l)
	r.Ready("")
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	if _, body := get(t, c, "http://unix/"); body != "unix" {
		t.Errorf("got %q", body)
	}
}

// messages is a service manager's socket.
func messages(t *testing.T) (getenv func(string) string, next func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	env := map[string]string{"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": fmt.Sprint(os.Getpid())}
	return func(name string) string { return env[name] }, func() string {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func TestTellsTheSupervisor(t *testing.T) {
	getenv, next := messages(t)
	dog := 0
	expect := func(want string) string {
		t.Helper()
		for {
			got := next()
			if got == "WATCHDOG=1" {
				dog++
				continue
			}
			if !strings.HasPrefix(got, want) {
				t.Fatalf("got %q, want %q", got, want)
			}
			return got
		}
	}
	reloads := make(chan os.Signal, 1)
	hook := make(chan struct{}, 1)
	r := start(t, Options{Handler: text(""), Supervisor: NewSupervisor(getenv), Reloads: reloads, Reload: func(context.Context) error {
		hook <- struct{}{}
		return nil
	}})
	r.Ready("serving all")
	if got := expect("READY=1"); got != "READY=1\nSTATUS=serving all" {
		t.Errorf("got %q", got)
	}
	reloads <- syscall.SIGHUP
	var usec int64
	if got := expect("RELOADING=1\n"); !scans(got, "RELOADING=1\nMONOTONIC_USEC=%d", &usec) || usec <= 0 {
		t.Errorf("got %q", got)
	}
	<-hook
	expect("READY=1")
	for dog == 0 {
		if next() == "WATCHDOG=1" {
			dog++
		}
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	expect("STOPPING=1")
}

func scans(s, format string, v ...any) bool {
	n, err := fmt.Sscanf(s, format, v...)
	return err == nil && n == len(v)
}

func TestNoSupervisor(t *testing.T) {
	for _, socket := range []string{"", "relative", "vsock:2:1"} {
		if s := NewSupervisor(func(string) string { return socket }); s != nil || s.interval() != 0 || s.notify("x") != nil {
			t.Errorf("%q: got %+v", socket, s)
		}
	}
	s := NewSupervisor(func(name string) string {
		return map[string]string{"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}[name]
	})
	if s.interval() != 0 || s.notify("x") == nil {
		t.Errorf("another's watchdog is fed every %s", s.interval())
	}
}
