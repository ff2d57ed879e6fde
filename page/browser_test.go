package page

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/registrytest"
)

// browser returns a page as Chromium has it after its scripts have run, and
// what it has logged.
func browser(t *testing.T, address string) (dom, log string) {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		program, err = exec.LookPath("google-chrome")
	}
	if err != nil {
		registrytest.Missing(t, "chromium is not installed (on Debian: apt-get install chromium)")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
		"--user-data-dir="+t.TempDir(), "--virtual-time-budget=10000", "--dump-dom", address)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		t.Fatalf("chromium: %v\n%s", err, stderr.String())
	}
	return stdout.String(), stderr.String()
}

// The pages work in a browser, under their own policy: the style sheet counts,
// and the script adds a button to what can be copied.
func TestBrowser(t *testing.T) {
	f := newFake(t)
	f.small()
	s := httptest.NewServer(mounted(f.page()))
	defer s.Close()
	for _, name := range []string{"/", "/_page/paths?q=app"} {
		dom, log := browser(t, s.URL+name)
		if strings.Contains(log, "CONSOLE") {
			t.Errorf("%s: the browser complains: %s", name, log)
		}
		if name == "/" && !strings.Contains(dom, `<div class="copy ready">`) {
			t.Errorf("%s: there is no button to copy: %s", name, dom)
		}
		if !strings.Contains(dom, "app-1.1") {
			t.Errorf("%s: got %s", name, dom)
		}
	}
}

// The exported pages search by themselves where a server has them, and say
// that they cannot where there is none.
func TestBrowserSearchesExport(t *testing.T) {
	f := newFake(t)
	f.small()
	f.large(500, layered)
	dir := t.TempDir()
	if _, err := f.page().Export(t.Context(), func(name string, body []byte) error {
		file := filepath.Join(dir, "sub", filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		return os.WriteFile(file, body, 0o600)
	}); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer s.Close()
	dom, log := browser(t, s.URL+"/sub/paths.html?q=App-1.")
	if strings.Contains(log, "CONSOLE") {
		t.Errorf("the browser complains: %s", log)
	}
	rows := strings.Count(dom, `<th scope="row" class="name">`)
	if rows != 3 || !strings.Contains(dom, "3 store paths") || !strings.Contains(dom, ">app-1.2-pre</a>") || !strings.Contains(dom, "newest of main") {
		t.Errorf("got %d rows: %s", rows, dom)
	}
	dom, _ = browser(t, "file://"+dir+"/sub/paths.html?q=app")
	if !strings.Contains(dom, "The search needs paths.json") || strings.Count(dom, `<th scope="row" class="name">`) != rowsExported {
		t.Errorf("without a server: got %s", dom)
	}
}
