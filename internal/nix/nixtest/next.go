package nixtest

import (
	_ "embed"
	"os"
	"path/filepath"
	"testing"
)

//go:embed next.sh
var next string

// Next makes an Env with the Nix of trixie that behaves as Nix 2.35 in what
// follows. No Debian suite has a Nix like that yet. Everything else is done by
// trixie's, and is as there.
//
//   - "nix --version" says 2.35.2.
//   - "nix path-info" knows "--json-format 1", the only format there is here.
//   - "nix eval" leaves a flake's source in the store only if the result has it
//     in its string context, or if something in the store refers to it. "nix
//     flake metadata" never does. Both apply to sources that were not there
//     before, and not to "path:" flakes.
//   - "nix store build-trace info --json DRV^*" takes the place of "nix
//     realisation info". It lists the realisations of inputs that are
//     content-addressed, too, by their resolved derivations and sorted by path,
//     and then the paths of DRV's outputs.
func Next(t testing.TB) *Env {
	t.Helper()
	e := trixie.New(t)
	e.Wrap(t, "nix", next)
	return e
}

// Wrap puts a shell script in the place of a program. In it, "$real" is the
// program itself.
func (e *Env) Wrap(t testing.TB, program, script string) {
	t.Helper()
	dir := filepath.Join(e.Dir, "wrapped", program)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	text := "#!/bin/sh\nreal='" + e.Program(t, program) + "'\n" + script
	if err := os.WriteFile(filepath.Join(dir, program), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	e.Vars = append(e.Vars, "PATH="+dir+string(filepath.ListSeparator)+e.path())
}
