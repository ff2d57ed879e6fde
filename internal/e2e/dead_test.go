package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Where a registry refuses while Nix builds, that is what is said: nobody has
// interrupted anything.
func TestRefusedWhileBuilding(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	building := sync.OnceValue(func() *os.File {
		f, err := os.OpenFile(fifo, os.O_WRONLY, 0) // which waits for the builder
		if err != nil {
			t.Error(err)
		}
		return f
	})
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		building()
		rw.WriteHeader(http.StatusForbidden)
	}))
	defer s.Close()
	flake := w.flake(fmt.Sprintf(`{ outputs = { self }: { packages.%s.default = derivation {
		name = "waits"; system = "%[1]s"; builder = "/bin/sh"; args = [ "-c" "read x < %s; echo > $out" ]; }; }; }`, system, fifo))
	r := w.tryPublish(strings.TrimPrefix(s.URL, "http://")+"/a/b", "--upstream", "none", "--flake", flake)
	defer building().Close()
	if r.code != 1 || !strings.Contains(r.stderr, "403") {
		t.Errorf("got %d:\n%s", r.code, r.stderr)
	}
	if strings.Contains(r.stderr, "interrupted") {
		t.Errorf("it is said that something was interrupted:\n%s", r.stderr)
	}
}

// A registry that is not there is named once, without what was tried.
func TestDeadRegistry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	cache := l.Addr().String() + "/a/b"
	for _, args := range [][]string{{"publish", "--upstream", "none", w.add("x", "x")[0]}, {"gc"}, {"inspect"}} {
		cmd := w.command(args[0], append([]string{"--cache", cache}, args[1:]...)...)
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("%s succeeded", args[0])
		}
		if n := strings.Count(string(out), "connection refused"); n != 1 || !strings.Contains(string(out), "hint: does a registry run at "+l.Addr().String()) {
			t.Errorf("%s: got\n%s", args[0], out)
		}
	}
}
