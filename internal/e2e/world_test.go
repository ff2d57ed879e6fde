// Package e2e tests the commands as their users run them: real Nix, real
// registries, the real binaries.
package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registrytest"
	"github.com/org/nixoci-action/report"
)

// bin is the folder with the program, made by TestMain.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		panic(err)
	}
	bin = dir
	// with the race detector, as the tests themselves
	out, err := exec.Command("go", "build", "-race", "-o", dir+"/", "../../cmd/nixoci").CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "building the program: %v\n%s", err, out)
		os.Exit(1)
	}
	// most tests wait for other programs; -parallel still counts
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// limit is how long any one command may take.
const limit = 3 * time.Minute

var running = flag.String("registry", "", "where in a running registry the tests make repositories, as well: HOST/NAMESPACE; docker's login is used")

// caches are the places a cache can be in.
func caches(t *testing.T, f func(t *testing.T, cache string)) {
	t.Run("oci", func(t *testing.T) { t.Parallel(); f(t, "oci:"+filepath.Join(t.TempDir(), "cache")) })
	t.Run("ggcr", func(t *testing.T) { t.Parallel(); f(t, registrytest.GGCR(t)+"/owner/repo/nix-cache") })
	t.Run("distribution", func(t *testing.T) {
		t.Parallel()
		f(t, registrytest.NewDistribution(t).Addr+"/owner/repo/nix-cache")
	})
	if *running != "" {
		t.Run("given", func(t *testing.T) { f(t, *running+"/nixoci-"+strings.ToLower(rand.Text())) })
	}
}

// world is a machine with Nix, a store, and a key.
type world struct {
	*testing.T
	*nixtest.Env
	keyFile, publicKey string

	// for act
	downloads func() int          // of the action's release, if it is served
	jobEnv    []string            // variables of the runner
	user      *syscall.Credential // who runs jobs; nil: who runs the tests
}

func newWorld(t *testing.T) *world { return newWorldIn(t, nixtest.New(t)) }

func newWorldIn(t *testing.T, env *nixtest.Env) *world {
	w := &world{T: t, Env: env}
	w.keyFile = filepath.Join(w.Dir, "secret-key")
	pub := filepath.Join(w.Dir, "public-key")
	w.Env.Run(t, w.Dir, "nix-store", "--generate-binary-cache-key", "e2e-1", w.keyFile, pub)
	b, err := os.ReadFile(pub)
	if err != nil {
		t.Fatal(err)
	}
	w.publicKey = string(b)
	if *running != "" {
		w.Vars = append(w.Vars, "DOCKER_CONFIG="+cmp.Or(os.Getenv("DOCKER_CONFIG"), filepath.Join(os.Getenv("HOME"), ".docker")))
	}
	return w
}

// command prepares one of our commands in the world's environment.
func (w *world) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(bin, "nixoci"), append([]string{name}, args...)...)
	cmd.Dir = w.Dir
	cmd.Env = append(append([]string{}, w.Vars...), "GORACE=halt_on_error=1")
	return cmd
}

// result is what publish reported.
type result struct {
	report.Publish

	code   int
	stderr string
}

// tryPublish runs publish with --json.
func (w *world) tryPublish(cache string, args ...string) result {
	w.Helper()
	return w.finish(w.command("publish", append([]string{"--json", "--cache", cache}, args...)...))
}

func (w *world) finish(cmd *exec.Cmd) result {
	w.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	timer := time.AfterFunc(limit, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
	defer timer.Stop()
	err := cmd.Wait()
	r := result{stderr: stderr.String()}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		r.code = exit.ExitCode()
	} else if err != nil {
		w.Fatal(err)
	}
	if stdout.Len() > 0 {
		if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
			w.Fatalf("the result is no JSON: %v\n%s", err, stdout.String())
		}
	}
	return r
}

// publish is tryPublish that must succeed.
func (w *world) publish(cache string, args ...string) result {
	w.Helper()
	r := w.tryPublish(cache, append([]string{"--upstream", "none", "--sign-key-file", w.keyFile}, args...)...)
	if r.code != 0 {
		w.Fatalf("publish ended with %d:\n%s", r.code, r.stderr)
	}
	return r
}

// paths are the store paths of the outputs that were built.
func (r result) paths() []string {
	var all []string
	for _, o := range r.Outputs {
		all = append(all, o.Paths...)
	}
	return all
}

// proxy starts a proxy for a signed cache and returns the lines for nix.conf
// that it printed. It ends with the test.
func (w *world) proxy(cache string) string {
	w.Helper()
	return w.startProxy(cache, 2)
}

// startProxy starts a proxy that will print so many lines.
func (w *world) startProxy(cache string, n int, args ...string) string {
	w.Helper()
	lines, _ := w.runProxy(n, append([]string{"--cache", cache}, args...)...)
	return lines
}

// runProxy starts a proxy that will print so many lines, and also returns the
// file with what it says to people.
func (w *world) runProxy(n int, args ...string) (printed, messages string) {
	w.Helper()
	cmd := w.command("proxy", append([]string{"--listen", "127.0.0.1:0", "--cache-dir", w.TempDir()}, args...)...)
	stderr, err := os.Create(filepath.Join(w.TempDir(), "stderr"))
	if err != nil {
		w.Fatal(err)
	}
	defer stderr.Close()
	said := func() string {
		b, _ := os.ReadFile(stderr.Name())
		return string(b)
	}
	cmd.Stderr = stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		w.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	ended := make(chan error, 1)
	ready := make(chan string, 1)
	go func() {
		sc := bufio.NewScanner(stdout)
		lines := ""
		for i := 1; sc.Scan(); i++ {
			if lines += sc.Text() + "\n"; i == n {
				ready <- lines
			}
		}
		ended <- cmd.Wait()
	}()
	w.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				w.Errorf("the proxy ended with %v:\n%s", err, said())
			}
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			w.Errorf("the proxy did not stop:\n%s", said())
		}
	})
	select {
	case lines := <-ready:
		return lines, stderr.Name()
	case <-time.After(30 * time.Second):
		w.Fatalf("the proxy is not ready:\n%s", said())
		return "", ""
	}
}

// refresh has a proxy look at its cache now; conf is what it printed.
func (w *world) refresh(conf string) {
	w.Helper()
	line, _, _ := strings.Cut(conf, "\n")
	resp, err := http.Post(strings.TrimPrefix(line, "extra-substituters = ")+"/_refresh", "", nil)
	if err != nil {
		w.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		w.Errorf("refreshing the proxy: got %s", resp.Status)
	}
}

// client is a machine with an empty store at the same store directory.
type client struct {
	w    *world
	root string
	conf string
}

// newClient makes a client that may build nothing and trusts only what conf,
// lines for nix.conf, names.
func (w *world) newClient(conf string) *client {
	return &client{w: w, root: w.TempDir(), conf: "max-jobs = 0\nrequire-sigs = true\ntrusted-public-keys =\n" + conf}
}

// nix runs a Nix command on the client.
func (c *client) nix(args ...string) (string, error) {
	return c.run("nix", append([]string{"--extra-experimental-features", "nix-command flakes"}, args...)...)
}

// run runs one of Nix's programs on the client.
func (c *client) run(program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.w.Program(c.w, program), append([]string{"--store", c.store()}, args...)...)
	for _, v := range c.w.Vars {
		switch {
		case strings.HasPrefix(v, "NIX_CONFIG="):
			v += c.conf
		case strings.HasPrefix(v, "HOME="):
			v = "HOME=" + c.root
		case strings.HasPrefix(v, "NIX_STATE_DIR="), strings.HasPrefix(v, "NIX_LOG_DIR="):
			continue // below the root
		}
		cmd.Env = append(cmd.Env, v)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// store is the client's store as Nix names it.
func (c *client) store() string { return "local?root=" + c.root }

// substitute gets paths and their closure, which must be there.
func (c *client) substitute(paths ...string) {
	c.w.Helper()
	if out, err := c.nix(append([]string{"build", "--no-link"}, paths...)...); err != nil {
		c.w.Fatalf("substituting: %v\n%s", err, out)
	}
	c.w.Cleanup(func() { makeWritable(c.root) })
	for _, p := range paths {
		c.same(p)
	}
}

// place is where a store path of the client is on this machine. Below a root,
// Nix uses this directory whatever the store directory is.
func (c *client) place(path string) string {
	return filepath.Join(c.root, "nix", "store", filepath.Base(path))
}

// same compares a path on the client with the one it was built from.
func (c *client) same(path string) {
	c.w.Helper()
	dump := c.w.Program(c.w, "nix-store")
	want := exec.Command(dump, "--dump", path)
	got := exec.Command(dump, "--dump", c.place(path))
	a, errA := digest(want)
	b, errB := digest(got)
	if errA != nil || errB != nil || a != b {
		c.w.Errorf("%s differs on the client: %v %v", path, errA, errB)
	}
}

func makeWritable(dir string) {
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
}

// inDistribution is a cache name in a fresh distribution.
func inDistribution(t *testing.T) string {
	t.Helper()
	return registrytest.NewDistribution(t).Addr + "/a/b"
}
