package registry

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/stall"
)

// operations, and the request in which each can be held up
var operations = []struct {
	name, kind string
	do         func(ctx context.Context, r Repository, d v1.Hash) error
}{
	{"handshake", "GET /v2/", func(ctx context.Context, r Repository, _ v1.Hash) error { _, err := r.Tags(ctx); return err }},
	{"token", "GET /token", func(ctx context.Context, r Repository, _ v1.Hash) error { _, err := r.Tags(ctx); return err }},
	{"tags", "GET tags", func(ctx context.Context, r Repository, _ v1.Hash) error { _, err := r.Tags(ctx); return err }},
	{"manifest", "GET manifest", func(ctx context.Context, r Repository, _ v1.Hash) error { _, err := r.Manifest(ctx, "v1"); return err }},
	{"resolve", "HEAD manifest", func(ctx context.Context, r Repository, _ v1.Hash) error { _, err := r.Resolve(ctx, "v1"); return err }},
	{"put manifest", "PUT manifest", func(ctx context.Context, r Repository, _ v1.Hash) error {
		_, err := r.PutManifest(ctx, "v1", Manifest{MediaType: "x/y", Raw: []byte("{}")})
		return err
	}},
	{"delete", "DELETE manifest", func(ctx context.Context, r Repository, d v1.Hash) error { return r.DeleteManifest(ctx, "v1", d) }},
	{"blob size", "HEAD blob", func(ctx context.Context, r Repository, d v1.Hash) error { _, err := r.BlobSize(ctx, d); return err }},
	{"blob", "GET blob", func(ctx context.Context, r Repository, d v1.Hash) error { _, err := r.Blob(ctx, d, 0, -1); return err }},
	{"read blob", "GET blob", func(ctx context.Context, r Repository, d v1.Hash) error {
		_, err := ReadBlob(ctx, r, d, 100_000)
		return err
	}},
	{"put blob", "POST upload", func(ctx context.Context, r Repository, _ v1.Hash) error {
		_, err := r.PutBlob(ctx, []byte("x"))
		return err
	}},
	{"put blob's end", "PUT upload", func(ctx context.Context, r Repository, _ v1.Hash) error {
		_, err := r.PutBlob(ctx, []byte("x"))
		return err
	}},
	{"small stream", "PUT upload", func(ctx context.Context, r Repository, _ v1.Hash) error {
		_, err := r.WriteBlob(ctx, writing(100, new(int)))
		return err
	}},
	{"stream", "PATCH upload", func(ctx context.Context, r Repository, _ v1.Hash) error {
		_, err := r.WriteBlob(ctx, writing(200_000, new(int)))
		return err
	}},
	{"stream's end", "PUT upload", func(ctx context.Context, r Repository, _ v1.Hash) error {
		_, err := r.WriteBlob(ctx, writing(200_000, new(int)))
		return err
	}},
}

// settled waits until the number of goroutines is back at what it was.
func settled(t *testing.T, before int) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// started begins a test of goroutines; what it returns ends it.
func started(t *testing.T) (f *fake, end func()) {
	before := runtime.NumGoroutine()
	tr := http.DefaultTransport.(*http.Transport).Clone()
	f = newFake(t)
	f.auth = true
	f.opts.Transport = tr
	return f, func() {
		t.Helper()
		tr.CloseIdleConnections()
		settled(t, before+2) // the server's own two
	}
}

func TestCancel(t *testing.T) {
	stop := errors.New("the user has had enough")
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			f, end := started(t)
			d := f.put(content(100_000))
			r := f.open()
			f.rules = []*rule{{kind: op.kind, times: 99, answer: hang}}
			ctx, cancel := context.WithCancelCause(context.Background())
			errs := make(chan error, 1)
			go func() { errs <- op.do(ctx, r, digestOf(t, d)) }()
			waitFor(t, func() bool { return slices.Contains(f.requests(), op.kind) })
			n := len(f.requests())
			start := time.Now()
			cancel(stop)
			err := <-errs
			if took := time.Since(start); took > time.Second {
				t.Errorf("it took %s", took)
			}
			if !errors.Is(err, stop) && !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if len(f.requests()) > n {
				t.Errorf("more requests after the end: %q", f.requests()[n:])
			}
			end()
		})
	}
	t.Run("before the start", func(t *testing.T) {
		f := newFake(t)
		d := f.put(content(100_000))
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(stop)
		for _, op := range operations {
			if err := op.do(ctx, f.open(), digestOf(t, d)); !errors.Is(err, stop) && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: got %v", op.name, err)
			}
		}
		if len(f.requests()) > 0 {
			t.Errorf("got requests %q", f.requests())
		}
	})
	t.Run("while it waits for the next try", func(t *testing.T) {
		for _, op := range operations {
			f := newFake(t, rule{kind: op.kind, times: 99, answer: answer(500, "X", "x")})
			f.auth = true
			d := f.put(content(100_000))
			r := f.open()
			r.retry.base, r.retry.max = time.Minute, time.Minute
			start := time.Now()
			err := op.do(within(t, 50*time.Millisecond), r, digestOf(t, d))
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 2*time.Second {
				t.Errorf("%s: got %v after %s", op.name, err, time.Since(start))
			}
		}
	})
}

func TestStall(t *testing.T) {
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			f, end := started(t)
			d := f.put(content(100_000))
			r := f.open()
			r.setStall(60 * time.Millisecond)
			f.rules = []*rule{{kind: op.kind, times: 99, answer: hang}}
			start := time.Now()
			err := op.do(within(t, 20*time.Second), r, digestOf(t, d))
			if !errors.Is(err, stall.ErrStalled) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
			end()
		})
	}
}

// hold sends the first bytes of a body, then nothing more.
func hold(b []byte) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", "100000")
		w.Write(b)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
}

func TestStallInABody(t *testing.T) {
	f, end := started(t)
	data := content(100_000)
	d := digestOf(t, f.put(data))
	r := f.open()
	r.setStall(250 * time.Millisecond)
	f.rules = []*rule{
		{kind: "GET blob", times: 2, answer: hold(data[:5000])},
		{kind: "GET tags", times: 1, answer: hold([]byte(`{"tags":[`))},
	}
	body, err := r.Blob(within(t, 5*time.Second), d, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, body); n != 5000 || !errors.Is(err, stall.ErrStalled) {
		t.Errorf("got %d bytes, %v", n, err)
	}
	body.Close()
	if _, err := ReadBlob(within(t, 5*time.Second), r, d, 100_000); err != nil {
		t.Errorf("not read again: %v", err)
	}
	if _, err := r.Tags(within(t, 5*time.Second)); err != nil {
		t.Errorf("tags: %v", err)
	}
	end()
}

// Only the registry's part of the time counts.
func TestSlowSidesAreNoStall(t *testing.T) {
	f := newFake(t)
	data := content(300_000)
	d := digestOf(t, f.put(data))
	r := f.open()
	r.setStall(250 * time.Millisecond)
	t.Run("reader", func(t *testing.T) {
		body, err := r.Blob(t.Context(), d, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		if _, err := io.CopyN(io.Discard, body, 1000); err != nil {
			t.Fatal(err)
		}
		time.Sleep(700 * time.Millisecond)
		if n, err := io.Copy(io.Discard, body); n != 299_000 || err != nil {
			t.Errorf("got %d bytes, %v", n, err)
		}
	})
	t.Run("writer", func(t *testing.T) {
		calls := 0
		_, err := r.WriteBlob(t.Context(), func(w io.Writer) error {
			calls++
			if _, err := w.Write(data); err != nil {
				return err
			}
			time.Sleep(700 * time.Millisecond)
			_, err := w.Write(data)
			return err
		})
		if err != nil || calls != 1 {
			t.Errorf("got %v after %d calls", err, calls)
		}
	})
	t.Run("slow but moving", func(t *testing.T) {
		f.mu.Lock()
		f.rules = []*rule{{kind: "GET blob", answer: func(w http.ResponseWriter, _ *http.Request) bool {
			for i := 0; i < len(data); i += 30_000 {
				w.Write(data[i : i+30_000])
				w.(http.Flusher).Flush()
				time.Sleep(60 * time.Millisecond)
			}
			return true
		}}}
		f.mu.Unlock()
		if _, err := ReadBlob(t.Context(), r, d, int64(len(data))); err != nil {
			t.Error(err)
		}
	})
	t.Run("the copying of a large blob", func(t *testing.T) {
		ctx := stall.WithPatience(t.Context(), 10*time.Second)
		f.mu.Lock()
		f.rules = []*rule{{kind: "POST upload", answer: func(http.ResponseWriter, *http.Request) bool {
			time.Sleep(700 * time.Millisecond)
			return false
		}}}
		f.mu.Unlock()
		if _, err := r.startUpload(ctx); err != nil {
			t.Error(err)
		}
	})
}

// A registry that takes no bytes holds a stream up as well.
func TestStallOfAStream(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			b := make([]byte, 4096)
			for { // answers each request but a PATCH, whose body it leaves alone
				n, err := c.Read(b)
				if err != nil || strings.HasPrefix(string(b[:n]), "PATCH") {
					break
				}
				switch {
				case strings.HasPrefix(string(b[:n]), "GET"):
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				case strings.HasPrefix(string(b[:n]), "POST"):
					io.WriteString(c, "HTTP/1.1 202 Accepted\r\nLocation: /u\r\nContent-Length: 0\r\n\r\n")
				default: // the attempt to speak TLS
					io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
				}
			}
		}
	}()
	r := quick(t, l.Addr().String()+"/a/b", Options{})
	r.setStall(80 * time.Millisecond)
	r.retry.tries = 2
	calls := 0
	_, err = r.WriteBlob(within(t, 20*time.Second), writing(64<<20, &calls))
	if !errors.Is(err, stall.ErrStalled) || calls != 2 {
		t.Errorf("got %v after %d calls", err, calls)
	}
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen")
		}
	}
}
