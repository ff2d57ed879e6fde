package collect

import (
	"fmt"
	"testing"
	"time"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
)

// Publications of two repositories that say the same otherwise are two, also
// after segments were merged, and also where only the run tells them apart.
func TestMergingKeepsRepositoriesApart(t *testing.T) {
	t.Parallel()
	repo := indextest.NewMemory()
	app := indextest.NewEntry(t, repo, "app")
	same := pub(9, map[string]format.Entry{"app": app})
	record(t, repo, of("h/o/new-one", same), app)
	record(t, repo, of("h/o/new-two", same))
	record(t, repo, run("h/o/one", same))
	record(t, repo, run("h/o/two", same))
	for i := range 20 {
		record(t, repo, indextest.From(fmt.Sprintf("refs/heads/%d", i), 8, app.Path.Base()))
	}
	s := indextest.Sweep(t, repo)
	if n := len(s.Segments()); n > 12 {
		t.Errorf("got %d segments: none were merged", n)
	}
	origins := map[string]int{}
	for _, p := range s.Publications() {
		origins[p.Source()]++
	}
	for _, o := range []string{"h/o/new-one", "h/o/new-two", "h/o/one", "h/o/two"} {
		if origins[o] != 1 {
			t.Errorf("got %d publications of %s, want 1", origins[o], o)
		}
	}
}

// What one repository has published is nothing that another has.
func TestPublishedByAnother(t *testing.T) {
	t.Parallel()
	repo := indextest.NewMemory()
	app := indextest.NewEntry(t, repo, "app")
	p := pub(1, map[string]format.Entry{"app": app})
	s := record(t, repo, of("h/o/one", p), app)
	since := p.Time.Add(-time.Hour)
	if !s.Published(of("h/o/one", p), since) || !s.Published(run("h/o/one", p), since) {
		t.Error("it counts as new to its own repository")
	}
	if s.Published(of("h/o/two", p), since) || s.Published(run("h/o/two", p), since) || s.Published(p, since) {
		t.Error("it counts as published by another repository")
	}
	if past := History(s, of("h/o/two", p), 9); len(past) != 1 {
		t.Errorf("got the history %v of a repository that has none", past)
	}
}
