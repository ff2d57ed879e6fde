package index_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
)

// What a snapshot is thought to take is what the runtime says that it takes.
func TestMemory(t *testing.T) {
	heap := func() int64 {
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	indextest.BenchSnapshot(t, 5000) // what the compression keeps is not a snapshot's
	for _, n := range []int{1000, 10_000, 60_000, 120_000} {
		before := heap()
		s := indextest.BenchSnapshot(t, n)
		s.LookupNAR(strings.Repeat("0", 52)) // as the proxy does
		took := heap() - before
		estimate := s.Memory()
		t.Logf("%d entries: %d bytes measured, %d estimated", n, took, estimate)
		if ratio := float64(estimate) / float64(took); ratio < 0.8 || ratio > 1.3 {
			t.Errorf("%d entries: %d bytes, estimated as %d, which is %.2f of that", n, took, estimate, ratio)
		}
		runtime.KeepAlive(s)
	}
}

// The memory for an index is asked for before it is taken, and where there is
// none the index is not read.
func TestReserve(t *testing.T) {
	repo := indextest.NewMemory()
	var entries []format.Entry
	for i := range 500 {
		desc, err := repo.PutBlob(t.Context(), fmt.Append(nil, i))
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, indextest.EntryFor(fmt.Sprint("path-", i), desc))
	}
	if _, err := indextest.Publish(t, repo, index.WriterOptions{}, entries...); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	o := indextest.Quick()
	o.Reserve = func(n int64) error { asked.Add(n); return nil }
	c := index.Open(repo, o)
	s, err := c.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if took := s.Memory(); asked.Load() < took || asked.Load() > 3*took {
		t.Errorf("asked for %d bytes, for what takes %d", asked.Load(), took)
	}
	asked.Store(0)
	if _, err := c.Refresh(t.Context()); err != nil || asked.Load() != 0 {
		t.Errorf("to read nothing new %d bytes were asked for, %v", asked.Load(), err)
	}

	full := errors.New("no memory")
	for _, allowed := range []int64{0, 1000, 100_000} {
		asked.Store(0)
		o.Reserve = func(n int64) error {
			if asked.Add(n) > allowed {
				return full
			}
			return nil
		}
		if s, err := index.Open(repo, o).Refresh(t.Context()); !errors.Is(err, full) {
			t.Errorf("with %d bytes: got %v, %v", allowed, s, err)
		}
	}
}
