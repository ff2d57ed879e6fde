package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/registry"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

const testPublicKey = "a-1:nU/nheBrtBOFA5txd4mLVAiotpi/gXpqIjXM5Ftg/2g="

func TestConfig(t *testing.T) {
	home := []string{"HOME", "/home/u"}
	fallback := config{
		caches: []string{"oci:/home/u/.local/share/nixoci/cache"}, refresh: 5 * time.Minute, cacheDir: "/home/u/.cache/nixoci",
		maxConnections: 4096, drain: 10 * time.Second, accessLog: "off", page: pageAuto,
		indexMemory: 512 << 20, upstreamNARs: "redirect",
	}
	with := func(change func(*config)) config {
		c := fallback
		change(&c)
		return c
	}
	for _, tc := range []struct {
		name string
		args []string
		env  []string
		want config
		err  string
	}{
		{name: "defaults", env: home, want: fallback},
		{
			name: "flags",
			args: []string{"--cache", "localhost:5000/x/y", "--listen", "[::1]:0", "--upstream", "https://a.example", "--upstream", "https://b.example", "--refresh", "30s", "--cache-dir", "/d"},
			env:  append(home, "NIXOCI_CACHE", "localhost:1/no/no", "NIXOCI_REFRESH", "1h"),
			want: with(func(c *config) {
				c.caches, c.listen, c.upstream = []string{"localhost:5000/x/y"}, []string{"[::1]:0"}, []string{"https://a.example", "https://b.example"}
				c.refresh, c.cacheDir = 30*time.Second, "/d"
			}),
		},
		{
			name: "environment",
			env:  append(home, "NIXOCI_CACHE", "oci:/c", "NIXOCI_LISTEN", "127.0.0.1:1", "NIXOCI_UPSTREAM", "https://a.example https://b.example", "NIXOCI_REFRESH", "1m", "NIXOCI_CACHE_DIR", "/d"),
			want: with(func(c *config) {
				c.caches, c.listen, c.upstream = []string{"oci:/c"}, []string{"127.0.0.1:1"}, []string{"https://a.example", "https://b.example"}
				c.refresh, c.cacheDir = time.Minute, "/d"
			}),
		},
		{
			name: "as a service",
			args: []string{"--listen", "127.0.0.1:1", "--listen", "[::1]:1", "--nar-cache", "20GB", "--tls-cert", "/c", "--tls-key", "/k", "--max-connections", "9", "--drain", "5m", "--access-log", "-"},
			env:  home,
			want: with(func(c *config) {
				c.listen, c.narCache, c.tlsCert, c.tlsKey = []string{"127.0.0.1:1", "[::1]:1"}, 20e9, "/c", "/k"
				c.maxConnections, c.drain, c.accessLog = 9, 5*time.Minute, "-"
			}),
		},
		{name: "redirect", env: home, args: []string{"--cache", "localhost:5000/x/y", "--redirect"}, want: with(func(c *config) { c.caches, c.redirect = []string{"localhost:5000/x/y"}, true })},
		{name: "redirect to a directory", env: home, args: []string{"--redirect"}, err: "--redirect needs a registry"},
		{name: "two of one", env: home, args: []string{"--cache", "localhost:5000/x/y", "--redirect", "--nar-cache", "1GB"}, err: "exclude each other"},
		{name: "half of TLS", env: home, args: []string{"--tls-key", "/k", "--max-connections", "0"}, err: "belong together|--max-connections 0"},
		{name: "NARs nowhere", args: []string{"--cache", "oci:/c", "--nar-cache", "1GB"}, err: "needs a --cache-dir"},
		{name: "in Actions", env: append(home, "GITHUB_ACTIONS", "true", "GITHUB_REPOSITORY", "Own/Repo"), want: with(func(c *config) { c.caches = []string{"ghcr.io/own/repo/nix-cache"} })},
		{
			name: "several", env: append(home, "NIXOCI_CACHE", "oci:/with a space\nghcr.io/o/r"),
			want: with(func(c *config) { c.caches = []string{"oci:/with a space", "ghcr.io/o/r"} }),
		},
		{name: "one with a space", env: append(home, "NIXOCI_CACHE", "oci:/with a space"), want: with(func(c *config) { c.caches = []string{"oci:/with a space"} })},
		{
			name: "any", args: []string{"--allow", "ghcr.io/o/*", "--allow", "http://r.lan:5000/**", "--own-credentials", "--index-memory", "2GiB"}, env: home,
			want: with(func(c *config) {
				c.caches, c.allow, c.ownCredentials, c.indexMemory = nil, []string{"ghcr.io/o/*", "http://r.lan:5000/**"}, true, 2<<30
			}),
		},
		{name: "any, without a home", args: []string{"--allow", "**", "--cache-dir", "/d"}, want: with(func(c *config) { c.caches, c.allow, c.cacheDir = nil, []string{"**"}, "/d" })},
		{
			name: "any, and some at the root", args: []string{"--allow", "**", "--cache", "oci:/c", "--upstream", "https://a.example", "--upstream-nars", "stream"}, env: home,
			want: with(func(c *config) {
				c.caches, c.allow, c.upstream, c.upstreamNARs = []string{"oci:/c"}, []string{"**"}, []string{"https://a.example"}, "stream"
			}),
		},
		{name: "any, wrong", args: []string{"--allow", "x", "--allow", "http://*/y", "--upstream", "https://a.example", "--index-memory", "1MB"}, env: home, err: "names no repository|wildcard|--upstream is for|--index-memory"},
		{name: "own credentials of one cache", args: []string{"--own-credentials"}, env: home, err: "--own-credentials is for --allow"},
		{name: "NARs of many", env: home, args: []string{"--allow", "**", "--nar-cache", "1GB"}, err: "--nar-cache and --allow"},
		{name: "twice", args: []string{"--cache", "oci:/c", "--cache", "oci:/c"}, env: home, err: "given twice"},
		{name: "publish's none", env: append(home, "NIXOCI_UPSTREAM", "none"), want: with(func(c *config) { c.upstream = []string{} })},
		{name: "no home", args: []string{"--cache", "oci:/c"}, want: with(func(c *config) { c.caches, c.cacheDir = []string{"oci:/c"}, "" })},
		{name: "no home, no cache", err: "HOME"},
		{
			name: "push", env: append(home, "NIX_SIGNING_KEY", "k"),
			args: []string{"--allow-push", "--push-token-file", "t", "--sign-key-file", "a", "--sign-key-file", "b", "--require-signatures", "--push-series", "s", "--trusted-key", testPublicKey},
			want: with(func(c *config) {
				c.allowPush, c.tokenFile, c.keyFiles, c.keyText, c.requireSig, c.series = true, "t", []string{"a", "b"}, "k", true, "s"
				c.trusted = []string{testPublicKey}
			}),
		},
		{name: "keys for publish", env: append(home, "NIX_SIGNING_KEY", "k", "NIXOCI_TRUSTED_KEY", testPublicKey), want: with(func(c *config) { c.trusted = []string{testPublicKey} })},
		{
			name: "push by everybody", env: append(home, "NIX_SIGNING_KEY", "k"), args: []string{"--allow-push", "--refresh", "1ms"},
			err: "--allow-push with a signing key needs --push-token-file|--refresh 1ms",
		},
		{name: "push by everybody, a key file", env: home, args: []string{"--allow-push", "--sign-key-file", "k", "--require-signatures"}, err: "needs --push-token-file"},
		{name: "push without a key", env: home, args: []string{"--allow-push"}, want: with(func(c *config) { c.allowPush = true })},
		{name: "signatures of nobody", env: home, args: []string{"--allow-push", "--require-signatures"}, err: "--require-signatures needs a key to check with"},
		{name: "no public key", env: home, args: []string{"--allow-push", "--trusted-key", "x:y", "--trusted-key", "S3CRET"}, err: "--trusted-key: x is no public key|has no name"},
		{name: "push to several", args: []string{"--cache", "oci:/a", "--cache", "oci:/b", "--allow-push"}, env: home, err: "--allow-push needs one --cache"},
		{name: "push to any", args: []string{"--allow", "**", "--allow-push"}, env: home, err: "--allow-push needs one --cache"},
		{name: "no push", env: home, args: []string{"--require-signatures"}, err: "need --allow-push"},
		{name: "argument", env: home, args: []string{"x"}, err: `unexpected argument "x"`},
		{name: "all that is wrong", env: home, args: []string{"--cache", "nowhere", "--listen", "37515", "--upstream", "ftp://x", "--refresh", "1ms"}, err: "nowhere|37515|ftp://x|1ms"},
		{name: "port by name", env: home, args: []string{"--listen", "localhost:http"}, err: "no address"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseConfig(tc.args, env(tc.env...))
			if tc.err == "" {
				if err != nil || !reflect.DeepEqual(got, tc.want) {
					t.Errorf("got %+v, %v; want %+v", got, err, tc.want)
				}
				return
			}
			for _, part := range strings.Split(tc.err, "|") {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("got %v, want an error with %q", err, part)
				}
			}
			if status := cli.Report(t.Context(), err, env(), io.Discard, io.Discard); status != cli.ExitUsage {
				t.Errorf("got status %d, want %d", status, cli.ExitUsage)
			}
		})
	}
}

// output collects what the command writes while it runs.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// running is a proxy that has printed its lines.
type running struct {
	stdout, stderr output
	stop           func() (status int)
}

func startProxy(t *testing.T, within time.Duration, args ...string) *running {
	t.Helper()
	p := &running{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() {
		args := append([]string{"--listen", "127.0.0.1:0", "--cache-dir", t.TempDir()}, args...)
		done <- Run(ctx, args, env(), nil, &p.stdout, &p.stderr)
	}()
	p.stop = sync.OnceValue(func() int {
		cancel()
		select {
		case status := <-done:
			return status
		case <-time.After(20 * time.Second):
			t.Error("the proxy did not stop")
			return -1
		}
	})
	t.Cleanup(func() { p.stop() })
	for deadline := time.Now().Add(within); p.stdout.String() == ""; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the proxy is not ready after %s: %s", within, p.stderr.String())
		}
	}
	return p
}

// url is the substituter that the proxy printed.
func (p *running) url(t *testing.T) string {
	t.Helper()
	first, _, _ := strings.Cut(p.stdout.String(), "\n")
	url, ok := strings.CutPrefix(first, "extra-substituters = ")
	if !ok {
		t.Fatalf("got %q, want the substituter first", p.stdout.String())
	}
	return url
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
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

func TestServesUntilStopped(t *testing.T) {
	const key = "test-1:Yeaqy3FM9MFKA/J0HCnQqZm7LfZ9lCcS3Mqf7JYLb9s="
	cache := "oci:" + filepath.Join(t.TempDir(), "cache")
	repo, err := registry.Open(cache, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := index.Open(repo, index.Options{Settle: time.Millisecond})
	base, err := c.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, index.WriterOptions{Config: format.Config{PublicKeys: []string{key}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(t.Context(), &format.Publication{Time: time.Now()}); err != nil {
		t.Fatal(err)
	}

	p := startProxy(t, 10*time.Second, "--cache", cache)
	url := p.url(t)
	if got, want := p.stdout.String(), "extra-substituters = "+url+"\nextra-trusted-public-keys = "+key+"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if status, body := get(t, url+"/nix-cache-info"); status != 200 || !strings.Contains(body, "StoreDir: /nix/store\n") {
		t.Errorf("nix-cache-info: got %d, %q", status, body)
	}
	if status, body := get(t, url+"/_status"); status != 200 || !strings.Contains(body, cache) {
		t.Errorf("_status: got %d, %q", status, body)
	}
	if !strings.Contains(p.stderr.String(), "ready: 0 store paths of "+cache+" on "+url+"\n") || strings.Contains(p.stderr.String(), "warning") {
		t.Errorf("got on stderr: %s", p.stderr.String())
	}

	none := startProxy(t, 10*time.Second, "--cache", "oci:"+filepath.Join(t.TempDir(), "none"))
	none.url(t)
	if !strings.Contains(none.stderr.String(), "warning: there is no cache oci:") || !strings.Contains(none.stderr.String(), "The first publish makes") {
		t.Errorf("a cache that is not there: got on stderr: %s", none.stderr.String())
	}

	taken := strings.TrimPrefix(url, "http://")
	var stderr bytes.Buffer
	if status := Run(t.Context(), []string{"--cache", cache, "--listen", taken}, env(), nil, io.Discard, &stderr); status != cli.ExitFailed || !strings.Contains(stderr.String(), "hint: is another proxy running?") {
		t.Errorf("a port that is taken: got %d, %s", status, stderr.String())
	}

	if status := p.stop(); status != cli.ExitDone {
		t.Errorf("got status %d after a signal, want %d", status, cli.ExitDone)
	}
	if _, err := net.Dial("tcp", taken); err == nil {
		t.Error("it still listens")
	}
}

// A substituter that Nix knows and that is not there fails builds.
func TestComesUpWithoutTheRegistry(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nobody listens there
	p := startProxy(t, 45*time.Second, "--cache", l.Addr().String()+"/a/b")
	if !strings.Contains(p.stderr.String(), "warning: serving nothing until the registry answers") {
		t.Errorf("no warning: %s", p.stderr.String())
	}
	if status, _ := get(t, p.url(t)+"/00000000000000000000000000000000.narinfo"); status != 404 {
		t.Errorf("a narinfo: got %d, want 404", status)
	}
}

func TestInterruptedWhileItWaits(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, errors.New("signal"))
	defer cancel()
	var stdout, stderr bytes.Buffer
	status := Run(ctx, []string{"--cache", l.Addr().String() + "/a/b", "--listen", "127.0.0.1:0", "--cache-dir", t.TempDir()}, env(), nil, &stdout, &stderr)
	if status != cli.ExitInterrupted || stdout.Len() > 0 {
		t.Errorf("got status %d and %q, want %d and nothing; %s", status, stdout.String(), cli.ExitInterrupted, stderr.String())
	}
}

func TestClientURL(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:1": "http://127.0.0.1:1",
		"[::1]:2":     "http://[::1]:2",
		"0.0.0.0:3":   "http://127.0.0.1:3",
		"[::]:4":      "http://127.0.0.1:4",
		"10.1.2.3:5":  "http://10.1.2.3:5",
	} {
		a, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := clientURL(a, false); got != want {
			t.Errorf("%s: got %s, want %s", addr, got, want)
		}
		if got, want := clientURL(a, true), strings.Replace(want, "http:", "https:", 1); got != want {
			t.Errorf("%s with TLS: got %s, want %s", addr, got, want)
		}
	}
}

// The page is there for this machine, under no name that another site can
// take; Nix's paths are not its own.
func TestPage(t *testing.T) {
	t.Parallel()
	cache := "oci:" + filepath.Join(t.TempDir(), "cache")
	for _, tc := range []struct {
		page string
		host string
		want int
	}{
		{"auto", "", 200}, {"auto", "localhost:1", 200}, {"auto", "[::1]", 200}, {"auto", "evil.example.org", 403}, {"auto", "127.0.0.1.example.org", 403},
		{"auto", "cache.example.org", 200}, {"on", "cache.example.org:80", 200}, {"on", "evil.example.org", 403}, {"off", "", 404}, {"off", "evil.example.org", 404},
	} {
		p := startProxy(t, 10*time.Second, "--cache", cache, "--page", tc.page, "--host", "cache.example.org")
		for _, name := range []string{"/", "/_page/use", "/_page/health"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url(t)+name, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = tc.host
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != tc.want || tc.want == 200 && !strings.Contains(string(body), cache) {
				t.Errorf("--page %s, %s for %q: got %d, %s", tc.page, name, tc.host, resp.StatusCode, body)
			}
		}
		if status, _ := get(t, p.url(t)+"/nix-cache-info"); status != 200 {
			t.Errorf("--page %s: nix-cache-info: got %d", tc.page, status)
		}
		p.stop()
	}
}

// What a cache has for Nix is answered under every name. A page in a browser that has
// pointed its name here reads nothing else, and refreshes nothing.
func TestNames(t *testing.T) {
	t.Parallel()
	cache := "oci:" + filepath.Join(t.TempDir(), "cache")
	for name, args := range map[string][]string{
		"one cache":   {"--cache", cache, "--page", "off"},
		"several":     {"--cache", cache, "--cache", cache + "2"},
		"by its name": {"--allow", "localhost:1/**", "--cache", cache},
	} {
		p := startProxy(t, 10*time.Second, args...)
		ask := func(method, path, host string) int {
			req, err := http.NewRequestWithContext(t.Context(), method, p.url(t)+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = host
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			return resp.StatusCode
		}
		for _, path := range []string{"/_status", "/metrics", "/localhost:1/x/_status"} {
			if got := ask(http.MethodGet, path, "evil.example.org"); got != 403 {
				t.Errorf("%s: %s: got %d", name, path, got)
			}
			if got := ask(http.MethodGet, path, "localhost"); got == 403 {
				t.Errorf("%s: %s as localhost: got %d", name, path, got)
			}
		}
		for _, path := range []string{"/_refresh", "/localhost:1/x/_refresh"} {
			if got := ask(http.MethodPost, path, "evil.example.org"); got != 403 {
				t.Errorf("%s: %s: got %d", name, path, got)
			}
		}
		for _, path := range []string{"/nix-cache-info", "/public-key", "/4cggaifbp1fc8zhsdrk9pzi45ifqk6i6.narinfo", "/healthz"} {
			if got := ask(http.MethodGet, path, "cache.example.org"); got != 200 && got != 404 {
				t.Errorf("%s: %s: got %d", name, path, got)
			}
		}
		p.stop()
	}
}

// Where everybody reaches the proxy, the page is for those who ask for it.
func TestPageElsewhere(t *testing.T) {
	t.Parallel()
	cache := "oci:" + filepath.Join(t.TempDir(), "cache")
	for page, want := range map[string]int{"auto": 404, "on": 200} {
		p := startProxy(t, 10*time.Second, "--cache", cache, "--listen", "0.0.0.0:0", "--page", page)
		if status, _ := get(t, p.url(t)+"/"); status != want {
			t.Errorf("--page %s: got %d, want %d", page, status, want)
		}
		p.stop()
	}
}
