package upload

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/nix"
)

// paths of every kind that Nix can have.
var derivations = []string{
	`(drv { name = "empty"; script = ": > $out"; })`,
	`(drv { name = "empty-dir"; script = "mkdir $out"; })`,
	`(drv { name = "executable"; script = "echo '#!/bin/sh' > $out; chmod +x $out"; })`,
	`(drv { name = "sizes"; script = ''
	  mkdir -p $out/a/b/c $out/a.b $out/A
	  for n in 0 1 7 8 9 15 16 17 4095 4096 4097; do head -c $n /dev/zero > $out/a/b/$n; done
	''; })`,
	`(drv { name = "names"; script = ''
	  mkdir $out
	  for n in 'a\nb' 'bad\377\376name' '\001' ' ' '-x' 'ä' '"q"' 'back\\\\slash'; do echo x > "$out/$(printf -- "$n.")"; done
	''; })`,
	`(drv { name = "dots"; script = "mkdir $out; echo x > $out/..x; echo y > $out/...; echo z > $out/.z"; })`,
	`(drv { name = "loops"; script = ''
	  mkdir $out
	  ln -s loop $out/loop; ln -s b $out/a; ln -s a $out/b; ln -s . $out/here; ln -s / $out/root; ln -s $out/loop $out/abs; ln -s missing $out/dangling
	''; })`,
	`(drv { name = "link"; script = "ln -s /nowhere $out"; })`,
	`(drv { name = "self"; script = "mkdir $out; echo $out > $out/me; ln -s $out/me $out/link"; })`,
	`(drv { name = "fixed"; script = "printf hello > $out"; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "hello"; })`,
	`(drv { name = "multi"; outputs = [ "out" "dev" "doc" ]; script = "mkdir $out $dev; echo $dev > $out/uses; echo docs > $doc"; })`,
	`(drv { name = "random"; script = "head -c 9000000 /dev/urandom > $out"; })`,
	`(drv { name = "text"; script = "seq 1 300000 > $out"; })`,
	`(drv { name = "many"; script = "mkdir $out; cd $out; seq 1 20000 | split -l 1 -a 5 - f"; })`,
}

func TestStorePaths(t *testing.T) {
	s := newStore(t)
	infos := s.build(t, derivations...)
	added := filepath.Join(s.Dir, "added")
	if err := os.WriteFile(added, []byte("added"), 0o644); err != nil {
		t.Fatal(err)
	}
	infos = append(infos, s.info(t, s.Run(t, s.Dir, "nix-store", "--add", added))...)
	for _, compression := range []string{bincache.CompressionZstd, bincache.CompressionXZ, bincache.CompressionNone} {
		t.Run(compression, func(t *testing.T) {
			repo := newRepo(t)
			infos := infos
			if compression == bincache.CompressionXZ { // at 2 MB a second
				infos = slices.DeleteFunc(slices.Clone(infos), func(p nix.PathInfo) bool { return p.NarSize > 2_500_000 })
			}
			var rec recorder
			rec.mustRun(t, repo, infos, Options{Compression: compression, Dump: s.client.Dump})
			if len(rec.results) != len(infos) {
				t.Errorf("got %d results for %d paths", len(rec.results), len(infos))
			}
			for _, res := range rec.results {
				if res.Compression != compression || res.FileSize <= 0 || res.Offset < 0 || res.Offset+res.FileSize > res.Blob.Size {
					t.Errorf("got %+v", res)
				}
				s.check(t, repo, res)
			}
		})
	}
	t.Run("without Nix's own dump", func(t *testing.T) {
		var rec recorder
		failed, err := rec.run(t, newRepo(t), infos, Options{})
		if err != nil || len(failed) != 1 || failed[0].Path != named(t, infos, "dots").Path {
			t.Errorf("got failures %v, error %v; want only the path with an entry named ..x", failed, err)
		}
	})
}

// peakMemory runs f and returns by how much the heap grew at most.
func peakMemory(f func()) int64 {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before, peak := m.HeapAlloc, m.HeapAlloc
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapAlloc)
			}
		}
	}()
	f()
	close(stop)
	<-stopped
	return int64(peak - before)
}

func TestSparseFile(t *testing.T) {
	size := int64(3 << 30)
	if raceEnabled || testing.Short() {
		size = 256 << 20
	}
	s := newStore(t)
	infos := s.build(t, fmt.Sprintf(`(drv { name = "sparse"; script = "truncate -s %d $out"; })`, size))
	repo := newRepo(t)
	var rec recorder
	start := time.Now()
	peak := peakMemory(func() { rec.mustRun(t, repo, infos, Options{Jobs: 1}) })
	res := rec.results[0]
	t.Logf("%d MB became %d bytes in %s, with %d MB of heap", res.Info.NarSize>>20, res.FileSize, time.Since(start).Round(time.Millisecond), peak>>20)
	if peak > 32<<20 {
		t.Errorf("the heap grew by %d MB", peak>>20)
	}
	if res.Info.NarSize <= size || res.FileSize > size/1000 {
		t.Errorf("got sizes %d and %d", res.Info.NarSize, res.FileSize)
	}
	s.check(t, repo, res)
}

// A path that is not what the store says is refused by name; nothing of it can
// be reached, and the others go on.
func TestCorruptedPaths(t *testing.T) {
	s := newStore(t)
	var exprs []string
	for _, n := range []string{"changed", "longer", "shorter", "mode", "gone", "socket", "good", "large"} {
		size := 1000
		if n == "large" {
			size = 3_000_000
		}
		exprs = append(exprs, fmt.Sprintf(`(drv { name = "%s"; script = "mkdir $out; head -c %d /dev/urandom > $out/f"; })`, n, size))
	}
	infos := s.build(t, exprs...)
	file := func(n string) string {
		p := named(t, infos, n).Path
		for _, f := range []string{p, p + "/f"} {
			if err := os.Chmod(f, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		return p + "/f"
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	flip := func(n string, at int) {
		f := file(n)
		b, err := os.ReadFile(f)
		must(err)
		b[at]++
		must(os.WriteFile(f, b, 0o644))
		must(os.Chmod(f, 0o444)) // the mode is part of the NAR
	}
	flip("changed", 500)
	flip("large", 2_900_000)
	must(os.WriteFile(file("longer"), make([]byte, 2000), 0o644))
	must(os.Truncate(file("shorter"), 10))
	file("mode") // executable now
	must(os.Remove(file("gone")))
	must(os.Remove(file("socket")))
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	must(err)
	defer syscall.Close(fd)
	must(os.Chdir(named(t, infos, "socket").Path)) // the whole path may be too long
	must(syscall.Bind(fd, &syscall.SockaddrUnix{Name: "f"}))
	must(os.Chdir("/"))

	repo := newRepo(t)
	var rec recorder
	failed, err := rec.run(t, repo, infos, Options{Dump: s.client.Dump})
	if err != nil {
		t.Fatal(err)
	}
	if len(rec.results) != 1 || name(rec.results[0].Info) != "good" {
		t.Errorf("got results %+v, want only the good path", rec.results)
	}
	s.check(t, repo, rec.results[0])
	var names []string
	for _, f := range failed {
		names = append(names, name(nix.PathInfo{Path: f.Path}))
		if !strings.Contains(f.Err.Error(), f.Path) || !strings.Contains(f.Err.Error(), "local store") {
			t.Errorf("the error does not name path and side: %v", f.Err)
		}
		var corrupted *CorruptedError
		if errors.As(f.Err, &corrupted) != (name(nix.PathInfo{Path: f.Path}) != "socket") || corrupted != nil && corrupted.Path != f.Path {
			t.Errorf("%s: got %v", f.Path, f.Err)
		}
	}
	slices.Sort(names)
	if want := []string{"changed", "gone", "large", "longer", "mode", "shorter", "socket"}; !slices.Equal(names, want) {
		t.Errorf("got failures of %q, want %q", names, want)
	}
	if tags, err := repo.Tags(t.Context()); len(tags) > 0 || err != nil {
		t.Errorf("the repository has tags %q, %v", tags, err)
	}
}
