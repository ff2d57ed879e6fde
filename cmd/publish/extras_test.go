package main

import (
	"testing"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/internal/nix"
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

// What a realisation depends on is realised, too.
func TestRealisedDependencies(t *testing.T) {
	const (
		out = "/nix/store/c4gawc43zfkbrqj10kdk2sr1p501n287-top"
		lib = "/nix/store/k0bq3s4hdvxal217l04jr24n8jm5l29g-lib"
	)
	var x extras
	x.built([]discover.Built{{Realised: []nix.Realisation{{ID: "sha256:1!out", Output: "out", Path: out, Depends: map[string]string{"sha256:2!dev": lib, "strange": lib}}}}})
	top, dep := x.realised["c4gawc43zfkbrqj10kdk2sr1p501n287"], x.realised["k0bq3s4hdvxal217l04jr24n8jm5l29g"]
	if len(top) != 1 || top[0].ID != "sha256:1!out" || len(dep) != 1 || dep[0].ID != "sha256:2!dev" || dep[0].Output != "dev" {
		t.Errorf("got %+v", x.realised)
	}
}
