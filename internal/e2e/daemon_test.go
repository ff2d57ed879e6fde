package e2e

import (
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registrytest"
)

// On most runners Nix's store belongs to root's daemon, and the job to a user
// who may write to neither. The daemon decides who may add substituters: where
// it does not trust the user, the job is told, and publishes all the same.
func TestActionWithDaemon(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"trusted", "not trusted"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.inStore("oci:" + filepath.Join(w.Dir, "cache"))
			nixtest.Write(t, w.Dir, "repo/flake.nix", flakeText(t.Name(), ""))
			trusted := w.asNobody()
			if name == "not trusted" {
				trusted = ""
			}
			w.daemon("allowed-users = *\ntrusted-users = " + trusted + "\n")
			caching := strings.Replace(cacheWorkflow, "exit 7", "echo the user is $(id -u)", 1)
			publishing := "on: push\njobs:\n  build:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v7\n" +
				"      - uses: org/nixoci-action@v1\n        with: {flake: .}\n"

			first := w.act(caching)
			first.wants(0, "building '", "what this job has built is published")
			if w.user != nil {
				first.wants(0, "the user is "+strconv.Itoa(int(w.user.Uid)))
			}
			w.forget()
			second := w.act(caching)
			w.forget()
			third := w.act(publishing)
			third.wants(0, "mode: publish", "8 outputs published")
			w.forget()
			fourth := w.act(publishing)
			fourth.wants(0, "8 outputs published")
			if n := fourth.output("uploaded-paths"); n != "0" {
				t.Errorf("the fourth job uploaded %s paths", n)
			}
			fourth.lacks("building '", "copying path '") // for what the cache has, nobody needs trust
			if name == "trusted" {
				first.lacks("does not trust this user")
				second.wants(0, "copying path '")
				second.lacks("building '")
				return
			}
			for _, j := range []*job{first, third} {
				j.wants(0, "the Nix daemon does not trust this user", "trusted-users")
				j.lacks("ignoring untrusted substituter")
			}
			second.wants(0, "building '")
			second.lacks("copying path '")
		})
	}
}

// asNobody has jobs run as a user without rights, if the tests may do that: as
// root, unless that is root of a user namespace with no other users. Then, and
// for any other user, the job's user is the one who runs the daemon. It returns
// the user's name.
func (w *world) asNobody() string {
	w.Helper()
	self, err := user.Current()
	if err != nil {
		w.Fatal(err)
	}
	if os.Geteuid() != 0 {
		w.Logf("not root: daemon and job are both of the user %s", self.Username)
		return self.Username
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		w.Fatal(err)
	}
	uid, errU := strconv.ParseUint(nobody.Uid, 10, 32)
	gid, errG := strconv.ParseUint(nobody.Gid, 10, 32)
	if errU != nil || errG != nil {
		w.Fatal(errU, errG)
	}
	c := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), NoSetGroups: true}
	probe := exec.Command("true")
	probe.SysProcAttr = &syscall.SysProcAttr{Credential: c}
	if err := probe.Run(); err != nil {
		if os.Getenv("CI") == "true" && !inUserNamespace() {
			w.Fatalf("root may not become nobody: %v", err)
		}
		w.Logf("root of a user namespace without other users: daemon and job are both root's")
		return self.Username
	}
	c.NoSetGroups = false
	w.user = c
	w.Vars = append(w.Vars, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*") // root's Git, in nobody's work tree
	return "nobody"
}

// inUserNamespace reports whether some users of the machine do not exist here.
func inUserNamespace() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	fields := strings.Fields(string(text))
	return err == nil && (len(fields) != 3 || fields[2] != "4294967295")
}

// handOver lets cmd run as the job's user: what jobs write to becomes that
// user's, and the commands can be read. The store stays the daemon's.
func (w *world) handOver(cmd *exec.Cmd) {
	w.Helper()
	cmd.SysProcAttr.Credential = w.user
	for _, dir := range []string{w.Dir, bin} {
		if err := os.Chmod(dir, 0o755); err != nil {
			w.Fatal(err)
		}
	}
	for _, sub := range []string{"home", "tmp", "repo", "action", "install", "cache"} {
		err := filepath.WalkDir(filepath.Join(w.Dir, sub), func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, int(w.user.Uid), int(w.user.Gid))
		})
		if err != nil {
			w.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(w.Dir, "etc"), 0o755); err != nil {
		w.Fatal(err)
	}
	// a checkout may be in a folder of root's own
	act := filepath.Join(w.Dir, "act")
	if _, err := os.Stat(act); err != nil {
		copyProgram(w, cmd.Path, act)
	}
	cmd.Path = act
}

func copyProgram(w *world, from, to string) {
	w.Helper()
	src, err := os.Open(from)
	if err != nil {
		w.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		w.Fatal(err)
	}
	if _, err := io.Copy(dst, src); err != nil {
		w.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		w.Fatal(err)
	}
}

// daemonStart is how long a daemon may take to answer.
const daemonStart = 30 * time.Second

// daemon starts a Nix daemon for the world, through which all goes from here on.
func (w *world) daemon(conf string) {
	w.Helper()
	program, err := exec.LookPath("nix-daemon")
	if err != nil {
		registrytest.Missing(w, "nix-daemon is not installed")
	}
	cmd := exec.Command(program)
	// with a home of its own, as root has one
	cmd.Env = append(append([]string{}, w.Vars...), "HOME="+w.TempDir(), "NIX_CONFIG=system = x86_64-linux\nsandbox = false\nbuild-users-group =\nsubstituters =\n"+conf)
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	w.Vars = append(w.Vars, "NIX_REMOTE=daemon")
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		ask := exec.Command("nix-store", "--query", "--hash", "/")
		ask.Env = w.Vars
		if out, err := ask.CombinedOutput(); err == nil || !strings.Contains(string(out), "cannot connect") {
			return
		}
		if time.Since(begun) > daemonStart {
			w.Fatal("the Nix daemon does not answer")
		}
	}
}
