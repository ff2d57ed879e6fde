package proxy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/storepath"
)

// cacheWith makes a cache in a directory with one store path, whose compressed
// NAR is nar.
func cacheWith(t *testing.T, nar []byte) (cache string, e format.Entry) {
	t.Helper()
	cache = "oci:" + filepath.Join(t.TempDir(), "cache")
	repo, err := registry.Open(cache, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.PutBlob(t.Context(), nar); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(nar)
	size := int64(len(nar))
	e = format.Entry{
		Path:    storepath.Path{Dir: storepath.DefaultDir, HashPart: nixbase32.EncodeToString(sum[:20]), Name: "x"},
		NarHash: bincache.FormatHash(sum[:]), NarSize: size, FileHash: bincache.FormatHash(sum[:]), Compression: bincache.CompressionZstd,
		NAR: format.Location{Blob: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}, BlobSize: size, Size: size},
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
	if err := w.Add(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return cache, e
}

func TestMetrics(t *testing.T) {
	nar := bytes.Repeat([]byte("x"), 1000)
	cache, e := cacheWith(t, nar)
	p := startProxy(t, 10*time.Second, "--cache", cache, "--nar-cache", "1MB")
	url := p.url(t)
	for range 2 {
		get(t, url+"/"+e.Path.HashPart+".narinfo")
		if status, body := get(t, url+"/"+e.URL()); status != 200 || body != string(nar) {
			t.Errorf("the NAR: got %d, %d bytes", status, len(body))
		}
	}
	for i := range 50 { // what clients invent makes no series
		get(t, fmt.Sprintf("%s/%032d.narinfo", url, i))
		get(t, fmt.Sprintf("%s/page-%d", url, i))
	}
	status, text := get(t, url+"/metrics")
	// a blob counts when the disk has it, which may be after the client has
	for until := time.Now().Add(20 * time.Second); status == 200 && !strings.Contains(text, "nar_cache_blobs 1\n") && time.Now().Before(until); {
		time.Sleep(20 * time.Millisecond)
		status, text = get(t, url+"/metrics")
	}
	if status != 200 {
		t.Fatalf("got %d, %s", status, text)
	}
	for _, want := range []string{
		`requests_total{code="2xx",kind="narinfo"} 2`,
		`requests_total{code="4xx",kind="narinfo"} 50`,
		`requests_total{code="2xx",kind="nar"} 2`,
		`requests_total{code="4xx",kind="other"} 50`,
		`request_duration_seconds_count{kind="nar"} 2`,
		`requests_in_flight 0`,
		`narinfos_total{result="hit"} 2`,
		`narinfos_total{result="miss"} 50`,
		`narinfos_total{result="upstream"} 0`,
		`nars_total 2`,
		`nar_bytes_total 2000`,
		`nar_failures_total 0`,
		`nar_redirects_total 0`,
		`nar_cache_bytes 1000`,
		`nar_cache_max_bytes 1e+06`,
		`nar_cache_blobs 1`,
		`nar_cache_reads_total{result="miss"} 1`,
		`nar_cache_evictions_total 0`,
		`index_entries 1`,
		`index_segments 1`,
		`index_refresh_failures_total 0`,
		`registry_unwell 0`,
		`build_info{goversion="go`,
	} {
		if !strings.Contains(text, "\n"+metricPrefix+want) {
			t.Errorf("no %s", want)
		}
	}
	for name, limit := range map[string]float64{"index_age_seconds": 60, "connections": 10} {
		var v float64
		m := regexp.MustCompile(`(?m)^` + metricPrefix + name + ` (\S+)$`).FindStringSubmatch(text)
		if m == nil || !scan(m[1], &v) || v <= 0 || v > limit {
			t.Errorf("%s: got %v", name, m)
		}
	}
	for _, other := range []string{"\ngo_goroutines ", "\nprocess_resident_memory_bytes "} {
		if !strings.Contains(text, other) {
			t.Errorf("no %q", other)
		}
	}
	if n := strings.Count(text, "\n"+metricPrefix); n > 80 {
		t.Errorf("%d series", n)
	}
	if problems, err := promlint.New(strings.NewReader(text)).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("Prometheus' rules: %v, %v", problems, err)
	}
	if t.Failed() {
		t.Log(text)
	}
	if _, status := get(t, url+"/_status"); !strings.Contains(status, `"narCache": {`) || !strings.Contains(status, `"misses": 1`) {
		t.Errorf("_status: got %s", status)
	}
}

func scan(s string, v *float64) bool {
	_, err := fmt.Sscan(s, v)
	return err == nil
}

func TestHealth(t *testing.T) {
	cache, _ := cacheWith(t, []byte("x"))
	url := startProxy(t, 10*time.Second, "--cache", cache).url(t)
	for _, path := range []string{"/healthz", "/readyz"} {
		if status, body := get(t, url+path); status != 200 {
			t.Errorf("%s: got %d, %q", path, status, body)
		}
	}
}

func TestAccessLogFile(t *testing.T) {
	cache, e := cacheWith(t, []byte("x"))
	name := filepath.Join(t.TempDir(), "access.log")
	p := startProxy(t, 10*time.Second, "--cache", cache, "--access-log", name)
	get(t, p.url(t)+"/"+e.Path.HashPart+".narinfo?secret")
	p.stop()
	log, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^\{"time":"[^"]+","cache":"oci:[^"]+","method":"GET","path":"/` + e.Path.HashPart + `\.narinfo","status":200,"bytes":\d+,"seconds":[0-9.e-]+,"agent":"Go-http-client/1.1","client":"127.0.0.1"\}\n$`).Match(log) {
		t.Errorf("got %s", log)
	}
	p = startProxy(t, 10*time.Second, "--cache", cache, "--access-log", "-")
	get(t, p.url(t)+"/x")
	p.stop()
	if !strings.Contains(p.stderr.String(), `"path":"/x","status":404`) || strings.Contains(p.stdout.String(), "/x") {
		t.Errorf("got %s", p.stderr.String())
	}
}

// What cannot work is said at once, and leaves no socket behind.
func TestServiceErrors(t *testing.T) {
	cache, _ := cacheWith(t, []byte("x"))
	dir := t.TempDir()
	p := startProxy(t, 10*time.Second, "--cache", cache, "--nar-cache", "1MB", "--cache-dir", dir)
	defer p.stop()
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"the directory is another's": {[]string{"--nar-cache", "1MB", "--cache-dir", dir}, "another process uses " + dir},
		"no certificate":             {[]string{"--tls-cert", dir + "/no", "--tls-key", dir + "/no"}, "reading the TLS certificate"},
		"no folder for the log":      {[]string{"--access-log", dir + "/no/log"}, "opening the access log"},
	} {
		var stderr bytes.Buffer
		args := append([]string{"--cache", cache, "--listen", "127.0.0.1:0"}, tc.args...)
		if status := Run(t.Context(), args, env("HOME", t.TempDir()), nil, io.Discard, &stderr); status != cli.ExitFailed || !strings.Contains(stderr.String(), tc.want) {
			t.Errorf("%s: got %d, %s", name, status, stderr.String())
		}
	}
}

// Unless it is told otherwise, the proxy is for this machine.
func TestListensHere(t *testing.T) {
	c, err := parseConfig([]string{"--cache", "oci:/c"}, env("HOME", "/h"))
	if err != nil || len(c.listen) > 0 {
		t.Errorf("it listens on %q, %v", c.listen, err)
	}
	if addr, err := netip.ParseAddrPort(defaultListen); err != nil || !addr.Addr().IsLoopback() {
		t.Errorf("by default it listens on %s, %v", defaultListen, err)
	}
}

func TestListensOnMany(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	second := l.Addr().String()
	l.Close()
	cache, _ := cacheWith(t, []byte("x"))
	p := startProxy(t, 10*time.Second, "--cache", cache, "--listen", second)
	if n := strings.Count(p.stdout.String(), "extra-substituters"); n != 1 || strings.Contains(p.stdout.String(), second) {
		t.Errorf("got %q, want the first address", p.stdout.String())
	}
	for _, url := range []string{p.url(t), "http://" + second} {
		if status, _ := get(t, url+"/nix-cache-info"); status != 200 {
			t.Errorf("%s: got %d", url, status)
		}
	}
}

// The unit files use flags that there are, and the socket is where the proxy
// listens without one.
func TestUnits(t *testing.T) {
	var help bytes.Buffer
	if status := Run(t.Context(), []string{"--help"}, env("HOME", "/h"), nil, &help, io.Discard); status != cli.ExitDone {
		t.Fatal(status)
	}
	unit := func(name string) string {
		b, err := os.ReadFile("../../../contrib/systemd/nixoci-proxy." + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	names := regexp.MustCompile(`NIXOCI_[A-Z_]+`).FindAllString(unit("service"), -1)
	if len(names) < 3 {
		t.Errorf("found %v only", names)
	}
	for _, name := range names {
		if !strings.Contains(help.String(), "["+name+"]") {
			t.Errorf("the service sets %s, which is no flag", name)
		}
	}
	if !strings.Contains(unit("socket"), "\nListenStream="+defaultListen+"\n") {
		t.Errorf("the socket is not at %s", defaultListen)
	}
}

// What helps depends on why. A port that needs permission is not in use.
func TestListenHint(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]string{
		syscall.EADDRINUSE: "another proxy", syscall.EACCES: "below 1024", syscall.EADDRNOTAVAIL: "",
	} {
		got := listenHint(fmt.Errorf("listening on x: %w", os.NewSyscallError("bind", err)))
		if !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%v: got %q, want %q in it", err, got, want)
		}
	}
}
