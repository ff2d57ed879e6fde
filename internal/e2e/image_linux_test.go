package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registrytest"
)

// The image comes out of a registry, and its entrypoint, with nothing but the
// image's files and as its user, serves a cache to Nix.
func TestContainerImage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	registry := registrytest.NewDistribution(t).Addr
	cache := registry + "/owner/repo/nix-cache"
	repo := filepath.Join(w.Dir, "repo")
	nixtest.Write(t, repo, "flake.nix", flakeText(t.Name(), ""))
	w.Git(t, repo)
	published := w.publish(cache, "--flake", repo)

	binaries, layout := filepath.Join(w.Dir, "bin"), filepath.Join(w.Dir, "image")
	build := exec.Command("go", "build", "-o", filepath.Join(binaries, "linux-"+runtime.GOARCH)+"/", "../../cmd/nixoci")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the programs: %v\n%s", err, out)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		if arch != runtime.GOARCH { // it is not run here
			if err := os.Symlink("linux-"+runtime.GOARCH, filepath.Join(binaries, "linux-"+arch)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, args := range [][]string{{"build", "-bin", binaries, "-version", "v1.2.3", "-to", layout}, {"push", "-from", layout, registry + "/org/proxy:v1.2.3"}} {
		if out, err := exec.Command("go", append([]string{"run", "../image"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}

	ref, err := name.ParseReference(registry + "/org/proxy:v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(w.Dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	files := mutate.Extract(img)
	defer files.Close()
	var uid, gid int
	if _, err := fmt.Sscanf(config.Config.User, "%d:%d", &uid, &gid); err != nil || uid == 0 {
		t.Fatalf("got the user %q, %v", config.Config.User, err)
	}
	asUser := canBe(t, uid)
	owner := "--no-same-owner"
	if asUser {
		owner = "--same-owner"
	}
	tar := exec.Command("tar", "-x", "--numeric-owner", "--same-permissions", owner, "-C", root)
	tar.Stdin = files
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}

	args := append(slices.Clone(config.Config.Entrypoint), "--cache", cache, "--listen", "127.0.0.1:0")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = "/", config.Config.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	switch {
	case asUser:
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	case os.Geteuid() != 0: // root there, to whom the files belong
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	w.newClient(w.container(cmd)).substitute(published.paths()...)

	// what it may keep is kept
	kept, err := os.ReadDir(filepath.Join(root, "cache"))
	if err != nil || len(kept) == 0 {
		t.Errorf("%d files are in the image's cache directory, %v", len(kept), err)
	}
	for _, e := range kept {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if got := int(info.Sys().(*syscall.Stat_t).Uid); asUser && got != uid {
			t.Errorf("%s belongs to %d, not to %d", e.Name(), got, uid)
		}
	}
}

// canBe tells whether this process may become another user: as root, and where
// the user namespace has one of that number.
func canBe(t *testing.T, uid int) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var first, outside, count int
		if _, err := fmt.Sscan(line, &first, &outside, &count); err != nil {
			t.Fatalf("uid_map: %v", err)
		}
		if uid >= first && uid-first < count {
			return os.Geteuid() == 0
		}
	}
	return false
}

// container starts the proxy of an image, until the test ends, and returns the
// two lines for nix.conf that it prints.
func (w *world) container(cmd *exec.Cmd) string {
	w.Helper()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		w.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	kill := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	w.Cleanup(func() {
		defer kill.Stop()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			w.Errorf("the container ended with %v:\n%s", err, stderr.String())
		}
	})
	lines := ""
	for r := bufio.NewReader(stdout); strings.Count(lines, "\n") < 2; {
		line, err := r.ReadString('\n')
		if err != nil {
			w.Fatalf("the container is not ready: %v\n%s", err, stderr.String())
		}
		lines += line
	}
	return lines
}
