package collect

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
)

// A matrix publishes what is missing in parts, and then records the whole. Its
// lists change from run to run, runs fail, systems come and go. Collections take
// nothing that the last whole publication needs, and leave nothing for ever but
// that and the parts of a run that has failed since.
func TestPartsOfASeries(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	repo := indextest.NewMemory()
	const packages, days = 12, 120
	versions := make([]int, packages)
	now := func(day float64) time.Time { return indextest.At(day).Now() }
	// a package and the library that it refers to, which three packages share
	entries := func(pkg int) []format.Entry {
		name := fmt.Sprintf("lib-%d-%d", pkg/3, versions[pkg/3*3])
		lib := indextest.NewEntry(t, repo, name)
		return []format.Entry{lib, indextest.NewEntry(t, repo, fmt.Sprintf("p%d-%d-%s", pkg, versions[pkg], name), lib.Path.Base())}
	}
	whole := func() (all []format.Entry) {
		for pkg := range packages {
			all = append(all, entries(pkg)...)
		}
		return all
	}
	// publish does what the command does: it repeats what is old, and adds what
	// is missing.
	publish := func(day float64, p format.Publication, entries []format.Entry) {
		t.Helper()
		c := index.Open(repo, indextest.At(day))
		base, err := c.Sweep(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.NewWriter(base, index.WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if old, ok := base.Lookup(e.Path.HashPart); ok && now(day).Sub(old.Added) < format.PinAfter {
				continue
			}
			if err := w.Add(context.Background(), e); err != nil {
				t.Fatal(err)
			}
		}
		p.Ref, p.Series, p.Time = "refs/heads/main", "matrix", now(day)
		for _, e := range entries {
			if !strings.HasPrefix(e.Path.Name, "lib-") {
				p.Roots = append(p.Roots, format.Root{Path: e.Path.Base()})
			}
		}
		if res, err := w.Close(context.Background(), &p); err != nil || len(res.Incomplete)+len(res.Lost) > 0 {
			t.Fatalf("got %+v, %v", res, err)
		}
	}
	var last []format.Entry
	for day := float64(days); day > 0; day-- {
		for range r.IntN(4) {
			versions[r.IntN(packages)]++
		}
		base := indextest.Sweep(t, repo)
		var missing []int
		for pkg := range packages {
			if !base.Has(entries(pkg)[1].Path.HashPart) {
				missing = append(missing, pkg)
			}
		}
		r.Shuffle(len(missing), func(i, j int) { missing[i], missing[j] = missing[j], missing[i] })
		failed := false
		for i, job := range slices.Collect(slices.Chunk(missing, 1+r.IntN(4))) {
			if r.IntN(8) == 0 {
				failed = true
				continue
			}
			var part []format.Entry
			for _, pkg := range job {
				part = append(part, entries(pkg)...)
			}
			publish(day-float64(i)/1000, format.Publication{Partial: true, Systems: []string{fmt.Sprint("system-", r.IntN(3))}}, part)
		}
		if !failed {
			last = whole()
			publish(day-0.2, format.Publication{Systems: []string{"system-0", fmt.Sprint("system-", r.IntN(3))}}, last)
		}
		if int(day)%7 == 0 {
			mustCollect(t, repo, day-0.5, defaults)
		}
		s := indextest.Sweep(t, repo)
		for _, e := range last {
			if !s.Has(e.Path.HashPart) {
				t.Fatalf("%v days before the end the last whole publication lacks %s", day, e.Path.Name)
			}
		}
	}
	// The last run of all is whole; long afterwards that is all there is.
	last = whole()
	publish(-1, format.Publication{Systems: []string{"system-0"}}, last)
	for _, day := range []float64{-40, -80, -120} {
		mustCollect(t, repo, day, defaults)
	}
	s := indextest.Sweep(t, repo)
	names := map[string]bool{}
	for _, e := range last {
		names[e.Path.Name] = true
	}
	for e := range s.All {
		if !names[e.Path.Name] {
			t.Errorf("%s is there for ever", e.Path.Name)
		}
		delete(names, e.Path.Name)
	}
	if len(names) > 0 {
		t.Errorf("the last whole publication lacks %v", names)
	}
	for _, v := range month.Judge(s.Publications(), nil, now(-120)) {
		if v.Keep && (v.Publication.Partial || len(v.Publication.Roots) != packages || v.Publication.Roots[0].Path != last[1].Path.Base()) {
			t.Errorf("%+v is kept for ever (%s)", v.Publication, v.Reason)
		}
	}
}
