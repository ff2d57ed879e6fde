package e2e

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/org/nixoci-action/internal/registrytest"
)

// disk is a file system of a fixed size in a folder of its own.
func disk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("a tmpfs must not be mounted here, a right that no package brings: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// large is a path of 3 MB that does not compress away.
func (w *world) large(name string) []string {
	return w.add(name, noise(rand.New(rand.NewPCG(1, uint64(len(name)))), 3_000_000))
}

// A directory cache on a full disk keeps what it has, and takes more once
// there is room. On a disk that may not be written it is read.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := disk(t, "2m")
	cache := "oci:" + filepath.Join(dir, "cache")
	small := w.add("small", "small")
	w.publish(cache, small...)

	fails := func(want string, paths ...string) {
		t.Helper()
		r := w.tryPublish(cache, append([]string{"--upstream", "none"}, paths...)...)
		if r.code != 1 || r.Committed != 0 || !strings.Contains(r.stderr, want) {
			t.Errorf("got %d, %d committed:\n%s", r.code, r.Committed, r.stderr)
		}
		if n := strings.Count(r.stderr, want); n > 2 {
			t.Errorf("the same is said %d times:\n%s", n, r.stderr)
		}
		checkClosed(t, cache)
		w.newClient(w.proxy(cache)).substitute(small...)
	}
	large := w.large("large")
	fails("no space left on device", large...)
	more := w.add("more", "more")
	w.publish(cache, more...)

	remount := func(flags uintptr, size string) {
		t.Helper()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|flags, "size="+size); err != nil {
			t.Fatal(err)
		}
	}
	remount(syscall.MS_RDONLY, "2m")
	fails("read-only file system", large...)
	if c := w.gc(cache, "--retention", "0s", "--delay", "0s"); c.code != 1 || !strings.Contains(c.stderr, "read-only file system") {
		t.Errorf("gc ended with %d:\n%s", c.code, c.stderr)
	}

	remount(0, "16m")
	w.publish(cache, large...)
	w.newClient(w.proxy(cache)).substitute(append(append(large, more...), small...)...)
}

// A proxy whose own disk is full serves, and refuses pushes that need room.
func TestProxyOnFullDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := registrytest.NewDistribution(t).Addr + "/a/b"
	paths := w.large("large")
	w.publish(cache, paths...)

	dir := disk(t, "1m")
	conf := w.startProxy(cache, 2, append(w.signPushes(), "--cache-dir", dir)...)
	w.newClient(conf).substitute(paths...)

	pushed := w.large("pushed")
	out, err := w.tryCopyTo(substituter(conf), pushed...)
	if err == nil || !strings.Contains(out, "no space left on device") {
		t.Errorf("nix copy: %v\n%s", err, out)
	}
	small := w.add("small", "small")
	w.copyTo(substituter(conf), small...)
	w.newClient(conf).substitute(append(small, paths...)...)
	if left, err := filepath.Glob(filepath.Join(dir, "*", "push-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}
