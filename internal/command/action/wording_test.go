package action

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/ui"
)

// A job knows inputs. What no input stands for stays, and so does what others
// print.
func TestInInputs(t *testing.T) {
	t.Parallel()
	s, _ := newTestSession(t, "")
	for line, want := range map[string]string{
		"hint: try --system, --kinds or --include; --json lists what was skipped": "hint: try systems, kinds or include; the output report lists what was skipped",
		"hint: trust the key with --trusted-key NAME:BASE64":                      "hint: trust the key with trusted-keys NAME:BASE64",
		"hint: git config --global --add safe.directory /x":                       "hint: git config --global --add safe.directory /x",
		"::error::--part is no JSON%0Ahint: see nixoci help publish":              "::error::part is no JSON%0Ahint: see the inputs in docs/action.md, or the help of publish",
		"::warning::use --exclude-path":                                           "::warning::use exclude-paths",
		"building with --system x":                                                "building with --system x",
		"::group::--system":                                                       "::group::--system",
	} {
		if got := s.edit(line); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
	for _, f := range inputs { // what a flag is called, its page knows
		page, err := os.ReadFile("../../../docs/flags.md")
		if err != nil {
			t.Fatal(err)
		}
		for flag, name := range flags {
			if name == f.name && !strings.Contains(string(page), "`"+flag) {
				t.Errorf("%s stands for %s, which is no flag", name, flag)
			}
		}
	}
}

// An evaluation's error points to its line in the checkout, but never to a file
// that only has the same name.
func TestPlace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	const hash = "00000000000000000000000000000000"
	top, store := filepath.Join(dir, "work"), filepath.Join(dir, "store")
	write("work/flake.nix", "{ the flake }")
	write("work/lib/a,b.nix", "{ a }")
	write("work/sub/flake.nix", "{ another }")
	whole, other := store+"/"+hash+"-source", store+"/"+hash+"-nixpkgs"
	write("store/"+hash+"-source/flake.nix", "{ the flake }")
	write("store/"+hash+"-source/lib/a,b.nix", "{ a }")
	write("store/"+hash+"-nixpkgs/flake.nix", "{ not ours }")
	write("store/"+hash+"-sub/flake.nix", "{ another }")
	for message, want := range map[string]ui.Place{
		"syntax error\n\n       at " + whole + "/flake.nix:3:9:\n\n     2| x":                           {File: "flake.nix", Line: 3, Col: 9},
		"dynamic attribute already defined at " + whole + "/flake.nix:16:54\n":                          {File: "flake.nix", Line: 16, Col: 54},
		"x\n at " + other + "/flake.nix:1:2:\n at " + whole + "/lib/a,b.nix:4:5:\n":                     {File: "lib/a,b.nix", Line: 4, Col: 5},
		"x\n at " + store + "/" + hash + "-sub/flake.nix:7:8:":                                          {File: "sub/flake.nix", Line: 7, Col: 8},
		"x\n at " + top + "/lib/a,b.nix:1:1:":                                                           {File: "lib/a,b.nix", Line: 1, Col: 1},
		"x\n at " + other + "/flake.nix:1:2:":                                                           {},
		"x\n at " + top + "/../flake.nix:1:2:":                                                          {},
		"x\n at " + whole + "/missing.nix:1:2:":                                                         {},
		"x\n at «string»:1:1:":                                                                          {},
		"x at /dev/zero:1:1 " + strings.Repeat("\n at /nix/store/"+hash+"-x/../../../dev/zero:1:1:", 3): {},
	} {
		s, _ := newTestSession(t, "", "GITHUB_WORKSPACE", top, "INPUT_FLAKE", "path:./sub")
		if got := s.place(message); got != want {
			t.Errorf("%q: got %+v, want %+v", message, got, want)
		}
	}
	s, _ := newTestSession(t, "", "GITHUB_WORKSPACE", top)
	got := s.edit("::error::broken%0A%0A  at " + whole + "/lib/a,b.nix:4:5:%0A")
	if want := "::error file=lib/a%2Cb.nix,line=4,col=5::broken%0A"; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
