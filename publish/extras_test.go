package publish

import (
	"slices"
	"testing"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/storepath"
)

// A log is wanted once for all outputs of a build, and only of what was built
// here.
func TestExpectedLogs(t *testing.T) {
	var x extras
	x.expect([]nix.PathInfo{
		{Path: "/nix/store/a", Deriver: "/nix/store/a.drv", Ultimate: true},
		{Path: "/nix/store/a-dev", Deriver: "/nix/store/a.drv", Ultimate: true},
		{Path: "/nix/store/b", Deriver: "/nix/store/b.drv"},
		{Path: "/nix/store/c", Ultimate: true},
	})
	if len(x.logs) != 1 || x.logs["/nix/store/a.drv"].uploads != 2 {
		t.Errorf("got %+v", x.logs)
	}
}

// A realisation has both names, but where the next Nix would refuse it.
func TestRealisationsOfAnEntry(t *testing.T) {
	const (
		hash     = "c4gawc43zfkbrqj10kdk2sr1p501n287"
		id       = "sha256:916f78f647aa6c9428b9b0de0781b8a40ca768e7f5d8c010ebb5981866e3a110!out"
		deriver  = "wkh51r12dc10nzl5g0kgnbc02j119mvb-top.drv"
		resolved = "z5x6mwzprrrld5rn4mhc9kb8xs0g10lq-top.drv"
	)
	path := storepath.Path{Dir: "/nix/store", HashPart: hash, Name: "top"}
	for name, tc := range map[string]struct {
		nix  nix.Realisation
		refs []string
		want []string
	}{
		"2.34":             {nix.Realisation{ID: id}, nil, []string{id, deriver}},
		"2.34, to itself":  {nix.Realisation{ID: id}, []string{path.Base()}, []string{id}},
		"2.35":             {nix.Realisation{Drv: resolved}, nil, []string{resolved}},
		"2.35, to itself":  {nix.Realisation{Drv: resolved}, []string{path.Base()}, []string{resolved}},
		"2.34, to another": {nix.Realisation{ID: id}, []string{"k0bq3s4hdvxal217l04jr24n8jm5l29g-lib"}, []string{id, deriver}},
		"2.35, as deriver": {nix.Realisation{Drv: deriver}, nil, []string{deriver}},
	} {
		tc.nix.Output, tc.nix.Path = "out", path.String()
		p := &publisher{}
		p.extras.realise(tc.nix)
		e := format.Entry{Path: path, Deriver: deriver, References: tc.refs}
		if _, err := p.realise(&e, &nix.PathInfo{Deriver: "/nix/store/" + deriver}, p.realisations(&e, &nix.PathInfo{Deriver: "/nix/store/" + deriver})); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range e.Realisations {
			got = append(got, r.ID+r.Drv)
		}
		slices.Sort(got)
		slices.Sort(tc.want)
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}
