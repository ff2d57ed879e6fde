package discover

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/nix/nixtest"
)

// generated is a flake made at random, with what it has.
type generated struct {
	source string
	good   []string // attributes that can be built
	apps   []string
	bad    []string // attributes that cannot
}

// generate makes a flake with all kinds of outputs and of derivations.
func generate(r *rand.Rand) (g generated) {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	id := 0
	var packages []string // expressions for those so far
	derivation := func() string {
		id++
		name := fmt.Sprintf("%s%d", pick("a", "b-", "c_", "D.", "e+"), id)
		attrs, meta := "", ""
		switch r.IntN(9) {
		case 0:
			attrs = `outputs = [ "out" "dev" "doc" ];`
			meta = pick("", ` // { meta.outputsToInstall = [ "dev" ]; }`, ` // { meta.outputsToInstall = [ "out" "doc" ]; }`)
		case 1:
			attrs, meta = `outputs = [ "lib" "bin" ];`, ` // { meta.outputsToInstall = [ "bin" ]; }` // no "out"
		case 2:
			attrs = `src = ` + pick("self", "./file", "./folder", `"${self}/file"`, `builtins.toFile "x" "y"`) + `;`
		case 3:
			attrs = `seen = "${builtins.currentSystem or "pure"} ${builtins.getEnv "HOME"} ${self.rev or self.dirtyRev or "none"} ${toString (self.lastModified or 0)}";`
		case 4:
			attrs = `text = import (make "gen` + name + `.nix" { args = [ "-c" "echo '\"${builtins.substring 0 3 "` + name + `"}\"' > $out" ]; });`
		case 5:
			attrs = `outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "` + name + `\n"; args = [ "-c" "echo $name > $out" ];`
		case 6:
			attrs = "inputDrvs = [ " + strings.Join(packages, " ") + " ];"
		}
		if len(packages) > 0 && r.IntN(3) == 0 {
			attrs += "dep = " + packages[r.IntN(len(packages))] + ";"
		}
		return fmt.Sprintf(`(make %s { %s }%s)`, nix.Quote(name), attrs, meta)
	}
	broken := func() string {
		return pick(`(throw "thrown")`, `(abort "aborted")`, `(assert false; 1)`, `{ }.nope`, `42`, `(x: x)`, `"text"`,
			`(make "x" { a = abort "inside"; })`, `(good "x" // { drvPath = throw "no path"; })`, `(import ./none.nix)`, `(derivation { name = "x"; })`)
	}
	name := func() string {
		id++
		return fmt.Sprintf("%s%d", pick("p", "p-", "p_", "p.", "1p", "p'", "if", "p+"), id)
	}
	var b strings.Builder
	add := func(attr Attr, suffix, value string, list *[]string) {
		fmt.Fprintf(&b, "  %s%s = %s;\n", attr, suffix, value)
		*list = append(*list, attr.String()+suffix)
	}
	for range 4 + r.IntN(6) {
		attr := Attr{"packages", "x86_64-linux", name()}
		if r.IntN(4) == 0 {
			add(attr, "", broken(), &g.bad)
			continue
		}
		add(attr, "", derivation(), &g.good)
		packages = append(packages, "self."+attr.String())
	}
	for _, kind := range []string{"checks", "devShells"} {
		for range r.IntN(3) {
			if attr := (Attr{kind, "x86_64-linux", name()}); r.IntN(4) == 0 {
				add(attr, "", broken(), &g.bad)
			} else {
				add(attr, "", derivation(), &g.good)
			}
		}
	}
	for range r.IntN(3) {
		add(Attr{"legacyPackages", "x86_64-linux", name()}, "", derivation(), &g.good)
		set := Attr{"legacyPackages", "x86_64-linux", name()}
		fmt.Fprintf(&b, "  %s.recurseForDerivations = true;\n", set)
		add(append(set, name()), "", derivation(), &g.good)
	}
	for _, kind := range []string{"formatter", "defaultPackage", "devShell"} {
		if r.IntN(2) == 0 {
			add(Attr{kind, "x86_64-linux"}, "", derivation(), &g.good)
		}
	}
	for range r.IntN(3) {
		add(Attr{"nixosConfigurations", name()}, ".config.system.build.toplevel", derivation(), &g.good)
		add(Attr{"homeConfigurations", name()}, ".activationPackage", derivation(), &g.good)
	}
	for _, attr := range []Attr{{"apps", "x86_64-linux", name()}, {"defaultApp", "x86_64-linux"}} {
		if r.IntN(2) == 0 {
			program := pick(`"${`+derivation()+`}/bin/x"`, `"${self}/file"`, `"${./file}"`)
			add(attr, "", `{ type = "app"; program = `+program+`; }`, &g.apps)
		}
	}
	g.source = flake(b.String())
	return g
}

// For each attribute, what is listed is what "nix build" builds: the same
// derivation with the same paths, and nothing more or less. It is there after a
// build.
func TestListsWhatNixBuilds(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		e := v.New(t)
		for seed := range uint64(4) {
			g := generate(rand.New(rand.NewPCG(seed, 0)))
			dir := filepath.Join(e.Dir, fmt.Sprintf("flake%d", seed))
			nixtest.Write(t, dir, "flake.nix", g.source, "file", "x\n", "folder/x", "x\n")
			if seed%3 > 0 {
				e.Git(t, dir)
			}
			if seed%3 > 1 {
				nixtest.Write(t, dir, "file", "changed\n")
			}
			if !listsWhatNixBuilds(t, e, dir, g) {
				t.Fatalf("seed %d:\n%s", seed, g.source)
			}
		}
	})
}

func listsWhatNixBuilds(t *testing.T, e *nixtest.Env, dir string, g generated) bool {
	r := discoverIn(t, e, dir, nil)
	equal(t, "outputs", attrs(r.Outputs), slices.Concat(g.good, g.apps))
	var failed []string
	for _, s := range r.Skipped {
		failed = append(failed, s.Attr.String())
	}
	equal(t, "skipped", failed, slices.Clone(g.bad))
	for _, attr := range g.bad {
		if out, err := e.Try(dir, "nix", "build", "--no-link", "--json", ".#"+attr, "--extra-experimental-features", "nix-command flakes"); err == nil {
			t.Errorf("nix builds %s: %s", attr, out)
		}
	}
	args := []string{"build", "--no-link", "--json"}
	for _, attr := range g.good {
		args = append(args, ".#"+attr)
	}
	var theirs []struct {
		DrvPath string
		Outputs map[string]string
	}
	if err := json.Unmarshal([]byte(e.Nix(t, dir, args...)), &theirs); err != nil {
		t.Fatal(err)
	}
	find := func(attr string) Output {
		i := slices.IndexFunc(r.Outputs, func(o Output) bool { return o.Attr.String() == attr })
		if i < 0 {
			return Output{} // reported above
		}
		return r.Outputs[i]
	}
	byDrv := map[string]map[string]string{}
	for _, b := range theirs { // in no order that one could rely on, and each once
		byDrv[b.DrvPath] = b.Outputs
	}
	for _, attr := range g.good {
		o := find(attr)
		outputs, ok := byDrv[o.DrvPath]
		if !ok {
			t.Errorf("%s: %s is not what nix builds", attr, o.DrvPath)
		}
		for name, path := range outputs {
			if o.Outputs[name] != path {
				t.Errorf("%s: output %s is %s, and nix builds %s", attr, name, o.Outputs[name], path)
			}
		}
		delete(byDrv, "")
	}
	if drvs := slices.Collect(func(yield func(string) bool) {
		for drv := range byDrv {
			if !slices.ContainsFunc(r.Outputs, func(o Output) bool { return o.DrvPath == drv }) && !yield(drv) {
				return
			}
		}
	}); len(drvs) > 0 {
		t.Errorf("nix builds %q as well", drvs)
	}
	for _, attr := range g.apps {
		program := e.Nix(t, dir, "eval", "--raw", ".#"+attr+".program")
		o := find(attr)
		if !slices.ContainsFunc(o.Paths(), func(p string) bool { return p == program || strings.HasPrefix(program, p+"/") }) {
			t.Errorf("%s: its program %s is in none of %q", attr, program, o.Paths())
		}
	}
	built, err := Build(t.Context(), newClient(t, e), at(r.Outputs), BuildOptions{})
	if err != nil {
		t.Error(err)
	}
	for _, b := range built {
		if len(b.Missing) > 0 || b.Unbuilt != nil {
			t.Errorf("%s: %q is missing, %v", b.Attr, b.Missing, b.Unbuilt)
		}
	}
	return !t.Failed()
}
