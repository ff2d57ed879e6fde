package httpd

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestAccessLog(t *testing.T) {
	var out buffer
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/cut" {
			_, _ = io.WriteString(w, "some")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "nothing")
	})
	r := start(t, Options{Handler: handler, AccessLog: NewAccessLog(&out, slog.String("cache", "a/b"))})
	r.Ready("")
	const secret = "hunter2"
	req, err := http.NewRequest(http.MethodGet, "http://"+r.addr+"/p%22q%0a?token="+secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("user", secret)
	req.Header.Set("User-Agent", "curl/8 Nix/2 "+strings.Repeat("x", 10_000))
	req.Header.Set("Cookie", secret)
	c := client(t)
	for range 2 {
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		req.Method = http.MethodHead
	}
	if resp, err := c.Get("http://" + r.addr + "/cut"); err == nil {
		resp.Body.Close()
	}
	eventually(t, "three lines", func() bool { return strings.Count(out.String(), "\n") == 3 })
	if strings.Contains(out.String(), secret) || strings.Contains(out.String(), "dXNlcjpodW50ZXIy") {
		t.Errorf("a secret was logged: %s", out.String())
	}
	var lines []map[string]any
	for line := range strings.Lines(out.String()) {
		if len(line) > 1024 {
			t.Errorf("a line of %d bytes", len(line))
		}
		var l map[string]any
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		if at, err := time.Parse(time.RFC3339Nano, l["time"].(string)); err != nil || time.Since(at) > patience {
			t.Errorf("got the time %v", l["time"])
		}
		if s, ok := l["seconds"].(float64); !ok || s < 0 || s > patience.Seconds() {
			t.Errorf("got %v seconds", l["seconds"])
		}
		delete(l, "time")
		delete(l, "seconds")
		l["agent"], _, _ = strings.Cut(l["agent"].(string), " ")
		lines = append(lines, l)
	}
	first := map[string]any{"cache": "a/b", "method": "GET", "path": "/p\"q\n", "status": 404., "bytes": 7., "agent": "curl/8", "client": "127.0.0.1"}
	head := map[string]any{"cache": "a/b", "method": "HEAD", "path": "/p\"q\n", "status": 404., "bytes": 0., "agent": "curl/8", "client": "127.0.0.1"}
	cut := map[string]any{"cache": "a/b", "method": "GET", "path": "/cut", "status": 200., "bytes": 4., "agent": "Go-http-client/1.1", "client": "127.0.0.1"}
	for i, want := range []map[string]any{first, head, cut} {
		got, _ := json.Marshal(lines[i])
		if w, _ := json.Marshal(want); string(got) != string(w) {
			t.Errorf("line %d: got %s, want %s", i, got, w)
		}
	}
}

func TestAccessLogIsReopened(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	log, err := OpenAccessLog(name, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	reloads := make(chan os.Signal)
	r := start(t, Options{Handler: text(""), AccessLog: log, Reloads: reloads})
	r.Ready("")
	c := client(t)
	lines := func(name string) int {
		b, _ := os.ReadFile(name)
		return bytes.Count(b, []byte("\n"))
	}
	get(t, c, "http://"+r.addr)
	eventually(t, "a line", func() bool { return lines(name) == 1 })
	if err := os.Rename(name, name+".1"); err != nil {
		t.Fatal(err)
	}
	get(t, c, "http://"+r.addr) // still to the old one
	eventually(t, "a second line", func() bool { return lines(name+".1") == 2 })
	reloads <- syscall.SIGHUP
	eventually(t, "a new file", func() bool { _, err := os.Stat(name); return err == nil })
	get(t, c, "http://"+r.addr)
	eventually(t, "a line in the new file", func() bool { return lines(name) == 1 && lines(name+".1") == 2 })
}

func TestAccessLogFails(t *testing.T) {
	if _, err := OpenAccessLog(t.TempDir()+"/no/log", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("got no error")
	}
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no disk that is always full: ", err)
	}
	var warned buffer
	log, err := OpenAccessLog("/dev/full", slog.New(slog.NewTextHandler(&warned, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	r := start(t, Options{Handler: text("ok"), AccessLog: log})
	r.Ready("")
	for range 3 {
		if _, body := get(t, client(t), "http://"+r.addr); body != "ok" {
			t.Errorf("got %q", body)
		}
	}
	eventually(t, "a warning", func() bool { return warned.String() != "" })
	if n := strings.Count(warned.String(), "\n"); n != 1 || !strings.Contains(warned.String(), "no space left") {
		t.Errorf("got %q", warned.String())
	}
}
