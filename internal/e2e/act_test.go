package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registrytest"
)

// release is an archive with the program, as a release has it.
var release = sync.OnceValues(func() ([]byte, error) {
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	a := tar.NewWriter(z)
	text, err := os.ReadFile(filepath.Join(bin, "nixoci"))
	if err != nil {
		return nil, err
	}
	if err := a.WriteHeader(&tar.Header{Name: "nixoci", Mode: 0o755, Size: int64(len(text))}); err != nil {
		return nil, err
	}
	if _, err := a.Write(text); err != nil {
		return nil, err
	}
	if err := a.Close(); err != nil {
		return nil, err
	}
	err = z.Close()
	return buf.Bytes(), err
})

// programSum is the checksum of the program, as a release names it.
var programSum = sync.OnceValues(func() (string, error) {
	text, err := os.ReadFile(filepath.Join(bin, "nixoci"))
	return fmt.Sprintf("%x", sha256.Sum256(text)), err
})

// target is the name that the launcher has for this machine.
func target() string {
	arch := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	return runtime.GOOS + "-" + arch
}

// released writes a copy of the action to dir whose release is served by a
// server of the test's, which counts the downloads.
func (w *world) released(dir string) {
	w.Helper()
	archive, err := release()
	if err != nil {
		w.Fatal(err)
	}
	program, err := programSum()
	if err != nil {
		w.Fatal(err)
	}
	var mu sync.Mutex
	n := 0
	s := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		n++
		mu.Unlock()
		_, _ = rw.Write(archive)
	}))
	w.Cleanup(s.Close)
	w.action(dir, fmt.Sprintf(`{"version": "v0.0.1", "files": {%q: {"url": "%s/x.tar.gz", "sha256": "%x", "program": %q}}}`, target(), s.URL, sha256.Sum256(archive), program))
	w.jobEnv = append(w.jobEnv, "NODE_EXTRA_CA_CERTS="+filepath.Join(w.Dir, "cert.pem"))
	nixtest.Write(w, w.Dir, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	w.downloads = func() int { mu.Lock(); defer mu.Unlock(); return n }
}

// installed writes a copy of the action to dir whose release is in the runner's
// tool cache already.
func (w *world) installed(dir string) {
	w.Helper()
	const sum = "0123456789abcdef"
	program, err := programSum()
	if err != nil {
		w.Fatal(err)
	}
	w.action(dir, fmt.Sprintf(`{"version": "v0.0.1", "files": {%q: {"url": "https://127.0.0.1:1/", "sha256": %q, "program": %q}}}`, target(), sum, program))
	// where act has its tool cache
	tools := filepath.Join(w.Dir, "home/.cache/act/tool_cache/nixoci-action/v0.0.1")
	if err := os.MkdirAll(tools, 0o755); err != nil {
		w.Fatal(err)
	}
	if err := os.Symlink(bin, filepath.Join(tools, target()+"-"+sum)); err != nil {
		w.Fatal(err)
	}
}

// action copies what a runner needs of the action to dir.
func (w *world) action(dir, release string) {
	w.Helper()
	for _, name := range []string{"action.yml", "launch/launch.js", "launch/main.js", "launch/post.js"} {
		text, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			w.Fatal(err)
		}
		nixtest.Write(w, dir, name, string(text))
	}
	nixtest.Write(w, dir, "launch/release.json", release)
}

// job is a run of a workflow by act.
type job struct {
	*world
	log  string
	code int
}

// act runs the workflow in a repository with the world's flake, as GitHub's
// runner would: with its own files for outputs, state and summary. Our action is
// org/nixoci-action@v1 there.
func (w *world) act(workflow string, args ...string) *job {
	w.Helper()
	return w.runAct(w.actCommand(workflow, args...))
}

func (w *world) runAct(cmd *exec.Cmd) *job {
	w.Helper()
	out, err := cmd.CombinedOutput()
	j := &job{world: w, log: string(out)}
	if err != nil {
		j.code = cmd.ProcessState.ExitCode()
	}
	w.Cleanup(func() {
		if w.Failed() {
			w.Logf("act ended with %d:\n%s", j.code, j.log)
		}
	})
	return j
}

// actCommand prepares act.
func (w *world) actCommand(workflow string, args ...string) *exec.Cmd {
	w.Helper()
	program, err := exec.LookPath("act")
	if err != nil {
		registrytest.Missing(w, "act is not installed (make test installs it)")
	}
	if _, err := exec.LookPath("node"); err != nil {
		registrytest.Missing(w, "node is not installed (on Debian: apt-get install nodejs)")
	}
	repo, action, install := filepath.Join(w.Dir, "repo"), filepath.Join(w.Dir, "action"), filepath.Join(w.Dir, "install")
	if _, err := os.Stat(install); err != nil {
		if w.downloads == nil {
			w.installed(action)
		}
		nixtest.Write(w, install, "action.yml", "name: install Nix\nruns: {using: composite, steps: [{run: nix --version, shell: sh}]}\n")
		nixtest.Write(w, w.Dir, "home/.config/act/actrc", "")
	}
	nixtest.Write(w, repo, ".github/workflows/test.yml", workflow)
	w.Env.Run(w, repo, "git", "init", "-q", "-b", "main")
	w.Env.Run(w, repo, "git", "add", "-A")
	w.Env.Run(w, repo, "git", "commit", "-q", "--allow-empty", "-m", "x")
	ctx, cancel := context.WithTimeout(w.Context(), limit)
	w.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, append([]string{
		"-P", "ubuntu-latest=-self-hosted",
		"--local-repository", "org/nixoci-action@v1=" + action,
		"--local-repository", "cachix/install-nix-action@v31=" + install,
	}, args...)...)
	cmd.Dir = repo
	cmd.Env = append(append([]string{}, w.Vars...), "XDG_CONFIG_HOME="+w.Dir+"/home/.config", "GORACE=halt_on_error=1")
	cmd.Env = append(cmd.Env, w.jobEnv...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if w.user != nil {
		w.handOver(cmd)
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGQUIT) }
	return cmd
}

// wants checks how the job ended and what its log has.
func (j *job) wants(code int, parts ...string) {
	j.Helper()
	if j.code != code {
		j.Errorf("the job ended with %d, want %d", j.code, code)
	}
	for _, p := range parts {
		if !strings.Contains(j.log, p) {
			j.Errorf("the log lacks %q", p)
		}
	}
}

// lacks checks what is not in the log.
func (j *job) lacks(parts ...string) {
	j.Helper()
	for _, p := range parts {
		if strings.Contains(j.log, p) {
			j.Errorf("the log has %q", p)
		}
	}
}

// output is an output of the action's step.
func (j *job) output(name string) string {
	j.Helper()
	m := regexp.MustCompile(`(?m)::set-output:: ` + regexp.QuoteMeta(name) + `=(.*)$`).FindStringSubmatch(j.log)
	if m == nil {
		j.Errorf("there is no output %s", name)
		return ""
	}
	return m[1]
}

// forget removes all from the store, and what Nix knows of substituters: the
// next job is on a new machine.
func (w *world) forget() {
	w.Helper()
	w.Env.Run(w, w.Dir, "nix-store", "--gc")
	if err := os.RemoveAll(filepath.Join(w.Dir, "home", ".cache", "nix")); err != nil {
		w.Fatal(err)
	}
}
