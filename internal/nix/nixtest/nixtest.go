// Package nixtest gives tests a real Nix with a store of its own.
package nixtest

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Env is a Nix installation with an empty store below a temporary directory.
type Env struct {
	// Dir holds everything; Store is the store directory in it.
	Dir, Store string
	// Vars is the environment for Nix commands.
	Vars []string
}

// New makes an Env with the machine's Nix. Without one the test is skipped, or
// fails where the variable CI is "true".
func New(t testing.TB) *Env {
	t.Helper()
	return newEnv(t, os.Getenv("PATH"))
}

// newEnv makes an Env with the programs in path.
func newEnv(t testing.TB, path string) *Env {
	t.Helper()
	need(t, path, "nix")
	// not t.TempDir: its path may be long, and Nix's socket paths must not be
	dir, err := os.MkdirTemp("", "nix")
	if err != nil {
		t.Fatal(err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, dir) })
	e := &Env{Dir: dir, Store: dir + "/store"}
	for _, sub := range []string{"home", "etc", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	e.Vars = []string{
		"PATH=" + path,
		"HOME=" + dir + "/home", "TMPDIR=" + dir + "/tmp",
		"NIX_STORE_DIR=" + e.Store, "NIX_STATE_DIR=" + dir + "/var", "NIX_LOG_DIR=" + dir + "/log", "NIX_CONF_DIR=" + dir + "/etc",
		// the system makes no difference to a shell script, and to tests it
		// makes none on which machine they run
		"NIX_CONFIG=system = x86_64-linux\nsandbox = false\nbuild-users-group =\nsubstituters =\nflake-registry =\ndownload-attempts = 1\n",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.org", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.org",
	}
	return e
}

// Run runs a command in dir with the environment and returns its output. A
// failing command fails the test.
func (e *Env) Run(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	out, err := e.Try(dir, e.Program(t, name), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Try is Run for a command that may fail: its error has what it printed.
func (e *Env) Try(dir, name string, args ...string) (string, error) {
	if !filepath.IsAbs(name) {
		name = find(e.path(), name)
	}
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, append(slices.Clone(e.Vars), "PWD="+dir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSuffix(string(out), "\n"), err
}

// Nix runs "nix" with flakes enabled.
func (e *Env) Nix(t testing.TB, dir string, args ...string) string {
	t.Helper()
	return e.Run(t, dir, "nix", append(args, "--extra-experimental-features", "nix-command flakes")...)
}

// Git makes dir a Git work tree if it is none, and commits all that is in it.
func (e *Env) Git(t testing.TB, dir string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, ".git")); err != nil {
		e.Run(t, dir, "git", "init", "-q", "-b", "main")
	}
	e.Run(t, dir, "git", "add", "-A")
	e.Run(t, dir, "git", "commit", "-q", "-m", "x")
}

// Write writes files, given as pairs of a name relative to dir and its content.
func Write(t testing.TB, dir string, files ...string) {
	t.Helper()
	for i := 0; i+1 < len(files); i += 2 {
		name := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Program is the file of a program, which is that of the Env's version if it is
// one of Nix's. A test without it is skipped, or fails, as in New.
func (e *Env) Program(t testing.TB, name string) string {
	t.Helper()
	return need(t, e.path(), name)
}

func (e *Env) path() string {
	path := ""
	for _, v := range e.Vars {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			path = p // the last one counts
		}
	}
	return path
}

// need looks for a program in path.
func need(t testing.TB, path, program string) string {
	t.Helper()
	file := find(path, program)
	if file == "" {
		missing(t, "%s is needed, and not in %s", program, path)
	}
	return file
}

func find(path, program string) string {
	if filepath.IsAbs(program) {
		return program
	}
	for _, dir := range filepath.SplitList(path) {
		if file, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return file
		}
	}
	return ""
}

func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// remove removes a store, whose directories are read-only.
func remove(t testing.TB, dir string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	if err := os.RemoveAll(dir); err != nil {
		t.Errorf("removing the test's store: %v", err)
	}
}

// Log is where a client under test can write Nix's log: to the test's log.
func Log(t testing.TB) io.Writer { return logWriter{t} }

type logWriter struct{ t testing.TB }

func (l logWriter) Write(p []byte) (int, error) {
	l.t.Logf("nix: %s", strings.TrimRight(string(p), "\n"))
	return len(p), nil
}
