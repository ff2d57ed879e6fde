package nixtest

import (
	"path/filepath"
	"strings"
	"testing"
)

// A version's programs are its own, and build.
func TestEachVersion(t *testing.T) {
	EachVersion(t, func(t *testing.T, v Version) {
		e := v.New(t)
		nix := e.Program(t, "nix")
		if v.find != nil {
			if dir, err := v.find(); err != nil || filepath.Dir(nix) != dir {
				t.Errorf("got %s, which is not in %s, %v", nix, dir, err)
			}
		}
		if store := e.Program(t, "nix-store"); filepath.Dir(store) != filepath.Dir(nix) {
			t.Errorf("got %s beside %s", store, nix)
		}
		expr := `derivation { name = "x"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo ${builtins.nixVersion} > $out" ]; }`
		out := e.Run(t, e.Dir, "nix-build", "--no-out-link", "--expr", expr)
		if version := e.Run(t, e.Dir, "cat", out); !strings.HasSuffix(e.Run(t, e.Dir, "nix", "--version"), " "+version) {
			t.Errorf("%s has built with %s", nix, version)
		}
	})
}
