package gc

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/index/format"
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

func TestCheckPins(t *testing.T) {
	t.Parallel()
	pubs := []format.Publication{{Pin: "b"}, {}, {Pin: "a"}, {Pin: "b"}}
	for _, tc := range []struct {
		names []string
		pubs  []format.Publication
		want  string
	}{
		{nil, nil, ""},
		{[]string{"a", "b"}, pubs, ""},
		{[]string{"a", "x"}, pubs, `--unpin "x": nothing is pinned under this name; the pins are a, b`},
		{[]string{"x"}, nil, "there are none"},
	} {
		if err := checkPins(tc.names, tc.pubs); (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: got %v, want %q", tc.names, err, tc.want)
		}
	}
}
