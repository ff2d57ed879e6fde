package collect

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/indextest"
)

// The catalogue says of each path what a collection's plan says, and has the
// references that the entries have.
func TestCatalogue(t *testing.T) {
	t.Parallel()
	s := indextest.BenchSnapshot(t, 2000)
	o := PlanOptions{Now: time.Now(), Retention: DefaultRetention(), Delay: DefaultDelay}
	plan, err := NewPlan(s, o)
	if err != nil {
		t.Fatal(err)
	}
	planned := map[string]PlannedPath{}
	for _, p := range plan.Paths {
		planned[p.Path.HashPart] = p
	}
	c := NewCatalogue(s, o)
	if len(c.Paths) != s.Len() || plan.Kept.Paths == 0 || plan.Removed.Paths == 0 {
		t.Fatalf("got %d paths of %d, %d to keep, %d to remove", len(c.Paths), s.Len(), plan.Kept.Paths, plan.Removed.Paths)
	}
	if len(c.Verdicts) != len(plan.Verdicts) {
		t.Errorf("got %d verdicts, want %d", len(c.Verdicts), len(plan.Verdicts))
	}
	if !slices.IsSortedFunc(c.Paths, func(a, b CataloguePath) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("it is not sorted by name")
	}
	for _, p := range c.Paths {
		want := planned[p.HashPart]
		if p.Name != want.Path.Name || p.NarSize != want.NarSize || p.FileSize != want.FileSize || p.Added != want.Added.Unix() || p.Keep != want.Keep || p.Reason != want.Reason {
			t.Fatalf("got %+v, want %+v", p, want)
		}
		e, _ := s.Lookup(p.HashPart)
		refs := map[string]bool{}
		for _, r := range p.References {
			refs[c.Paths[r].HashPart+"-"+c.Paths[r].Name] = true
		}
		if got := slices.Sorted(maps.Keys(refs)); !slices.Equal(got, e.References) {
			t.Fatalf("%s: got the references %q, want %q", p.Name, got, e.References)
		}
	}
}

func BenchmarkCatalogue(b *testing.B) {
	s := indextest.BenchSnapshot(b, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		if c := NewCatalogue(s, PlanOptions{Retention: DefaultRetention(), Delay: DefaultDelay}); len(c.Paths) != s.Len() {
			b.Fatal("paths are missing")
		}
	}
}
