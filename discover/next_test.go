package discover

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/nix/nixtest"
)

// scripts is a flake with apps whose programs are files of the flake, and one
// whose program is one that is built.
func scripts(t *testing.T, e *nixtest.Env) (dir string) {
	t.Helper()
	dir = filepath.Join(e.Dir, "flake")
	nixtest.Write(t, dir, "flake.nix", flake(`
		packages.x86_64-linux.a = good "a";
		apps.x86_64-linux.script = { type = "app"; program = "${self}/deploy.sh"; };
		apps.x86_64-linux.both = { type = "app"; program = "${self}/deploy.sh ${good "b"}"; };
		apps.x86_64-linux.built = { type = "app"; program = "${good "c"}/bin/c"; };
	`), "deploy.sh", "echo deploy\n")
	e.Git(t, dir)
	return dir
}

// What the evaluation gives depends on the sources that it names. Nix leaves
// others out of the store since 2.35.
func TestResultDependsOnSources(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		e := v.New(t)
		dir := scripts(t, e)
		for _, op := range []arguments{
			{Op: "visit", Tasks: []Attr{{"apps"}}, From: Attr{}},
			{Op: "examine", Path: Attr{"apps", "x86_64-linux", "script"}},
		} {
			op.Systems, op.Include, op.Exclude = []string{"x86_64-linux"}, [][]string{}, [][]string{}
			j, err := json.Marshal(op)
			if err != nil {
				t.Fatal(err)
			}
			result := fmt.Sprintf("(%s) (builtins.fromJSON %s) (builtins.getFlake %s)", discoverNix, nix.Quote(string(j)), nix.Quote("git+file://"+dir))
			raw, err := newClient(t, e).Eval(t.Context(), "let r = builtins.toJSON ("+result+"); in [ (builtins.attrNames (builtins.getContext r)) (builtins.unsafeDiscardStringContext r) ]", nix.EvalOptions{Impure: true})
			if err != nil {
				t.Fatal(err)
			}
			got := [2]json.RawMessage{}
			var context []string
			if err := json.Unmarshal(raw, &got); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(got[0], &context); err != nil {
				t.Fatal(err)
			}
			source := slices.IndexFunc(context, func(p string) bool { return strings.HasSuffix(p, "-source") })
			if source < 0 {
				t.Errorf("%s: the context of %s is %q", op.Op, got[1], context)
			}
		}
	})
}

// With Nix 2.35 a source that only the evaluation has seen is published, too.
func TestSourcesOfTheNextNix(t *testing.T) {
	t.Parallel()
	e := nixtest.Next(t)
	r := discoverIn(t, e, scripts(t, e), nil)
	equal(t, "outputs", attrs(r.Outputs), []string{"apps.x86_64-linux.both", "apps.x86_64-linux.built", "apps.x86_64-linux.script", "packages.x86_64-linux.a"})
	built, err := Build(t.Context(), newClient(t, e), at(r.Outputs), BuildOptions{})
	if err != nil {
		t.Error(err)
	}
	for _, b := range built {
		if len(b.Missing) > 0 || len(b.Valid) == 0 {
			t.Errorf("%s: got %q, and %q is missing", b.Attr, b.Valid, b.Missing)
		}
	}
}

// A source that is not there is missing, and nothing else is.
func TestSourceIsGone(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		e := v.New(t)
		r := discoverIn(t, e, scripts(t, e), nil)
		i := slices.IndexFunc(r.Outputs, func(o Output) bool { return o.Name == "script" })
		e.Run(t, e.Dir, "nix-store", "--delete", r.Outputs[i].Sources[0])
		built, err := Build(t.Context(), newClient(t, e), at(r.Outputs), BuildOptions{})
		for _, b := range built {
			gone := b.Name == "script" || b.Name == "both"
			if gone != (len(b.Missing) == 1) || gone != (b.Err != nil) || gone && !strings.Contains(b.Err.Error(), b.Missing[0]) {
				t.Errorf("%s: %q is missing, %v", b.Attr, b.Missing, b.Err)
			}
		}
		if len(built) != 4 || err == nil {
			t.Errorf("got %d, %v", len(built), err)
		}
	})
}

// The next Nix lists the realisations of what a content-addressed derivation was
// built from beside its own. Which comes first is decided by their hashes, hence
// several.
func TestRealisationsOfTheNextNix(t *testing.T) {
	t.Parallel()
	e := nixtest.Next(t)
	e.Vars = append(e.Vars, nixConfig(e)+"extra-experimental-features = ca-derivations\n")
	const floating = `__contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";`
	var text strings.Builder
	for i := range 6 {
		fmt.Fprintf(&text, `packages.x86_64-linux.app%d = make "app%[1]d" { %[2]s lib = make "lib%[1]d" { %[2]s }; outputs = [ "out" "dev" ]; args = [ "-c" "echo $lib > $out; echo dev %[1]d > $dev" ]; };`, i, floating)
	}
	dir := filepath.Join(e.Dir, "flake")
	nixtest.Write(t, dir, "flake.nix", flake(text.String()))
	e.Git(t, dir)
	r := discoverIn(t, e, dir, func(o *Options) { o.Floating = true })
	built, err := Build(t.Context(), newClient(t, e), at(r.Outputs), BuildOptions{})
	if err != nil || len(built) != 6 {
		t.Fatalf("got %d, %v", len(built), err)
	}
	for _, b := range built {
		out, err := os.ReadFile(b.Outputs["out"])
		lib := strings.TrimSpace(string(out))
		if err != nil || len(b.Valid) != 2 || len(b.Outputs) != 2 || !strings.HasSuffix(b.Outputs["out"], "-"+b.Name) || !strings.HasSuffix(b.Outputs["dev"], "-"+b.Name+"-dev") {
			t.Errorf("%s: got %q, %v", b.Attr, b.Outputs, err)
		}
		// each with the derivation that Nix will look for
		for _, path := range []string{b.Outputs["out"], b.Outputs["dev"], lib} {
			drv := filepath.Base(e.Run(t, e.Dir, "nix-store", "--query", "--deriver", path))
			if !slices.ContainsFunc(b.Realised, func(r nix.Realisation) bool { return r.Path == path && r.Drv == drv }) {
				t.Errorf("%s: %s is not among %+v", b.Attr, path, b.Realised)
			}
		}
		if len(b.Realised) != 3 {
			t.Errorf("%s: got %+v", b.Attr, b.Realised)
		}
	}
}

// nixConfig is the Env's variable NIX_CONFIG, to be added to.
func nixConfig(e *nixtest.Env) string {
	i := slices.IndexFunc(e.Vars, func(v string) bool { return strings.HasPrefix(v, "NIX_CONFIG=") })
	return e.Vars[i]
}
