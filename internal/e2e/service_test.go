package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/nix-community/go-nix/pkg/nixbase32"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
	"github.com/org/nixoci-action/internal/storepath"
)

// daemon is a proxy that runs until it is told to stop.
type daemon struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr syncBuffer
	first  chan string // the first line of standard output
	ended  chan error
}

// launchProxy starts cmd, which is a proxy.
func launchProxy(t *testing.T, cmd *exec.Cmd) *daemon {
	t.Helper()
	d := &daemon{t: t, cmd: cmd, first: make(chan string, 1), ended: make(chan error, 1)}
	cmd.Stderr = &d.stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		sc := bufio.NewScanner(stdout)
		for n := 0; sc.Scan(); n++ {
			if n == 0 {
				d.first <- sc.Text()
			}
		}
		d.ended <- cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		if t.Failed() {
			t.Logf("the proxy's messages:\n%s", d.stderr.String())
		}
	})
	return d
}

// proxyCommand is a proxy with an environment of its own.
func proxyCommand(t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(bin, "nixoci"), append([]string{"proxy"}, args...)...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "GORACE=halt_on_error=1"}
	return cmd
}

// url waits until the proxy is ready.
func (d *daemon) url() string {
	d.t.Helper()
	select {
	case line := <-d.first:
		return strings.TrimPrefix(line, "extra-substituters = ")
	case err := <-d.ended:
		d.t.Fatalf("the proxy ended: %v\n%s", err, d.stderr.String())
	case <-time.After(30 * time.Second):
		d.t.Fatal("the proxy is not ready")
	}
	return ""
}

func (d *daemon) signal(sig os.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		d.t.Fatal(err)
	}
}

// stop ends the proxy, which must end well.
func (d *daemon) stop() {
	d.t.Helper()
	d.signal(syscall.SIGTERM)
	select {
	case err := <-d.ended:
		if err != nil {
			d.t.Errorf("the proxy ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		d.t.Error("the proxy did not stop")
	}
}

// fill puts NARs into a cache, each a store path and a blob.
func fill(t *testing.T, cache string, o registry.Options, nars ...[]byte) []format.Entry {
	t.Helper()
	o.Push = true
	repo, err := registry.Open(cache, o)
	if err != nil {
		t.Fatal(err)
	}
	c := index.Open(repo, index.Options{Settle: time.Millisecond})
	base, err := c.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, index.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var entries []format.Entry
	for _, nar := range nars {
		if _, err := repo.PutBlob(t.Context(), nar); err != nil {
			t.Fatal(err)
		}
		sum, size := sha256.Sum256(nar), int64(len(nar))
		e := format.Entry{
			Path:    storepath.Path{Dir: storepath.DefaultDir, HashPart: nixbase32.EncodeToString(sum[:20]), Name: "x"},
			NarHash: bincache.FormatHash(sum[:]), NarSize: size, FileHash: bincache.FormatHash(sum[:]), Compression: bincache.CompressionZstd,
			NAR: format.Location{Blob: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}, BlobSize: size, Size: size},
		}
		if err := w.Add(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	if _, err := w.Close(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return entries
}

func randomNAR(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// fetchAll reads a URL to its end.
func fetchAll(c *http.Client, url string) (int, []byte, error) {
	resp, err := c.Get(url)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// gate is a registry whose blobs come to a stop in the middle until it opens,
// and which wants a password.
type gate struct {
	addr     string
	password atomic.Pointer[string]
	open     func()        // lets all go
	opened   chan struct{} // closed by open
	stood    chan struct{} // a value for each blob that stands

	mu    sync.Mutex
	blobs map[string]int // requests by path
}

// requests returns how many blobs were asked for since it was called last, and
// how often the one was that was asked for most.
func (g *gate) requests() (blobs, most int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	blobs = len(g.blobs)
	for _, n := range g.blobs {
		most = max(most, n)
	}
	clear(g.blobs)
	return blobs, most
}

// newGate makes blobs larger than a MiB stand.
func newGate(t *testing.T, behind string) *gate {
	t.Helper()
	g := &gate{opened: make(chan struct{}), stood: make(chan struct{}, 100), blobs: map[string]int{}}
	g.open = sync.OnceFunc(func() { close(g.opened) })
	to := &url.URL{Scheme: "http", Host: behind}
	rp := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(to)
			p.Out.Host = p.In.Host
			p.Out.Header.Del("Authorization")
		},
		FlushInterval: -1,
		ModifyResponse: func(resp *http.Response) error {
			if resp.Request.Method == http.MethodGet && strings.Contains(resp.Request.URL.Path, "/blobs/") {
				g.mu.Lock()
				g.blobs[resp.Request.URL.Path]++
				g.mu.Unlock()
				if resp.ContentLength > 1<<20 {
					resp.Body = &standing{resp.Body, g, 1 << 20}
				}
			}
			return nil
		},
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := g.password.Load(); p != nil {
			if _, got, _ := r.BasicAuth(); got != *p {
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
				return
			}
		}
		rp.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		g.open()
		s.CloseClientConnections()
		s.Close()
	})
	g.addr = strings.TrimPrefix(s.URL, "http://")
	return g
}

// reached waits until a blob stands.
func (g *gate) reached(t *testing.T) {
	t.Helper()
	select {
	case <-g.stood:
	case <-time.After(30 * time.Second):
		t.Fatal("no blob is on its way")
	}
}

type standing struct {
	io.ReadCloser
	g    *gate
	left int
}

func (s *standing) Read(p []byte) (int, error) {
	if s.left == 0 {
		s.g.stood <- struct{}{}
		<-s.g.opened
		s.left = -1
	}
	if s.left > 0 {
		p = p[:min(len(p), s.left)]
	}
	n, err := s.ReadCloser.Read(p)
	if s.left > 0 {
		s.left -= n
	}
	return n, err
}

// systemd keeps the socket. So a proxy that is restarted all the time refuses
// nobody, and it tells systemd how it is.
func TestSocketActivation(t *testing.T) {
	t.Parallel()
	cache := "oci:" + filepath.Join(t.TempDir(), "cache")
	e := fill(t, cache, registry.Options{}, randomNAR(1, 1000))[0]
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	name := filepath.Join(t.TempDir(), "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	told := func() string {
		_ = notify.SetReadDeadline(time.Now().Add(30 * time.Second))
		buf := make([]byte, 4096)
		n, err := notify.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	cacheDir := t.TempDir()
	launch := func() *daemon {
		cmd := proxyCommand(t)
		// the variable names the process that is to take the sockets
		cmd.Path = "/bin/sh"
		cmd.Args = []string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, filepath.Join(bin, "nixoci"), "proxy", "--cache", cache, "--cache-dir", cacheDir}
		cmd.Env = append(cmd.Env, "LISTEN_FDS=1", "LISTEN_FDNAMES=http", "NOTIFY_SOCKET="+name)
		cmd.ExtraFiles = []*os.File{socket}
		return launchProxy(t, cmd)
	}

	// new connections only: one that was kept may be closed at any time
	c := &http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true}}
	var wg sync.WaitGroup
	var answers atomic.Int64
	done := make(chan struct{})
	for range 4 { // from before the first proxy is there
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if status, _, err := fetchAll(c, "http://"+l.Addr().String()+"/"+e.Path.HashPart+".narinfo"); err != nil || status != 200 {
					t.Errorf("got %d, %v", status, err)
					return
				}
				answers.Add(1)
			}
		})
	}
	const restarts = 4
	for range restarts {
		before := answers.Load()
		d := launch()
		if got := d.url(); got != "http://"+l.Addr().String() {
			t.Errorf("got the substituter %q, want the socket's address %s", got, l.Addr())
		}
		if got := told(); got != "READY=1\nSTATUS=serving "+cache+" on http://"+l.Addr().String() {
			t.Errorf("told systemd %q", got)
		}
		for end := time.Now().Add(30 * time.Second); answers.Load() < before+20 && time.Now().Before(end) && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		d.stop()
		if got := told(); !strings.HasPrefix(got, "STOPPING=1\n") {
			t.Errorf("told systemd %q", got)
		}
	}
	d := launch() // for those who wait
	d.url()
	close(done)
	wg.Wait()
	d.stop()
	if n := answers.Load(); n < 20*restarts {
		t.Errorf("%d answers only", n)
	}
}

// A socket that takes no connections is refused with what to do.
func TestSocketActivationMistakes(t *testing.T) {
	t.Parallel()
	a, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	udp, err := a.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" proxy --cache oci:/nowhere`, filepath.Join(bin, "nixoci"))
	cmd.Env = []string{"HOME=" + t.TempDir(), "LISTEN_FDS=1"}
	cmd.ExtraFiles = []*os.File{udp}
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "takes no connections (ListenStream= and Accept=no make one)") {
		t.Errorf("got %v, %s", err, out)
	}
}

// SIGHUP takes new credentials, a new index and a new log, and who is served
// meanwhile does not notice.
func TestReload(t *testing.T) {
	t.Parallel()
	reg := registrytest.NewDistribution(t)
	g := newGate(t, reg.Addr)
	nar := randomNAR(2, 3<<20)
	large := fill(t, reg.Addr+"/a/b", registry.Options{}, nar)[0]

	docker := t.TempDir()
	login := func(password string) {
		t.Helper()
		conf := fmt.Sprintf(`{"auths":{%q:{"username":"u","password":%q}}}`, g.addr, password)
		if err := os.WriteFile(filepath.Join(docker, "config.json"), []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	change := func(password string) { g.password.Store(&password) }
	login("one")
	change("one")
	logFile := filepath.Join(t.TempDir(), "access.log")
	cmd := proxyCommand(t, "--cache", g.addr+"/a/b", "--cache-dir", t.TempDir(), "--listen", "127.0.0.1:0", "--refresh", "1h", "--access-log", logFile)
	cmd.Env = append(cmd.Env, "DOCKER_CONFIG="+docker)
	d := launchProxy(t, cmd)
	url := d.url()
	c := &http.Client{Timeout: limit}

	resp, err := c.Get(url + "/" + large.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	g.reached(t)
	small := fill(t, reg.Addr+"/a/b", registry.Options{}, randomNAR(3, 1000))[0]
	at := url + "/" + small.Path.HashPart + ".narinfo"
	if status, _, err := fetchAll(c, at); err != nil || status != 404 {
		t.Fatalf("before the reload: got %d, %v", status, err)
	}
	change("two")
	login("two")
	if err := os.Rename(logFile, logFile+".1"); err != nil {
		t.Fatal(err)
	}
	d.signal(syscall.SIGHUP)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		status, _, err := fetchAll(c, at)
		if err == nil && status == 200 {
			break
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("after the reload: got %d, %v", status, err)
		}
	}
	if status, body, err := fetchAll(c, url+"/"+small.URL()); err != nil || status != 200 || !bytes.Equal(body, randomNAR(3, 1000)) {
		t.Errorf("with the new password: got %d, %d bytes, %v", status, len(body), err)
	}
	g.open()
	if body, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(body, nar) {
		t.Errorf("the NAR during the reload: got %d bytes, %v", len(body), err)
	}
	d.stop()
	old, _ := os.ReadFile(logFile + ".1")
	if log, err := os.ReadFile(logFile); err != nil || !strings.Contains(string(log), small.URL()) || !strings.Contains(string(old), small.Path.HashPart) {
		t.Errorf("the logs: %v\n%s\n--\n%s", err, old, log)
	}
	for _, text := range []string{d.stderr.String(), string(old)} {
		if strings.Contains(text, "\"one\"") || strings.Contains(text, "two") {
			t.Errorf("a password in %s", text)
		}
	}
}

// A proxy that is killed while it fetches leaves nothing broken, and what it
// had completed is served by the next one, without the registry.
func TestNARCacheSurvivesKill(t *testing.T) {
	t.Parallel()
	reg := registrytest.NewDistribution(t)
	g := newGate(t, reg.Addr)
	small, large := randomNAR(4, 500_000), randomNAR(5, 3<<20)
	entries := fill(t, reg.Addr+"/a/b", registry.Options{}, small, large)
	dir := t.TempDir()
	launch := func() *daemon {
		return launchProxy(t, proxyCommand(t, "--cache", g.addr+"/a/b", "--cache-dir", dir, "--listen", "127.0.0.1:0", "--nar-cache", "10MB", "--refresh", "1h"))
	}
	c := &http.Client{Timeout: limit}
	read := func(url string, i int, want []byte) {
		t.Helper()
		if status, body, err := fetchAll(c, url+"/"+entries[i].URL()); err != nil || status != 200 || !bytes.Equal(body, want) {
			t.Errorf("NAR %d: got %d, %d bytes, %v", i, status, len(body), err)
		}
	}
	parts := func() int {
		found, _ := filepath.Glob(filepath.Join(dir, "blobs", "part-*"))
		return len(found)
	}
	settle := func() { // a client has a blob a moment before the disk
		t.Helper()
		for end := time.Now().Add(20 * time.Second); parts() > 0; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the fetch does not end")
			}
		}
	}
	d := launch()
	url := d.url()
	read(url, 0, small)
	settle()
	go func() { _, _, _ = fetchAll(c, url+"/"+entries[1].URL()) }()
	g.reached(t)
	if n := parts(); n != 1 {
		t.Fatalf("%d unfinished files while one blob comes", n)
	}
	d.signal(syscall.SIGKILL)
	<-d.ended
	if n := parts(); n != 1 {
		t.Fatalf("%d unfinished files after the kill", n)
	}
	g.open()
	d = launch()
	url = d.url()
	if n := parts(); n != 0 {
		t.Errorf("%d unfinished files after the next start", n)
	}
	read(url, 1, large)
	settle()
	reg.Stop()
	read(url, 0, small)
	read(url, 1, large)
	d.stop()
}

// Three machines with real Nix share one fetch of each NAR, and a fourth needs
// no registry at all.
func TestNARCacheWithNix(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(6, 6))
	w := newWorld(t)
	reg := registrytest.NewDistribution(t)
	g := newGate(t, reg.Addr)
	g.open()
	paths := w.add("lan", noise(random, 1_500_000), noise(random, 2_500_000), noise(random, 3_000), noise(random, 4_000))
	w.publish(reg.Addr+"/a/b", paths...)
	conf := w.startProxy(g.addr+"/a/b", 2, "--nar-cache", "100MB", "--refresh", "1h")
	g.requests()
	var wg sync.WaitGroup
	for range 3 {
		m := w.newClient(conf)
		wg.Go(func() { m.substitute(paths...) })
	}
	wg.Wait()
	// two NARs of their own and one pack; perhaps also the index, once more
	if blobs, most := g.requests(); blobs < 3 || blobs > 4 || most != 1 {
		t.Errorf("three machines took %d blobs, and one of them %d times", blobs, most)
	}
	reg.Stop()
	w.newClient(conf).substitute(paths...)
}

// Real Nix follows the redirects of a registry with signed URLs.
func TestRedirectsWithNix(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(7, 7))
	w := newWorld(t)
	reg := registrytest.NewRedirecting(t)
	w.Vars = append(w.Vars, "NIXOCI_USERNAME="+reg.User, "NIXOCI_PASSWORD="+reg.Password)
	cache := reg.Addr + "/a/b"
	paths := w.add("far", noise(random, 1_500_000), noise(random, 2_500_000), noise(random, 3_000), noise(random, 4_000))
	w.publish(cache, paths...)
	conf := w.startProxy(cache, 2, "--redirect", "--refresh", "1h")
	w.newClient(conf).substitute(paths...)
	r := newReader(conf)
	_, status, err := fetchAll(r.client, r.url+"/_status")
	if err != nil || !strings.Contains(string(status), `"narRedirects": 2`) || !strings.Contains(string(status), `"nars": 2,`) {
		t.Errorf("got %v, %s", err, status)
	}
	if n := reg.Refused.Load(); n != 0 {
		t.Errorf("the storage refused %d requests", n)
	}
}

// peak is the most memory that a process has had, in bytes.
func peak(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// While 32 machines read large NARs, 64 connections ask for narinfos. Memory
// stays what it is, however much is sent.
func TestLoad(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("this system does not tell how much memory a process has: ", err)
	}
	for _, args := range [][]string{nil, {"--nar-cache", "1GB"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			reg := registrytest.NewDistribution(t)
			const size, streams, asking = 10 << 20, 32, 64
			var nars [][]byte
			for i := range 8 {
				nars = append(nars, randomNAR(byte(10+i), size))
			}
			for i := range 40 {
				nars = append(nars, []byte(fmt.Sprint("small ", i)))
			}
			entries := fill(t, reg.Addr+"/a/b", registry.Options{}, nars...)
			d := launchProxy(t, proxyCommand(t, append(args, "--cache", reg.Addr+"/a/b", "--cache-dir", t.TempDir(), "--listen", "127.0.0.1:0")...))
			url := d.url()
			narinfos := make(chan struct{})
			var asked atomic.Int64
			var slowest atomic.Int64
			var askers, readers sync.WaitGroup
			for i := range asking {
				askers.Go(func() {
					c := &http.Client{Timeout: limit, Transport: &http.Transport{}}
					defer c.CloseIdleConnections()
					for j := i; ; j++ {
						select {
						case <-narinfos:
							return
						default:
						}
						began := time.Now()
						if status, _, err := fetchAll(c, url+"/"+entries[j%len(entries)].Path.HashPart+".narinfo"); err != nil || status != 200 {
							t.Errorf("a narinfo: got %d, %v", status, err)
							return
						}
						asked.Add(1)
						took := int64(time.Since(began))
						for old := slowest.Load(); took > old && !slowest.CompareAndSwap(old, took); old = slowest.Load() {
						}
					}
				})
			}
			for i := range streams {
				readers.Go(func() {
					c := &http.Client{Timeout: limit, Transport: &http.Transport{}}
					defer c.CloseIdleConnections()
					resp, err := c.Get(url + "/" + entries[i%8].URL())
					if err != nil {
						t.Error(err)
						return
					}
					defer resp.Body.Close()
					sum := sha256.New()
					if _, err := io.Copy(sum, resp.Body); err != nil || bincache.FormatHash(sum.Sum(nil)) != entries[i%8].FileHash {
						t.Errorf("a NAR: got %s, %v", resp.Status, err)
					}
				})
			}
			readers.Wait()
			close(narinfos)
			askers.Wait()
			// 320 MB were sent. What the race detector needs is in it.
			const bound = 256 << 20
			used := peak(t, d.cmd.Process.Pid)
			t.Logf("%d MB at most, %d narinfos, the slowest %s", used>>20, asked.Load(), time.Duration(slowest.Load()))
			if used > bound {
				t.Errorf("%d MB, want less than %d", used>>20, bound>>20)
			}
			if asked.Load() < asking {
				t.Errorf("%d narinfos only", asked.Load())
			}
			d.stop()
		})
	}
}
