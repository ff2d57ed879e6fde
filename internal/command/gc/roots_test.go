package gc

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
)

// What a flake has is kept, and what cannot be known of it as it was published.
func TestFlakeRoots(t *testing.T) {
	t.Parallel()
	const hash = "00000000000000000000000000000000-"
	skip := func(reason discover.Reason, attr ...string) discover.Skipped {
		return discover.Skipped{Attr: attr, Reason: reason}
	}
	found := discover.Result{
		Outputs: []discover.Output{{
			Derivation: discover.Derivation{DrvPath: "x", Outputs: map[string]string{"out": "/nix/store/" + hash + "a", "dev": "/nix/store/" + hash + "a-dev"}},
			Sources:    []string{"/nix/store/" + hash + "source"},
		}},
		Skipped: []discover.Skipped{
			skip(discover.EvaluationError, "packages", "x86_64-linux", "bad.one"), skip(discover.NotEvaluated, "checks", "x86_64-linux"),
			skip(discover.UnknownPath, "packages", "x86_64-linux", "ca"), skip(discover.OtherSystem, "packages", "x86_64-linux", "other"),
			skip(discover.Excluded, "apps"), skip(discover.EvaluationError, "packages", "x86_64-linux", "new"),
		},
	}
	root := func(attr, path string) format.Root { return format.Root{Attr: attr, Path: path} }
	pubs := []format.Publication{
		{Roots: []format.Root{root(`packages.x86_64-linux."bad.one"`, "old"), root("checks.x86_64-linux.a", "check"), root("apps.x", "app"), root("", "bare")}},
		{Roots: []format.Root{
			root(`packages.x86_64-linux."bad.one"`, "new"), root(`packages.x86_64-linux."bad.one"`, "old"), root("checks.x86_64-linux2.a", "no"),
			root("packages.x86_64-linux.ca", "ca"), root("packages.x86_64-linux.other", "other"),
		}},
	}
	keep, unknown := flakeRoots(found, pubs)
	want := []collect.Keep{
		{Reason: "output of the flake", Paths: []string{hash + "a", hash + "a-dev", hash + "source"}},
		{Reason: `flake attribute packages.x86_64-linux."bad.one" cannot be evaluated`, Paths: []string{"new", "old"}},
		{Reason: "flake attribute checks.x86_64-linux cannot be evaluated", Paths: []string{"check"}},
		{Reason: "flake attribute packages.x86_64-linux.ca cannot be evaluated", Paths: []string{"ca"}},
	}
	if !reflect.DeepEqual(keep, want) {
		t.Errorf("got\n%+v\nwant\n%+v", keep, want)
	}
	wantText := `the flake has 4 attributes whose paths are not known: packages.x86_64-linux."bad.one" (evaluation error), checks.x86_64-linux (not evaluated), packages.x86_64-linux.ca (unknown path), packages.x86_64-linux.new (evaluation error)`
	if got := unknownText(unknown); got != wantText {
		t.Errorf("got %s, want %s", got, wantText)
	}
}

func TestAllSystems(t *testing.T) {
	t.Parallel()
	got := allSystems("b", []format.Publication{{Systems: []string{"c", "a"}}, {}, {Systems: []string{"a", "b"}}})
	if !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("got %v", got)
	}
}

// Pins that have ended are not named as pins. To end one again is no mistake, and
// nothing to do.
func TestPinsToEnd(t *testing.T) {
	t.Parallel()
	repo := indextest.NewMemory()
	a := indextest.NewEntry(t, repo, "a")
	open := func() (*index.Cache, *index.Snapshot) {
		c := index.Open(repo, indextest.At(0))
		base, err := c.Sweep(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c, base
	}
	for _, pin := range []string{"b", "a", "gone"} {
		c, base := open()
		w, err := c.NewWriter(base, index.WriterOptions{})
		if err == nil {
			err = w.Add(t.Context(), a)
		}
		if err != nil {
			t.Fatal(err)
		}
		p := indextest.Pinned(indextest.From("refs/heads/main", 1, a.Path.Base()), pin, 1)
		if _, err := w.Close(t.Context(), &p); err != nil {
			t.Fatal(err)
		}
	}
	end := func(names ...string) {
		t.Helper()
		c, base := open()
		plan, err := collect.NewPlan(base, collect.PlanOptions{Now: indextest.Noon, Unpin: names, Retention: collect.DefaultRetention(), Delay: collect.DefaultDelay})
		if err == nil {
			_, err = collect.Run(t.Context(), c, plan)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	base := func() *index.Snapshot { _, s := open(); return s }
	end("gone")
	for _, tc := range []struct {
		names, toEnd []string
		err          string
	}{
		{},
		{names: []string{"a", "gone", "b"}, toEnd: []string{"a", "b"}},
		{names: []string{"a", "x"}, toEnd: []string{"a"}, err: `--unpin "x": nothing is pinned under this name; the pins are a, b`},
	} {
		toEnd, err := pinsToEnd(tc.names, base())
		if !slices.Equal(toEnd, tc.toEnd) || (err == nil) != (tc.err == "") || err != nil && err.Error() != tc.err {
			t.Errorf("%v: got %v, %v", tc.names, toEnd, err)
		}
	}
	end("a", "b")
	if _, err := pinsToEnd([]string{"x"}, base()); err == nil || !strings.Contains(err.Error(), "there are none") {
		t.Errorf("no pins: got %v", err)
	}
}
