package collect

import (
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/indextest"
)

// Whole collections, of up to a million entries, are measured by internal/bench.
func BenchmarkPlan(b *testing.B) {
	s := indextest.BenchSnapshot(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		p, err := NewPlan(s, PlanOptions{Retention: Retention{Last: 1, Age: 30 * 24 * time.Hour, PullRequests: 7 * 24 * time.Hour}, Delay: 24 * time.Hour})
		if err != nil || p.Removed.Paths == 0 || p.Kept.Paths == 0 {
			b.Fatal("a plan that keeps everything, or nothing", err)
		}
	}
}
