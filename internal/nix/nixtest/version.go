package nixtest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Version is a Nix that tests can run with.
type Version struct {
	// Name is that of the Debian suite the Nix is from, or "machine".
	Name string
	// Moving says that the suite changes from day to day. It cannot be
	// installed at times, which should not stop the work here.
	Moving bool

	find func() (dir string, err error)
}

// versions are the machine's own Nix, and those that scripts/nix-root makes.
var versions = []Version{
	{Name: "machine"},
	trixie,
	{Name: "sid", Moving: true, find: once("sid")},
}

var trixie = Version{Name: "trixie", find: once("trixie")}

// rootLimit is how long making a Nix may take. Each needs about 8 s of one
// processor, and 40 MB from the network.
const rootLimit = 10 * time.Minute

// EachVersion runs a test with each version of Nix, in parallel. A version that
// cannot be had fails the test where the variable CI is "true" and skips it
// elsewhere, with the reason; a moving one skips it everywhere. With the variable
// NIX_VERSIONS "machine" it is the machine's alone: the others have their turn.
func EachVersion(t *testing.T, test func(t *testing.T, v Version)) {
	t.Helper()
	for _, v := range versions {
		if v.find != nil && os.Getenv("NIX_VERSIONS") == "machine" {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			test(t, v)
		})
	}
}

// New is the package's New with this version.
func (v Version) New(t testing.TB) *Env {
	t.Helper()
	path := os.Getenv("PATH")
	if v.find != nil {
		dir, err := v.find()
		switch {
		case err != nil && v.Moving:
			t.Skipf("the Nix of %s, which moves, cannot be had: %v", v.Name, err)
		case err != nil:
			missing(t, "the Nix of %s cannot be had: %v", v.Name, err)
		}
		path = dir + string(filepath.ListSeparator) + path
	}
	e := newEnv(t, path)
	t.Logf("with %s", e.Run(t, e.Dir, "nix", "--version"))
	return e
}

// once finds the Nix of a suite, making it if need be.
func once(suite string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		script, err := findScript()
		if err != nil {
			return "", err
		}
		ctx, cancel := context.WithTimeout(context.Background(), rootLimit)
		defer cancel()
		cmd := exec.CommandContext(ctx, script, suite)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // apt ends with it
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
		cmd.WaitDelay = 10 * time.Second
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			return "", errors.New(err.Error() + "\n" + stderr.String())
		}
		return strings.TrimSuffix(string(out), "\n"), nil
	})
}

// findScript looks for scripts/nix-root in the module that is tested.
func findScript() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "scripts", "nix-root"), nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod in any folder above the test")
		}
	}
}
