package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/registrytest"
)

// A collection that is killed again and again and then comes to its end leaves
// what an undisturbed one leaves.
func TestKilledCollections(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := newWorld(t)
	corpus := newCorpus(w)
	storages(t, func(t *testing.T, create func(*testing.T) storage) {
		const kills = 20
		random := rand.New(rand.NewPCG(seed, 0))
		w := w.in(t)
		before, undisturbed := create(t), create(t)
		corpus.publish(w, before.cache)
		copyTo(t, before, undisturbed)
		c := w.gc(undisturbed.cache, atOnce...)
		if c.code != 0 {
			t.Fatalf("got %d\n%s", c.code, c.stderr)
		}
		last := c.Stages[len(c.Stages)-1]
		if last.Name != "collect" {
			t.Fatalf("the last stage is %s", last.Name)
		}
		typical := time.Duration(last.Seconds * float64(time.Second))
		undisturbed.free(t, false)
		want, wantSize := bases(sweep(t, undisturbed.cache)), registrytest.FolderSize(t, undisturbed.dir)

		var rows []int
		for killed := 0; killed < kills; {
			s, row := create(t), 0
			copyTo(t, before, s)
			// one that comes to its end leaves nothing to do
			for killed+row < kills && w.killedCollection(s.cache, time.Duration(random.Float64()*0.8*float64(typical))) {
				row++
				have := bases(sweep(t, s.cache))
				if missing := slices.DeleteFunc(slices.Clone(want), func(b string) bool { return slices.Contains(have, b) }); len(missing) > 0 {
					t.Fatalf("after %d that were killed, these are gone: %v", row, missing)
				}
			}
			killed, rows = killed+row, append(rows, row)
			if c := w.gc(s.cache, atOnce...); c.code != 0 || c.Result.Waiting != 0 {
				t.Fatalf("got %d, %+v\n%s", c.code, c.Result, c.stderr)
			}
			s.free(t, false)
			if got := bases(sweep(t, s.cache)); !slices.Equal(got, want) || len(got) != len(corpus.current) {
				t.Errorf("after %d that were killed: got %d paths\n%v\nwant %d\n%v", row, len(got), got, len(want), want)
			}
			if got := registrytest.FolderSize(t, s.dir) - unfinished(t, s.dir); got > wantSize+wantSize/100 {
				t.Errorf("after %d that were killed: %d bytes are left, want no more than the %d of an undisturbed collection", row, got, wantSize)
			} else {
				t.Logf("%d killed: %d bytes, undisturbed %d, ratio %.4f", row, got, wantSize, float64(got)/float64(wantSize))
			}
			if killed == kills {
				w.newClient(w.proxy(s.cache)).substitute(corpus.current...)
			}
		}
		t.Logf("killed within %s, in rows of %v", typical.Round(time.Millisecond), rows)
	})
}

// unfinished is the size of the uploads that a process left half-done. They are
// removed when they are too old to be somebody's: after a day in a directory,
// after a week by distribution.
func unfinished(t *testing.T, dir string) int64 {
	t.Helper()
	var n int64
	err := filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || !strings.Contains(name, "/.upload-") && !strings.Contains(name, "/_uploads/") {
			return err
		}
		info, err := e.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// copyTo makes to, which nobody has used yet, the same as s.
func copyTo(t *testing.T, s, to storage) {
	t.Helper()
	if err := os.CopyFS(to.dir, os.DirFS(s.dir)); err != nil {
		t.Fatal(err)
	}
}

// killedCollection reports whether a collection was killed before its end, some
// time after it had made its plan.
func (w *world) killedCollection(cache string, after time.Duration) bool {
	w.Helper()
	cmd := w.command("gc", append([]string{"--cache", cache}, atOnce...)...)
	stderr := &alarm{word: "removing ", ring: func() {
		time.AfterFunc(after, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
	}}
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	err := cmd.Wait()
	if status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		return true
	}
	if err != nil {
		w.Fatalf("a collection that was not killed: %v\n%s", err, stderr.String())
	}
	return false
}

// alarm is a buffer that calls a function when a word is written the first
// time.
type alarm struct {
	syncBuffer
	word string
	ring func()
	once sync.Once
}

func (a *alarm) Write(p []byte) (int, error) {
	n, err := a.syncBuffer.Write(p)
	if strings.Contains(a.String(), a.word) {
		a.once.Do(a.ring)
	}
	return n, err
}

// Two collections at once, beside a publisher, remove what one would, and
// nothing that is published meanwhile.
func TestTwoCollectionsAtOnce(t *testing.T) {
	t.Parallel()
	storages(t, func(t *testing.T, create func(*testing.T) storage) {
		const rounds = 8
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		w := newWorld(t)
		s := create(t)
		always := w.add("x-0", noise(random, 20_000), noise(random, 400_000))
		last, removed, deleted := always, 0, 0
		w.publish(s.cache, always...)
		for round := range rounds {
			mine := append(w.add(fmt.Sprintf("x-%d", round+1), noise(random, 30_000), noise(random, 50_000), noise(random, 400_000)), always...)
			var wg sync.WaitGroup
			var mu sync.Mutex
			wg.Go(func() {
				if r := w.tryPublish(s.cache, append([]string{"--upstream", "none", "--sign-key-file", w.keyFile}, mine...)...); r.code != 0 {
					t.Errorf("publish ended with %d:\n%s", r.code, r.stderr)
				}
			})
			for range 2 {
				wg.Go(func() {
					c := w.gc(s.cache, "--json", "--retention", "0s", "--delay", "3s")
					if c.code != 0 || c.Result == nil {
						t.Errorf("gc ended with %d:\n%s", c.code, c.stderr)
						return
					}
					mu.Lock()
					defer mu.Unlock()
					removed, deleted = removed+c.Result.Removed.Paths, deleted+c.Result.Deleted
				})
			}
			wg.Wait()
			last = mine
			have := sweep(t, s.cache)
			for _, p := range last {
				if !have.Has(filepath.Base(p)[:32]) {
					t.Fatalf("round %d: %s is gone", round, p)
				}
			}
		}
		c := w.gc(s.cache, atOnce...)
		if c.code != 0 || c.Result.Waiting != 0 {
			t.Fatalf("got %d, %+v\n%s", c.code, c.Result, c.stderr)
		}
		s.free(t, false)
		if have := sweep(t, s.cache); have.Len() != len(last) {
			t.Errorf("got %d paths, want %d", have.Len(), len(last))
		}
		t.Logf("%d paths removed and %d manifests deleted by two at once, then %d and %d", removed, deleted, c.Result.Removed.Paths, c.Result.Deleted)
		w.newClient(w.proxy(s.cache)).substitute(last...)
	})
}
