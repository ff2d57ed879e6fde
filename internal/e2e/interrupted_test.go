package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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
		undisturbed, s := create(t), create(t)
		corpus.publish(w, undisturbed.cache)
		if err := os.CopyFS(s.dir, os.DirFS(undisturbed.dir)); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if c := w.gc(undisturbed.cache, atOnce...); c.code != 0 {
			t.Fatalf("got %d\n%s", c.code, c.stderr)
		}
		typical := time.Since(start)
		undisturbed.free(t)

		killed := 0
		for range kills {
			cmd := w.command("gc", append([]string{"--cache", s.cache}, atOnce...)...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			timer := time.AfterFunc(time.Duration(random.Float64()*float64(typical)), func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
			err := cmd.Wait()
			timer.Stop()
			if status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
				killed++
			} else if err != nil {
				t.Fatalf("a collection after %d that were killed: %v\n%s", killed, err, stderr.String())
			}
			have := sweep(t, s.cache)
			for _, p := range corpus.current {
				if !have.Has(filepath.Base(p)[:32]) {
					t.Fatalf("after %d that were killed, %s is gone", killed, p)
				}
			}
		}
		if killed == 0 {
			t.Error("none was killed before its end")
		}
		if c := w.gc(s.cache, atOnce...); c.code != 0 || c.Result.Waiting != 0 {
			t.Fatalf("got %d, %+v\n%s", c.code, c.Result, c.stderr)
		}
		s.free(t)
		if got, want := bases(sweep(t, s.cache)), bases(sweep(t, undisturbed.cache)); !slices.Equal(got, want) || len(got) != len(corpus.current) {
			t.Errorf("got %d paths\n%v\nwant %d\n%v", len(got), got, len(want), want)
		}
		got, want := registrytest.FolderSize(t, s.dir), registrytest.FolderSize(t, undisturbed.dir)
		t.Logf("%d killed within %s: %d bytes, undisturbed %d, ratio %.4f", killed, typical.Round(time.Millisecond), got, want, float64(got)/float64(want))
		if got > want+want/100 {
			t.Errorf("%d bytes are left, want no more than the %d of an undisturbed collection", got, want)
		}
		w.newClient(w.proxy(s.cache)).substitute(corpus.current...)
	})
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
		s.free(t)
		if have := sweep(t, s.cache); have.Len() != len(last) {
			t.Errorf("got %d paths, want %d", have.Len(), len(last))
		}
		t.Logf("%d paths removed and %d manifests deleted by two at once, then %d and %d", removed, deleted, c.Result.Removed.Paths, c.Result.Deleted)
		w.newClient(w.proxy(s.cache)).substitute(last...)
	})
}
