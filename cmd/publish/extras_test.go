package main

import (
	"testing"

	"github.com/org/nixoci-action/internal/nix"
)

func TestHiddenValues(t *testing.T) {
	var x extras
	x.hide("", "short", "  long enough  \nanother-line\n")
	if len(x.secrets) != 2 || string(x.secrets[0]) != "long enough" || string(x.secrets[1]) != "another-line" {
		t.Errorf("got %q", x.secrets)
	}
}

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
