package e2e

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nix-community/go-nix/pkg/nixbase32"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registrytest"
)

// chain puts files of noise into the store, each of which refers to the one
// before.
func (w *world) chain(prefix string, sizes ...int) []string {
	w.Helper()
	var db strings.Builder
	var paths []string
	for i, size := range sizes {
		name := fmt.Sprintf("%s-%d", prefix, i)
		sum := sha256.Sum256([]byte(name))
		path := filepath.Join(w.Store, nixbase32.EncodeToString(sum[:20])+"-"+name)
		content := noise(rand.New(rand.NewPCG(uint64(sum[0]), uint64(sum[1]))), size)
		if err := os.WriteFile(path, []byte(content), 0o444); err != nil {
			w.Fatal(err)
		}
		fmt.Fprintf(&db, "%s\n\n%d\n", path, min(i, 1))
		if i > 0 {
			fmt.Fprintf(&db, "%s\n", paths[i-1])
		}
		paths = append(paths, path)
	}
	cmd := exec.Command(w.Program(w, "nix-store"), "--register-validity")
	cmd.Env, cmd.Stdin = w.Vars, strings.NewReader(db.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		w.Fatalf("registering paths: %v\n%s", err, out)
	}
	return paths
}

// pushToken is what the pushing clients of a world know.
const pushToken = "0b8d3c1f6a5e4d7c9b2a1f0e8d7c6b5a"

// signPushes returns the flags of a proxy that signs what is pushed, and gives
// Nix the token for it.
func (w *world) signPushes() []string {
	w.Helper()
	nixtest.Write(w, w.Dir, "push-tokens", pushToken+"\n", "netrc", "machine 127.0.0.1 login any password "+pushToken+"\n")
	w.addConf("netrc-file = " + filepath.Join(w.Dir, "netrc") + "\n")
	return []string{"--allow-push", "--sign-key-file", w.keyFile, "--push-token-file", filepath.Join(w.Dir, "push-tokens")}
}

// addConf adds lines to the configuration of the world's Nix.
func (w *world) addConf(lines string) {
	for i, v := range w.Vars {
		if strings.HasPrefix(v, "NIX_CONFIG=") {
			w.Vars[i] += lines
		}
	}
}

// tryCopyTo runs nix copy --to.
func (w *world) tryCopyTo(url string, paths ...string) (string, error) {
	cmd := exec.Command(w.Program(w, "nix"), append([]string{"--extra-experimental-features", "nix-command flakes", "copy", "--to", url}, paths...)...)
	cmd.Dir, cmd.Env = w.Dir, w.Vars
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (w *world) copyTo(url string, paths ...string) {
	w.Helper()
	if out, err := w.tryCopyTo(url, paths...); err != nil {
		w.Fatalf("nix copy: %v\n%s", err, out)
	}
}

// pushStatus is what a proxy says of pushes.
func (w *world) pushStatus(url string) (s struct {
	Entries int
	Pushed  struct{ Paths, NARs, Refused, Segments int }
}) {
	w.Helper()
	resp, err := http.Get(url + "/_status")
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		w.Fatal(err)
	}
	return s
}

func substituter(conf string) string {
	line, _, _ := strings.Cut(conf, "\n")
	return strings.TrimPrefix(line, "extra-substituters = ")
}

// What nix copy has sent, another machine substitutes from the same proxy at
// once, and from another when the first has ended; signed by the server.
func TestPush(t *testing.T) {
	t.Parallel()
	caches(t, func(t *testing.T, cache string) {
		w := newWorld(t)
		first := w.add("first", "first")
		w.publish(cache, first...) // so that the cache is for this test's store
		conf := w.startProxy(cache, 2, w.signPushes()...)
		url := substituter(conf)
		sent := 0
		for _, how := range []string{"", "?compression=zstd", "?compression=none", "?compression=bzip2", "?compression=gzip"} {
			paths := w.chain("p"+strings.TrimPrefix(how, "?compression="), 2000, 700_000, 300)
			w.copyTo(url+how, paths[2])
			sent += len(paths)
			if s := w.pushStatus(url); s.Pushed.Paths != sent || s.Pushed.Refused != 0 {
				t.Errorf("%s: got %+v, want %d paths", how, s.Pushed, sent)
			}
			w.newClient(conf).substitute(paths...)
			// again: nothing is sent
			w.copyTo(url+how, paths[2])
			if s := w.pushStatus(url); s.Pushed.Paths != sent || s.Pushed.NARs > sent {
				t.Errorf("%s again: got %+v, want %d paths and no more NARs", how, s.Pushed, sent)
			}
		}
		if out, err := w.tryCopyTo(url+"?compression=lz4", w.add("lz4", "lz4")...); err == nil || !strings.Contains(out, "?compression=zstd") {
			t.Errorf("lz4: got %v\n%s", err, out)
		}
		if out, err := w.tryCopyTo(substituter(w.proxy(cache)), w.add("off", "off")...); err == nil || !strings.Contains(out, "405") {
			t.Errorf("without --allow-push: got %v\n%s", err, out)
		}
	})
}

// pusher is a proxy that can be killed and started again at the same address.
type pusher struct {
	w    *world
	args []string
	cmd  *exec.Cmd
	url  string // of the proxy that runs
	log  syncBuffer
}

func (p *pusher) start() {
	p.w.Helper()
	p.cmd = p.w.command("proxy", p.args...)
	p.cmd.Stderr = &p.log
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		p.w.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.w.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() {
		p.w.Fatalf("the proxy is not ready:\n%s", p.log.String())
	}
	p.url = strings.TrimPrefix(lines.Text(), "extra-substituters = ")
}

func (p *pusher) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// The proxy is killed at random moments of nix copy. What it has acknowledged
// is there, with all it refers to; and copying again gets to the end.
func TestPushIsKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := registrytest.NewDistribution(t).Addr + "/a/b"
	w.publish(cache, w.add("first", "first")...)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	p := &pusher{w: w, args: append([]string{"--cache", cache, "--listen", addr, "--cache-dir", dir}, w.signPushes()...)}
	p.start()
	t.Cleanup(func() { p.kill() })
	warm := time.Now()
	w.copyTo("http://"+addr+"?compression=zstd", w.chain("warm", 1000, 1000, 1000)[2])
	typical := time.Since(warm)
	var all []string
	killed := 0
	for round := range 6 {
		var sizes []int
		for range 8 {
			sizes = append(sizes, 1000+random.IntN(400_000))
		}
		paths := w.chain(fmt.Sprintf("round%d", round), sizes...)
		all = append(all, paths...)
		for try := 0; ; try++ {
			if try == 10 {
				t.Fatal("copying again does not get to the end")
			}
			timer := time.AfterFunc(time.Duration(random.Float64()*3*float64(typical)), func() {
				if try < 3 {
					_ = p.cmd.Process.Kill()
				}
			})
			// --refresh: Nix takes for an hour that what was there stays there
			_, err := w.tryCopyTo("http://"+addr+"?compression=zstd", paths[len(paths)-1], "--refresh")
			timer.Stop()
			checkClosed(t, cache)
			if err == nil {
				break
			}
			killed++
			p.kill()
			p.start()
		}
	}
	t.Logf("%d copies were cut off", killed)
	p.kill() // what was acknowledged needs no last word
	p.start()
	have := sweep(t, cache)
	for _, path := range all {
		if !have.Has(filepath.Base(path)[:32]) {
			t.Errorf("%s was acknowledged, and is not there", path)
		}
	}
	if files, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(files) > 0 {
		t.Errorf("left in the temporary folder: %v, %v", files, err)
	}
	conf := "extra-substituters = http://" + addr + "\nextra-trusted-public-keys = " + w.publicKey + "\n"
	w.newClient(conf).substitute(all...)
}

// checkClosed makes sure that each path of a cache is there with all it refers
// to, for somebody who sees it for the first time.
func checkClosed(t *testing.T, cache string) {
	t.Helper()
	have := sweep(t, cache)
	have.All(func(e format.Entry) bool {
		for _, r := range e.References {
			if !have.Has(r[:32]) {
				t.Errorf("%s is there, and %s to which it refers is not", e.Path, r)
			}
		}
		return true
	})
}

// With tokens, nix copy takes one from netrc.
func TestPushWithToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := "oci:" + filepath.Join(t.TempDir(), "cache")
	w.publish(cache, w.add("first", "first")...)
	tokens := filepath.Join(w.Dir, "tokens")
	const token = "5bd5b4e5a1f84d0c9a3de2b4c1d0f9a7"
	if err := os.WriteFile(tokens, []byte("an-older-one-of-ours\n"+token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := w.startProxy(cache, 2, "--allow-push", "--push-token-file", tokens)
	url := substituter(conf)
	path := w.add("x", "x")
	if out, err := w.tryCopyTo(url, path...); err == nil || !strings.Contains(out, "401") {
		t.Errorf("without a token: got %v\n%s", err, out)
	}
	netrc := filepath.Join(w.Dir, "netrc")
	if err := os.WriteFile(netrc, []byte("machine 127.0.0.1 login any password "+token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := w.tryCopyTo(url, append(path, "--netrc-file", netrc)...); err != nil {
		t.Errorf("with netrc: got %v\n%s", err, out)
	}
	if out, err := w.tryCopyTo(strings.Replace(url, "http://", "http://any:"+token+"@", 1), w.add("y", "y")...); err != nil {
		t.Errorf("with the token in the URL: got %v\n%s", err, out)
	}
	if s := w.pushStatus(url); s.Pushed.Paths != 2 {
		t.Errorf("got %+v, want 2 paths", s.Pushed)
	}
}

// What was pushed is kept by gc as what publish has published.
func TestPushAndCollect(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := inDistribution(t)
	w.publish(cache, w.add("first", "first")...)
	paths := w.chain("pkg-1", 1000, 1000)
	dir := t.TempDir()
	p := &pusher{w: w, args: []string{"--cache", cache, "--listen", "127.0.0.1:0", "--cache-dir", dir, "--allow-push"}}
	p.start()
	w.copyTo(p.url, paths[1])
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("the proxy ended with %v:\n%s", err, p.log.String())
	}
	if !strings.Contains(p.log.String(), "what was pushed is recorded as published") {
		t.Errorf("got %s", p.log.String())
	}
	w.gc(cache, atOnce...)
	have := sweep(t, cache)
	for _, path := range paths {
		if !have.Has(filepath.Base(path)[:32]) {
			t.Errorf("%s was collected", path)
		}
	}
	pubs := have.Publications()
	if !slices.ContainsFunc(pubs, func(p format.Publication) bool {
		return p.Selection == "package=pkg" && len(p.Roots) == 1 && p.Roots[0].Path == filepath.Base(paths[1])
	}) {
		t.Errorf("got the publications %+v", pubs)
	}
}
