package proxy

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
	"github.com/org/nixoci-action/internal/secret"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/proxy"
)

// publishTo makes an empty cache.
func publishTo(t *testing.T, cache string, conf format.Config) {
	t.Helper()
	repo, err := registry.Open(cache, registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	c := index.Open(repo, index.Options{Settle: time.Millisecond})
	base, err := c.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, index.WriterOptions{Config: conf})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(t.Context(), &format.Publication{Time: time.Now()}); err != nil {
		t.Fatal(err)
	}
}

// handler is what a proxy with these arguments serves.
func handler(t *testing.T, getenv func(string) string, args ...string) http.Handler {
	t.Helper()
	c, err := parseConfig(append(args, "--cache-dir", t.TempDir()), getenv)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s, err := (&opener{config: c, getenv: getenv, log: ui.New(&log, getenv).Logger(0), metrics: proxy.NewMetrics(), secrets: &secret.Set{}}).service(t.Context())
	t.Cleanup(func() { t.Log(log.String()) })
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare(t.Context()); err != nil {
		t.Log(err)
	}
	return s
}

func ask(h http.Handler, path string, login ...string) int {
	r := httptest.NewRequest("GET", path, nil)
	if len(login) > 0 {
		r.SetBasicAuth(login[0], login[1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}

// dockerLogin makes this test's docker login.
func dockerLogin(t *testing.T, host, user, password string) {
	t.Helper()
	dir := t.TempDir()
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	if err := os.WriteFile(filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, auth), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("HOME", dir)
}

// The proxy's own logins open nothing for others, unless it is told so.
func TestOwnCredentials(t *testing.T) {
	backend := registrytest.GGCR(t)
	reg := registrytest.NewPrivate(t, backend, true)
	reg.User("owner", "hunter2", "org/")
	reg.User("client", "secret", "org/b")
	publishTo(t, backend+"/org/a", format.Config{})
	publishTo(t, backend+"/org/b", format.Config{})
	dockerLogin(t, reg.Addr, "owner", "hunter2")
	getenv := env("NIXOCI_USERNAME", "owner", "NIXOCI_PASSWORD", "hunter2")
	a, b := "/"+reg.Addr+"/org/a/nix-cache-info", "/"+reg.Addr+"/org/b/nix-cache-info"

	closed := handler(t, getenv, "--allow", reg.Addr+"/org/*")
	if x, y := ask(closed, a), ask(closed, b, "client", "secret"); x != 403 || y != 200 {
		t.Errorf("got %d and %d, want 403 and 200", x, y)
	}
	if ask(closed, a, "client", "secret") != 403 {
		t.Error("a client gets with his own login what only the proxy's may read")
	}
	for _, q := range reg.Requests() {
		if strings.HasPrefix(q, "owner ") {
			t.Errorf("the proxy's own login was used: %s", q)
		}
	}

	shared := handler(t, getenv, "--allow", reg.Addr+"/org/*", "--own-credentials")
	if x, y, z := ask(shared, a), ask(shared, b, "client", "secret"), ask(shared, a, "client", "secret"); x != 200 || y != 200 || z != 403 {
		t.Errorf("with --own-credentials: got %d, %d, %d, want 200, 200, 403", x, y, z)
	}
}

// What the proxy's user has read himself, with his own login, lies on the disk,
// and is not served from there.
func TestDiskCopyIsNotServed(t *testing.T) {
	backend := registrytest.GGCR(t)
	reg := registrytest.NewPrivate(t, backend, false)
	reg.User("owner", "hunter2", "org/")
	publishTo(t, backend+"/org/a", format.Config{PublicKeys: []string{"test-1:Yeaqy3FM9MFKA/J0HCnQqZm7LfZ9lCcS3Mqf7JYLb9s="}})
	dir := t.TempDir()
	own, err := registry.Open(reg.Addr+"/org/a", registry.Options{Keychain: cli.Password("owner", "hunter2")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := index.Open(own, index.Options{Dir: dir}).Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := index.Open(own, index.Options{Dir: dir}).Load(); err != nil {
		t.Fatalf("there is no copy, so this test shows nothing: %v", err)
	}
	c, err := parseConfig([]string{"--allow", reg.Addr + "/org/*", "--cache-dir", dir}, env())
	if err != nil {
		t.Fatal(err)
	}
	s, err := (&opener{config: c, getenv: env(), log: ui.New(&output{}, env()).Logger(0), secrets: &secret.Set{}}).service(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"nix-cache-info", "public-key"} {
		if got := ask(s, "/"+reg.Addr+"/org/a/"+what); got != 403 {
			t.Errorf("%s: got %d, want 403", what, got)
		}
	}
}

// A wildcard does not lead into the proxy's own network.
func TestWildcardsReachNothingPrivate(t *testing.T) {
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer s.Close()
	addr := strings.TrimPrefix(s.URL, "http://")
	port := addr[strings.LastIndex(addr, ":"):]
	for _, allow := range []string{"**", "127.*/**", "*" + port + "/**"} {
		h := handler(t, env(), "--allow", allow)
		for _, host := range []string{addr, "localhost" + port, "127.1" + port, "[::1]" + port, "169.254.169.254", "10.255.255.1", "metadata.localhost" + port} {
			begin := time.Now()
			if got := ask(h, "/"+host+"/a/b/nix-cache-info", "user", "hunter2"); got != 404 {
				t.Errorf("--allow %s, %s: got %d", allow, host, got)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("--allow %s, %s: it took %s", allow, host, took)
			}
		}
	}
	if got := asked.Load(); got != 0 {
		t.Errorf("%d requests reached this machine", got)
	}
}

// The login in the variables is for the first cache's registry; the others do
// not see it.
func TestLoginOfOneRegistry(t *testing.T) {
	backend := registrytest.GGCR(t)
	first, second := registrytest.NewPrivate(t, backend, false), registrytest.NewPrivate(t, backend, false)
	first.User("u", "hunter2", "a/")
	second.User("u", "hunter2", "a/")
	second.Open("a/open")
	publishTo(t, backend+"/a/b", format.Config{Priority: 11})
	publishTo(t, backend+"/a/open", format.Config{Priority: 12})
	h := handler(t, env("NIXOCI_USERNAME", "u", "NIXOCI_PASSWORD", "hunter2"), "--cache", first.Addr+"/a/b", "--cache", second.Addr+"/a/open")
	if got := ask(h, "/nix-cache-info"); got != 200 {
		t.Errorf("got %d", got)
	}
	if !strings.HasPrefix(strings.Join(first.Requests(), "\n"), "u GET") {
		t.Errorf("the first registry saw %q", first.Requests())
	}
	for _, q := range second.Requests() {
		if !strings.HasPrefix(q, "- ") {
			t.Errorf("the second registry saw a login: %s", q)
		}
	}
	if len(second.Requests()) == 0 {
		t.Error("the second registry was not asked")
	}
}

func TestCachesOfTwoStores(t *testing.T) {
	one, two := "oci:"+t.TempDir(), "oci:"+t.TempDir()
	publishTo(t, one, format.Config{})
	publishTo(t, two, format.Config{StoreDir: "/gnu/store"})
	var stdout, stderr bytes.Buffer
	status := Run(t.Context(), []string{"--cache", one, "--cache", two, "--listen", "127.0.0.1:0", "--cache-dir", t.TempDir()}, env(), nil, &stdout, &stderr)
	if status != cli.ExitFailed || stdout.Len() > 0 || !strings.Contains(stderr.String(), "/gnu/store") || !strings.Contains(stderr.String(), "hint: serve them with a proxy each") {
		t.Errorf("got %d, %q, %s", status, &stdout, &stderr)
	}
}

func TestAnnouncesAllowedCaches(t *testing.T) {
	p := startProxy(t, 10*time.Second, "--allow", "ghcr.io/my-org/*", "--allow", "localhost:5000/**")
	first, _, _ := strings.Cut(p.stdout.String(), "\n")
	if !strings.HasPrefix(first, "# extra-substituters = http://127.0.0.1:") || !strings.HasSuffix(first, "/HOST/NAME") || strings.Count(p.stdout.String(), "\n") != 1 {
		t.Errorf("got %q", p.stdout.String())
	}
	if !strings.Contains(p.stderr.String(), "ready: caches that match ghcr.io/my-org/*, localhost:5000/**") {
		t.Errorf("got on stderr: %s", p.stderr.String())
	}
	if status := p.stop(); status != cli.ExitDone {
		t.Errorf("got status %d", status)
	}
}
