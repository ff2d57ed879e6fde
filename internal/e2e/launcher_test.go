package e2e

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registrytest"
)

// launch runs main.js of an action with an environment, and returns what it
// printed and its exit status.
func launch(t *testing.T, root string, env ...string) (string, int) {
	t.Helper()
	return launchFile(t, root, "main.js", env...)
}

func launchFile(t *testing.T, root, file string, env ...string) (string, int) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		registrytest.Missing(t, "node is not installed (on Debian: apt-get install nodejs)")
	}
	state := filepath.Join(t.TempDir(), "state")
	cmd := exec.CommandContext(t.Context(), node, filepath.Join(root, "launch", file))
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "GITHUB_STATE=" + state, "RUNNER_TEMP=" + t.TempDir(), "HOME=" + t.TempDir(), "GORACE=halt_on_error=1"}, env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	_ = cmd.Run()
	if text, err := os.ReadFile(state); err == nil {
		fmt.Fprintf(&out, "state: %s", text)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// Nothing but the release that the action knows is unpacked and run.
func TestLauncherRefuses(t *testing.T) {
	t.Parallel()
	w := &world{T: t, Env: &nixtest.Env{Dir: t.TempDir()}}
	s := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing" {
			http.NotFound(rw, r)
			return
		}
		_, _ = rw.Write([]byte("something else"))
	}))
	t.Cleanup(s.Close)
	cert := filepath.Join(w.Dir, "cert.pem")
	nixtest.Write(t, w.Dir, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	for name, tc := range map[string]struct{ target, url, want string }{
		"another archive": {target(), s.URL + "/x", "has the SHA-256 checksum "},
		"no archive":      {target(), s.URL + "/missing", "the server answers 404"},
		"no HTTPS":        {target(), strings.Replace(s.URL, "https", "http", 1) + "/x", "is not HTTPS"},
		"other platforms": {"plan9-x64", s.URL + "/x", "release v1 has no program for " + target()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, tools := t.TempDir(), t.TempDir()
			w.action(root, fmt.Sprintf(`{"version": "v1", "files": {%q: {"url": %q, "sha256": "%064d"}}}`, tc.target, tc.url, 0))
			out, code := launch(t, root, "RUNNER_TOOL_CACHE="+tools, "NODE_EXTRA_CA_CERTS="+cert)
			if code != 1 || !strings.Contains(out, "::error::") || !strings.Contains(out, tc.want) {
				t.Errorf("got %d and %s, want an error with %q", code, out, tc.want)
			}
			if strings.Contains(out, "state:") || strings.TrimSpace(contents(t, tools)) != "" {
				t.Errorf("something was unpacked: %s", out)
			}
		})
	}
}

// A program in the tool cache that is not the release's is never run: it is
// downloaded again, before the step and at the job's end, and the user is told.
func TestLauncherChecksToolCache(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(program string) error{
		"changed": func(program string) error {
			return errors.Join(os.Remove(program), os.WriteFile(program, []byte("#!/bin/sh\necho evil\n"), 0o700))
		},
		"half":    func(program string) error { return os.Truncate(program, 1000) },
		"missing": os.Remove,
		"no file": func(program string) error { return errors.Join(os.Remove(program), os.Mkdir(program, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &world{T: t, Env: &nixtest.Env{Dir: t.TempDir()}}
			root, tools := t.TempDir(), t.TempDir()
			w.released(root)
			env := append([]string{"RUNNER_TOOL_CACHE=" + tools, "INPUT_GC=true", "INPUT_DRY-RUN=true", "INPUT_CACHE=oci:" + filepath.Join(w.Dir, "cache")}, w.jobEnv...)
			for range 2 {
				if out, code := launch(t, root, env...); code != 0 || !strings.Contains(out, "mode: gc") || strings.Contains(out, "::warning") || w.downloads() != 1 {
					t.Fatalf("got %d, %d downloads: %s", code, w.downloads(), out)
				}
			}
			programs, err := filepath.Glob(filepath.Join(tools, "nixoci-action", "v0.0.1", "*", "nixoci"))
			if err != nil || len(programs) != 1 {
				t.Fatalf("got %v, %v", programs, err)
			}
			for i, file := range []string{"main.js", "post.js"} {
				if err := spoil(programs[0]); err != nil {
					t.Fatal(err)
				}
				out, code := launchFile(t, root, file, append(env, "STATE_bin="+filepath.Dir(programs[0]))...)
				if code != 0 || strings.Contains(out, "evil") || !strings.Contains(out, "::warning::") || !strings.Contains(out, programs[0]) || w.downloads() != 2+i {
					t.Errorf("%s: got %d, %d downloads: %s", file, code, w.downloads(), out)
				}
			}
			if left, err := filepath.Glob(filepath.Join(tools, "nixoci-action", "v0.0.1", "*")); err != nil || len(left) != 1 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
	// the release's archive has another program than the release says
	t.Run("another program", func(t *testing.T) {
		t.Parallel()
		w := &world{T: t, Env: &nixtest.Env{Dir: t.TempDir()}}
		root := t.TempDir()
		w.released(root)
		file := filepath.Join(root, "launch", "release.json")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		nixtest.Write(t, root, "launch/release.json", regexp.MustCompile(`"program": "[0-9a-f]*"`).ReplaceAllString(string(text), fmt.Sprintf(`"program": "%064d"`, 0)))
		out, code := launch(t, root, append([]string{"RUNNER_TOOL_CACHE=" + t.TempDir()}, w.jobEnv...)...)
		if code != 1 || !strings.Contains(out, "is not the program of the release") || strings.Contains(out, "mode: ") {
			t.Errorf("got %d and %s", code, out)
		}
	})
}

// The release that the tree names, if any, is complete.
func TestRelease(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../launch/release.json")
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Version string
		Files   map[string]struct{ URL, SHA256, Program string }
	}
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if r.Version == "" {
		if len(r.Files) > 0 {
			t.Error("there are files without a version")
		}
		return
	}
	sum := regexp.MustCompile(`^[0-9a-f]{64}$`)
	for _, target := range []string{"linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64"} {
		f := r.Files[target]
		if !strings.HasPrefix(f.URL, "https://") || !strings.Contains(f.URL, "/"+r.Version+"/") || !sum.MatchString(f.SHA256) || !sum.MatchString(f.Program) {
			t.Errorf("%s: got %+v", target, f)
		}
	}
}

// checkout makes a folder like a checkout of the action that belongs to no
// release.
func checkout(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(repo)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch e.Name() {
		case ".git", "bin", "dist", "action.yml", "launch": // no sources, or written below
			continue
		}
		if err := os.Symlink(filepath.Join(repo, e.Name()), filepath.Join(root, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	(&world{T: t}).action(root, `{"version": "", "files": {}}`)
	return root
}

func TestLauncherBuilds(t *testing.T) {
	t.Parallel()
	env := []string{"INPUT_GC=true", "INPUT_DRY-RUN=true", "INPUT_CACHE=oci:" + filepath.Join(t.TempDir(), "cache")}
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOFLAGS", "GOPROXY"} {
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		env = append(env, name+"="+strings.TrimSpace(string(out)))
	}
	out, code := launch(t, checkout(t), env...)
	if code != 0 || !strings.Contains(out, "mode: gc (the input gc is set)") || !strings.Contains(out, "state: bin=/") {
		t.Errorf("got %d and %s", code, out)
	}
}

func TestLauncherWithoutGo(t *testing.T) {
	t.Parallel()
	out, code := launch(t, checkout(t), "PATH="+t.TempDir())
	if code != 1 || !strings.Contains(out, "::error::this version of the action belongs to no release, and Go is missing") {
		t.Errorf("got %d and %s", code, out)
	}
}
