package discover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/nix/nixtest"
)

// lib makes derivations of the current system without any dependency.
const lib = `
  make = name: attrs: derivation ({
    inherit name; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/bin:/usr/bin:/run/current-system/sw/bin";
    args = [ "-c" "for o in $outputs; do eval \"echo $name > \\$$o\"; done" ]; outputs = [ "out" ];
  } // attrs);
  good = name: make name { };
`

func flake(outputs string) string {
	return "{ outputs = { self }: let\n" + lib + "in {\n" + outputs + "\n}; }\n"
}

func newClient(t *testing.T, e *nixtest.Env) *nix.Client {
	return nix.New(nix.Options{Env: e.Vars, Stderr: nixtest.Log(t)})
}

// evaluated is a flake with what it has.
type evaluated struct {
	*Evaluation
	Result
}

// discoverWith evaluates a flake, and checks that all it finds is told.
func discoverWith(ctx context.Context, client *nix.Client, opts Options) (r evaluated, err error) {
	if r.Evaluation, err = Open(ctx, client, opts); err != nil {
		return r, err
	}
	var told []Output
	r.Result, err = r.Run(ctx, func(outputs []Output) { told = append(told, outputs...) })
	slices.SortStableFunc(told, func(a, b Output) int { return slices.Compare(a.Attr, b.Attr) })
	if err == nil && !reflect.DeepEqual(told, r.Outputs) {
		err = fmt.Errorf("was told of\n%v\nand the result has\n%v", told, r.Outputs)
	}
	return r, err
}

// discoverIn evaluates a flake for x86_64-linux.
func discoverIn(t *testing.T, e *nixtest.Env, dir string, change func(*Options)) evaluated {
	t.Helper()
	opts := Options{Flake: dir, Systems: []string{"x86_64-linux"}}
	if change != nil {
		change(&opts)
	}
	r, err := discoverWith(t.Context(), newClient(t, e), opts)
	if err != nil {
		t.Fatalf("evaluating: %v\nhint: %s", err, hint.Of(err))
	}
	return r
}

func attrs(outputs []Output) []string {
	names := make([]string, len(outputs))
	for i, o := range outputs {
		names[i] = o.Attr.String()
	}
	return names
}

func skipped(r evaluated) []string {
	names := make([]string, len(r.Skipped))
	for i, s := range r.Skipped {
		names[i] = s.Attr.String() + ": " + string(s.Reason)
	}
	return names
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: got\n  %s\nwant\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestEveryKind(t *testing.T) {
	e := nixtest.New(t)
	dir := filepath.Join(e.Dir, "flake")
	nixtest.Write(t, dir, "flake.nix", flake(`
		packages.x86_64-linux = { a = good "a"; two = make "two" { outputs = [ "out" "dev" ]; }; };
		packages.aarch64-linux.a = good "a";
		checks.x86_64-linux.c = good "c";
		formatter.x86_64-linux = good "fmt";
		apps.x86_64-linux.run = { type = "app"; program = "${self.packages.x86_64-linux.two.dev}/bin/x"; };
		apps.x86_64-linux.script = { type = "app"; program = "${./script.sh}"; };
		apps.x86_64-linux.outside = { type = "app"; program = "/bin/sh"; };
		legacyPackages.x86_64-linux = {
			top = good "top"; f = x: x; s = "text";
			nested = { recurseForDerivations = true; inner = good "in"; };
			hidden = { no = good "no"; };
		};
		nixosConfigurations.host = { config.system.build.toplevel = good "nixos"; };
		nixosConfigurations.arm = { config.system.build.toplevel = make "arm" { system = "aarch64-linux"; }; };
		darwinConfigurations.mac = { config.system.build.toplevel = make "mac" { system = "aarch64-darwin"; }; };
		homeConfigurations."me@host" = { activationPackage = good "home"; };
		hydraJobs = { deep.er.job = good "job"; };
		devShells.x86_64-linux.default = make "shell" { buildInputs = [ self.packages.x86_64-linux.two.dev (good "a") ]; src = ./script.sh; };
		devShells.x86_64-linux.nixpkgs = good "sh" // { inputDerivation = good "inputs"; };
		overlays.default = final: prev: { };
		bundlers.x86_64-linux.default = drv: drv;
		defaultPackage.x86_64-linux = good "old";
		defaultPackage.aarch64-linux = good "old";
		devShell.x86_64-linux = make "oldshell" { buildInputs = [ (good "a") ]; };
		defaultApp.x86_64-linux = { type = "app"; program = "${good "tool"}/bin/tool"; };
	`), "script.sh", "echo hello\n")
	e.Git(t, dir)

	r := discoverIn(t, e, dir, func(o *Options) { o.Kinds, o.Jobs = AllKinds(), 1 })
	equal(t, "outputs", attrs(r.Outputs), []string{
		"packages.x86_64-linux.a", "packages.x86_64-linux.two", "checks.x86_64-linux.c", "formatter.x86_64-linux",
		"apps.x86_64-linux.run", "apps.x86_64-linux.script",
		"legacyPackages.x86_64-linux.top", "legacyPackages.x86_64-linux.nested.inner",
		"nixosConfigurations.host.config.system.build.toplevel", `homeConfigurations."me@host".activationPackage`,
		"hydraJobs.deep.er.job", "devShells.x86_64-linux.default", "devShells.x86_64-linux.nixpkgs",
		"defaultPackage.x86_64-linux", "devShell.x86_64-linux", "defaultApp.x86_64-linux",
	})
	equal(t, "skipped", skipped(r), []string{
		"packages.aarch64-linux: other system",
		"defaultPackage.aarch64-linux: other system",
		"apps.x86_64-linux.outside: not a derivation",
		"nixosConfigurations.arm.config.system.build.toplevel: other system",
		"darwinConfigurations.mac.config.system.build.toplevel: other system",
	})
	if r.Evaluations != 1 {
		t.Errorf("got %d evaluations, want 1", r.Evaluations)
	}
	if r.Flake.Revision == "" || r.Flake.Dirty {
		t.Errorf("got revision %q, dirty %t of a clean tree", r.Flake.Revision, r.Flake.Dirty)
	}

	names := func(o Output) string {
		var out []string
		for _, p := range o.Paths() {
			out = append(out, p[len(e.Store)+1+33:])
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	for attr, want := range map[string]string{
		"packages.x86_64-linux.two":      "two two-dev",
		"apps.x86_64-linux.run":          "two-dev",
		"apps.x86_64-linux.script":       "script.sh",
		"devShells.x86_64-linux.default": "a shell two-dev",
		"devShells.x86_64-linux.nixpkgs": "inputs sh",
		"devShell.x86_64-linux":          "a oldshell",
		"defaultApp.x86_64-linux":        "tool",
	} {
		i := slices.IndexFunc(r.Outputs, func(o Output) bool { return o.Attr.String() == attr })
		if i < 0 {
			t.Fatalf("%s is not there", attr)
		}
		if got := names(r.Outputs[i]); got != want {
			t.Errorf("paths of %s: got %q, want %q", attr, got, want)
		}
	}

	byDefault := discoverIn(t, e, dir, nil)
	equal(t, "not looked at by default", slices.DeleteFunc(skipped(byDefault), func(s string) bool { return !strings.HasSuffix(s, string(NotLookedAt)) }),
		[]string{"bundlers: not looked at", "hydraJobs: not looked at", "overlays: not looked at"})

	built, err := Build(t.Context(), newClient(t, e), at(r.Outputs), BuildOptions{MaxJobs: 2})
	if err != nil {
		t.Fatalf("Build: %v", err)
	}
	for _, b := range built {
		if len(b.Missing) > 0 || len(b.Valid) != len(b.Paths()) {
			t.Errorf("%s: got %q missing of %q", b.Attr, b.Missing, b.Paths())
		}
	}
}

// A reference with an attribute is what "nix build" takes it for.
func TestOneAttribute(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		e := v.New(t)
		dir := filepath.Join(e.Dir, "flake")
		nixtest.Write(t, dir, "flake.nix", flake(`
		packages.x86_64-linux = { a = good "a"; "d.ot" = good "dot"; other = abort "evaluated"; };
		packages.aarch64-linux.a = make "a" { system = "aarch64-linux"; };
		legacyPackages.x86_64-linux = { a = good "legacy"; b = good "b"; set.inner = good "inner"; };
		checks.x86_64-linux = { a = good "check"; c = good "c"; };
		a = good "other";
		nixosConfigurations.host.config.system.build.toplevel = good "nixos";
		lib.x = good "x";
		`))
		for ref, want := range map[string]string{
			"#a": "packages.x86_64-linux.a", `#"d.ot"`: `packages.x86_64-linux."d.ot"`, "#b": "legacyPackages.x86_64-linux.b",
			"#set.inner": "legacyPackages.x86_64-linux.set.inner", "#checks.x86_64-linux.c": "checks.x86_64-linux.c",
			"#checks": "checks.x86_64-linux.a checks.x86_64-linux.c", "#nixosConfigurations.host": "nixosConfigurations.host.config.system.build.toplevel",
		} {
			r := discoverIn(t, e, dir+ref, nil)
			equal(t, ref, attrs(r.Outputs), strings.Fields(want))
			if _, attr, _ := strings.Cut(ref, "#"); len(r.Outputs) == 1 && r.Outputs[0].Kind != NixOS {
				if drv := e.Nix(t, dir, "eval", "--raw", ".#"+attr+".drvPath"); r.Outputs[0].DrvPath != drv {
					t.Errorf("%s: got %s, want %s, as nix build does", ref, r.Outputs[0].DrvPath, drv)
				}
			}
		}
		both := discoverIn(t, e, dir+"#a", func(o *Options) { o.Systems = []string{"x86_64-linux", "aarch64-linux"} })
		equal(t, "of two systems", attrs(both.Outputs), []string{"packages.x86_64-linux.a", "packages.aarch64-linux.a"})
		for ref, want := range map[string]string{"#none": "no attribute none", "#lib.x": "of no kind"} {
			if _, err := discoverWith(t.Context(), newClient(t, e), Options{Flake: dir + ref, Systems: []string{"x86_64-linux"}}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q in it", ref, err, want)
			}
		}
	})
}

// Every kind of evaluation error that tryEval catches and that it does not.
func TestBrokenAttributes(t *testing.T) {
	e := nixtest.New(t)
	dir := filepath.Join(e.Dir, "flake")
	broken := []struct{ name, expr, message string }{
		{"throw", `throw "thrown by hand"`, "thrown by hand"},
		{"throwInside", `make "x" { a = throw "thrown inside"; }`, "thrown inside"},
		{"failingAssert", `assert false; good "x"`, "assertion"},
		{"nixpkgs", `<nixpkgs>`, "nixpkgs"},
		{"abort", `abort "aborted by hand"`, "aborted by hand"},
		{"missingAttribute", `{ }.nope`, "nope"},
		{"wrongType", `1 + "x"`, "integer"},
		{"missingArgument", `({ arg }: good "x") { }`, "arg"},
		{"missingFile", `import ./does-not-exist.nix`, "does-not-exist.nix"},
		{"forbiddenFile", `good (builtins.readFile "/proc/self/environ")`, "/proc"},
		{"infiniteRecursion", `let x = x; in x`, "infinite recursion"},
		{"stackOverflow", `let f = x: 1 + f (x + 1); in good (toString (f 0))`, "overflow"},
		{"fromJSON", `builtins.fromJSON "{"`, "parse"},
		{"fetch", `builtins.fetchTarball { url = "http://127.0.0.1:1/x.tar.gz"; sha256 = "0000000000000000000000000000000000000000000000000000"; }`, "127.0.0.1:1"},
		{"importFromDerivation", `import (make "ifd" { args = [ "-c" "exit 3" ]; })`, "ifd"},
		{"invalidName", `make "in valid" { }`, "in valid"},
		{"noSystem", `derivation { name = "x"; builder = "/bin/sh"; }`, "system"},
		{"undefinedVariable", `import ./undefined.nix`, "nosuchvariable"},
	}
	var b strings.Builder
	want := []string{}
	for i, c := range broken {
		b.WriteString(c.name + " = " + c.expr + ";\n")
		name := string(rune('a'+i)) + "Good"
		b.WriteString(name + ` = good "` + name + `";` + "\n")
		want = append(want, "packages.x86_64-linux."+name)
	}
	nixtest.Write(t, dir, "undefined.nix", "nosuchvariable\n", "flake.nix", flake(`
		packages.x86_64-linux = {`+b.String()+`
			badMeta = good "badMeta" // { meta = abort "meta"; };
			throwMeta = good "throwMeta" // { meta = throw "meta"; };
			number = 42; function = x: x;
			brokenFlag = make "broken" { a = throw "refused"; } // { meta.broken = true; };
			unfree = good "unfree" // { meta.license.free = false; };
			unfreeRefused = make "unfree" { a = throw "refused"; } // { meta.unfree = true; };
			fake = { type = "derivation"; name = "fake"; system = "x86_64-linux"; drvPath = "/etc/passwd"; outPath = "/etc"; };
		};
		checks = abort "no checks at all";
		apps.x86_64-linux = throw "no apps";
		legacyPackages.x86_64-linux = { ok = good "ok"; sub = { recurseForDerivations = true; bad = abort "deep"; fine = good "fine"; }; };
		nixosConfigurations = { bad.config = { }; thrown = throw "no host"; good.config.system.build.toplevel = good "nixos"; };
		devShells.x86_64-linux.default = good "shell" // { inputDerivation = abort "inputs"; };
	`))
	e.Git(t, dir)
	r := discoverIn(t, e, dir, nil)
	equal(t, "outputs", attrs(r.Outputs), append(want,
		"packages.x86_64-linux.badMeta", "packages.x86_64-linux.throwMeta", "packages.x86_64-linux.unfree",
		"legacyPackages.x86_64-linux.ok", "legacyPackages.x86_64-linux.sub.fine",
		"nixosConfigurations.good.config.system.build.toplevel", "devShells.x86_64-linux.default"))
	t.Logf("%d evaluations", r.Evaluations)

	wantSkipped := []string{
		"packages.x86_64-linux.number: not a derivation", "packages.x86_64-linux.function: not a derivation",
		"packages.x86_64-linux.fake: not a derivation",
		"packages.x86_64-linux.brokenFlag: broken", "packages.x86_64-linux.unfreeRefused: unfree",
		"checks: evaluation error", "apps.x86_64-linux: evaluation error", "legacyPackages.x86_64-linux.sub.bad: evaluation error",
		"nixosConfigurations.bad: evaluation error", "nixosConfigurations.thrown.config.system.build.toplevel: evaluation error",
	}
	for _, c := range broken {
		wantSkipped = append(wantSkipped, "packages.x86_64-linux."+c.name+": evaluation error")
		i := slices.IndexFunc(r.Skipped, func(s Skipped) bool { return s.Attr[len(s.Attr)-1] == c.name })
		if i < 0 {
			continue // reported below
		}
		if got := r.Skipped[i].Message; !strings.Contains(got, c.message) {
			t.Errorf("message of %s: got %q, want %q in it", c.name, got, c.message)
		}
	}
	equal(t, "skipped", skipped(r), wantSkipped)
	for _, s := range r.Skipped {
		if s.Reason.Failure() && s.Message == "" {
			t.Errorf("%s has no message", s.Attr)
		}
	}

	denied := discoverIn(t, e, dir, func(o *Options) { o.DenyUnfree = true; o.Include = []string{"unfree"} })
	if got := attrs(denied.Outputs); len(got) != 0 {
		t.Errorf("with DenyUnfree: got %q", got)
	}
	if !slices.Contains(skipped(denied), "packages.x86_64-linux.unfree: unfree") {
		t.Errorf("with DenyUnfree: got skipped %q", skipped(denied))
	}
}

// An attribute that ends the evaluation costs two processes, wherever it is and
// however many there are: one goes on behind it, the other examines it.
func TestAttributesThatEndTheEvaluation(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		e := v.New(t)
		dir := filepath.Join(e.Dir, "flake")
		nixtest.Write(t, dir, "flake.nix", flake(`
			packages.x86_64-linux = builtins.listToAttrs (builtins.genList (i: {
				name = "p${toString i}"; value =
					if i == 0 || i == 617 then abort "number ${toString i}" else if i == 999 then let x = x; in x else good "p${toString i}";
			}) 1000);
			nixosConfigurations = { a.config.system.build.toplevel = good "a"; b = abort "b"; c.config.system.build.toplevel = good "c"; };
			homeConfigurations = abort "none";
		`))
		for _, jobs := range []int{1, 2, 4} {
			r := discoverIn(t, e, dir, func(o *Options) { o.Jobs = jobs })
			if len(r.Outputs) != 999 {
				t.Errorf("%d jobs: got %d outputs, want 999", jobs, len(r.Outputs))
			}
			equal(t, "skipped", skipped(r), []string{
				"packages.x86_64-linux.p0: evaluation error", "packages.x86_64-linux.p617: evaluation error", "packages.x86_64-linux.p999: evaluation error",
				"nixosConfigurations.b: evaluation error", "homeConfigurations: evaluation error",
			})
			for _, s := range r.Skipped {
				if want := map[string]string{"p0": "number 0", "p617": "number 617", "p999": "infinite recursion", "b": "'b'", "homeConfigurations": "none"}[s.Attr[len(s.Attr)-1]]; !strings.Contains(s.Message, want) {
					t.Errorf("%s: got message %q, want %q in it", s.Attr, s.Message, want)
				}
			}
			if most := 1 + 2*5 + 2*(jobs-1); r.Evaluations > most {
				t.Errorf("%d jobs: got %d evaluations, want at most %d", jobs, r.Evaluations, most)
			}
		}
		r := discoverIn(t, e, dir, func(o *Options) { o.Jobs, o.MaxEvaluations = 1, 3 })
		left := slices.IndexFunc(r.Skipped, func(s Skipped) bool { return s.Reason == NotEvaluated })
		if left < 0 || len(r.Outputs) == 0 {
			t.Errorf("with 3 evaluations: got %d outputs and skipped %v, want some outputs, and the rest not evaluated", len(r.Outputs), r.Skipped)
		}
	})
}

// What takes more memory than there is for evaluation is ended, and the others
// are evaluated.
func TestMemory(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		e := v.New(t)
		dir := filepath.Join(e.Dir, "flake")
		nixtest.Write(t, dir, "flake.nix", flake(`
			packages.x86_64-linux = { a = good "a"; big = good (toString (builtins.length (builtins.foldl' (a: b: [ a b (toString b) ]) [ ] (builtins.genList (i: i) 30000000)))); c = good "c"; };
		`))
		r := discoverIn(t, e, dir, func(o *Options) { o.Memory = 300 << 20 })
		equal(t, "outputs", attrs(r.Outputs), []string{"packages.x86_64-linux.a", "packages.x86_64-linux.c"})
		equal(t, "skipped", skipped(r), []string{"packages.x86_64-linux.big: evaluation error"})
		if len(r.Skipped) == 1 && !strings.Contains(r.Skipped[0].Message, "300 MiB") {
			t.Errorf("got message %q", r.Skipped[0].Message)
		}
	})
}

// What a flake prints is not taken for what the evaluation says.
func TestFlakeThatPrints(t *testing.T) {
	t.Parallel()
	e := nixtest.New(t)
	dir := filepath.Join(e.Dir, "flake")
	nixtest.Write(t, dir, "flake.nix", flake(`
		packages.x86_64-linux = {
			a = builtins.trace ''{"of":["packages","x86_64-linux","b"],"records":[]}'' (builtins.trace ''nixoci- {"at":["packages","x86_64-linux","b"]}'' (good "a"));
			b = good "b";
		};
	`))
	equal(t, "outputs", attrs(discoverIn(t, e, dir, nil).Outputs), []string{"packages.x86_64-linux.a", "packages.x86_64-linux.b"})
}

func TestAttributeNames(t *testing.T) {
	e := nixtest.New(t)
	dir := filepath.Join(e.Dir, "flake")
	nixtest.Write(t, dir, "flake.nix", flake(`
		packages.x86_64-linux = {
			"a.b" = good "dot"; a.b = 1; "with space" = good "space"; "quo\"te" = good "quote"; "dollar\${x}" = good "dollar";
			"back\\slash" = good "back"; "ünïcode→" = good "unicode"; "new\nline" = good "newline"; "" = good "empty"; "if" = good "keyword";
			"-dash" = good "dash"; "bad.one" = abort "bad.one"; "bad two" = throw "bad two";
		};
	`))
	r := discoverIn(t, e, dir, nil)
	equal(t, "outputs", attrs(r.Outputs), []string{
		`packages.x86_64-linux."a.b"`, `packages.x86_64-linux."with space"`, `packages.x86_64-linux."quo\"te"`,
		`packages.x86_64-linux."dollar\${x}"`, `packages.x86_64-linux."back\\slash"`, `packages.x86_64-linux."ünïcode→"`,
		`packages.x86_64-linux."new\nline"`, `packages.x86_64-linux.""`, `packages.x86_64-linux."if"`, `packages.x86_64-linux."-dash"`,
	})
	equal(t, "skipped", skipped(r), []string{
		`packages.x86_64-linux.a: not a derivation`, `packages.x86_64-linux."bad.one": evaluation error`, `packages.x86_64-linux."bad two": evaluation error`,
	})
}

func TestPatterns(t *testing.T) {
	e := nixtest.New(t)
	dir := filepath.Join(e.Dir, "flake")
	nixtest.Write(t, dir, "flake.nix", flake(`
		packages.x86_64-linux = { hello = good "hello"; "hello.big" = good "big"; other = good "other"; };
		checks.x86_64-linux = { hello = good "check"; explosive = abort "evaluated"; };
		legacyPackages.x86_64-linux = { hello = good "l"; set = { recurseForDerivations = true; a = good "a"; b = good "b"; }; };
		nixosConfigurations.hello.config.system.build.toplevel = good "nixos";
	`))
	for _, c := range []struct {
		include, exclude []string
		want             []string
	}{
		{nil, []string{"checks.*.explosive", "legacyPackages", "nixosConfigurations.h*"},
			[]string{"packages.x86_64-linux.hello", `packages.x86_64-linux."hello.big"`, "packages.x86_64-linux.other", "checks.x86_64-linux.hello"}},
		{[]string{"hello"}, nil,
			[]string{"packages.x86_64-linux.hello", "checks.x86_64-linux.hello", "legacyPackages.x86_64-linux.hello", "nixosConfigurations.hello.config.system.build.toplevel"}},
		{[]string{"packages.hello*", "legacyPackages.x86_64-linux.set.[!b]"}, []string{`"*.big"`},
			[]string{"packages.x86_64-linux.hello", "legacyPackages.x86_64-linux.set.a"}},
		{[]string{"packages"}, []string{"hello?big", "o*r"}, []string{"packages.x86_64-linux.hello"}},
		{[]string{"legacyPackages.set"}, nil, []string{"legacyPackages.x86_64-linux.set.a", "legacyPackages.x86_64-linux.set.b"}},
	} {
		r := discoverIn(t, e, dir, func(o *Options) { o.Include, o.Exclude, o.Jobs = c.include, c.exclude, 1 })
		equal(t, strings.Join(c.include, " ")+" without "+strings.Join(c.exclude, " "), attrs(r.Outputs), c.want)
		if r.Evaluations != 1 {
			t.Errorf("got %d evaluations, want 1: what is excluded must not be evaluated", r.Evaluations)
		}
	}
	for _, bad := range []string{"a..b", `"open`, "[", "[]", "[z-a]", ""} {
		_, err := discoverWith(t.Context(), newClient(t, e), Options{Flake: dir, Include: []string{bad}})
		if err == nil || !strings.Contains(err.Error(), "pattern") {
			t.Errorf("pattern %q: got %v, want an error", bad, err)
		}
	}
}

// The pattern of each output finds that one alone.
func TestPatternOfOutput(t *testing.T) {
	e := nixtest.New(t)
	dir := filepath.Join(e.Dir, "flake")
	nixtest.Write(t, dir, "flake.nix", flake(`
		packages.x86_64-linux = {
			"a.b" = good "dot"; "with space" = good "space"; "quo\"te" = good "quote"; "dollar\${x}" = good "dollar"; " " = good "blank";
			"back\\slash" = good "back"; "ünïcode→" = good "unicode"; "new\nline" = good "newline"; newnline = good "n"; "" = good "empty"; "if" = good "keyword";
			"-dash" = good "dash"; "*" = good "star"; "a*" = good "astar"; ab = good "ab"; "?" = good "what"; "[ab]" = good "set"; "[" = good "open"; "]" = good "close"; a = good "a"; "\\n" = good "bn";
			"(a|b)+^$" = good "re";
		};
		legacyPackages.x86_64-linux.set = { recurseForDerivations = true; a = good "a"; "a.b" = good "b"; };
		formatter.x86_64-linux = good "fmt";
		nixosConfigurations = { "a.b".config.system.build.toplevel = good "nixos"; a.config.system.build.toplevel = good "nixos2"; };
		homeConfigurations."me@here".activationPackage = good "home";
	`))
	all := discoverIn(t, e, dir, nil)
	if len(all.Outputs) != 28 {
		t.Fatalf("got %d outputs: %v", len(all.Outputs), attrs(all.Outputs))
	}
	for _, o := range all.Outputs {
		r := discoverIn(t, e, dir, func(opts *Options) { opts.Include = []string{o.Pattern()} })
		if got := attrs(r.Outputs); len(got) != 1 || got[0] != o.Attr.String() {
			t.Errorf("the pattern %s of %s finds %v", o.Pattern(), o.Attr, got)
		}
	}
}

// The derivations must be those of "nix build", however the flake is stored.
func TestSameDerivationsAsNixBuild(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		e := v.New(t)
		source := flake(`
		packages.x86_64-linux.a = make "a" {
			src = self; source = builtins.toJSON self.sourceInfo; attributes = builtins.attrNames self; inherit (self) outPath;
			modified = toString (self.lastModified or 0); files = builtins.attrNames (builtins.readDir self);
			system2 = builtins.currentSystem or "pure"; home = builtins.getEnv "HOME";
		};
	`)
		library := filepath.Join(e.Dir, "library")
		nixtest.Write(t, library, "library", "x")
		e.Git(t, library)
		var dirs []string
		make := func(name string, git bool, files ...string) string {
			dir := filepath.Join(e.Dir, name)
			dirs = append(dirs, dir)
			nixtest.Write(t, dir, append(files, "flake.nix", source)...)
			if git {
				e.Git(t, dir)
			}
			return dir
		}
		clean := make("clean", true, "sub/flake.nix", source, "sub/x", "x")
		dirty := make("dirty", true, "ignored/node_modules/x", "x", ".gitignore", "ignored\n", "sub/flake.nix", source)
		nixtest.Write(t, dirty, "flake.nix", source+"# changed\n")
		dirs = append(dirs, clean+"/sub", dirty+"/sub")
		make("plain", false)
		for _, name := range []string{"user@host", "c++", "a:b", "it's", "100%", "sp ace", "Grüße"} {
			make("plain/"+name, false)
			make("git/"+name, true)
		}
		modules := make("modules", true)
		e.Run(t, modules, "git", "-c", "protocol.file.allow=always", "submodule", "-q", "add", library, "library")
		e.Git(t, modules)
		shallow := filepath.Join(e.Dir, "shallow")
		e.Run(t, e.Dir, "git", "clone", "-q", "--depth", "1", "file://"+clean, shallow)
		e.Run(t, shallow, "git", "checkout", "-q", "--detach")

		archive := filepath.Join(e.Dir, "flake.tar.gz")
		e.Run(t, e.Dir, "git", "-C", clean, "archive", "--prefix=flake/", "-o", archive, "HEAD")
		urls := []string{"file://" + archive, "path:" + filepath.Join(e.Dir, "plain"), "git+file://" + clean, "git+file://" + clean + "?dir=sub"}

		same := 0
		for _, dir := range slices.Concat(dirs, []string{shallow}, urls) {
			in, ref := dir, "."
			if strings.Contains(dir, ":/") {
				in, ref = e.Dir, dir
			}
			drv, err := e.Try(in, "nix", "eval", "--raw", ref+"#a.drvPath", "--extra-experimental-features", "nix-command flakes")
			if err != nil {
				t.Logf("%s: nix cannot either: %v", dir, err)
				continue
			}
			same++
			r := discoverIn(t, e, dir, nil)
			if len(r.Outputs) != 1 {
				t.Fatalf("%s: got %q, skipped %v", dir, attrs(r.Outputs), r.Skipped)
			}
			if got := r.Outputs[0].DrvPath; got != drv {
				t.Errorf("%s: got %s, want %s, as nix build does (%s)", dir, got, drv, r.Flake.URL)
			}
			if got, want := r.Flake.Dirty, strings.HasPrefix(dir, dirty); got != want {
				t.Errorf("%s: got dirty %t, want %t", dir, got, want)
			}
		}
		if same < 20 { // 2.8 cannot read some names
			t.Errorf("only %d could be compared", same)
		}
		entries, err := os.ReadDir(e.Store)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			for _, name := range []string{".git", "ignored"} {
				if _, err := os.Lstat(filepath.Join(e.Store, entry.Name(), name)); err == nil {
					t.Errorf("the store has %s of a work tree, in %s", name, entry.Name())
				}
			}
		}
	})
}

// A flake that needs the environment or its folder, as those of devenv do, is
// evaluated as by "nix build --impure".
func TestImpure(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		e := v.New(t)
		dir := filepath.Join(e.Dir, "flake")
		nixtest.Write(t, dir, "flake.nix", flake(`
		packages.x86_64-linux.a = let root = builtins.getEnv "PWD"; in
			assert root != ""; make "a" { inherit root; file = builtins.readFile (root + "/untracked"); };
		`))
		e.Git(t, dir)
		nixtest.Write(t, dir, "untracked", "x")
		if r := discoverIn(t, e, dir, nil); len(r.Outputs) != 0 {
			t.Errorf("pure: got %q", attrs(r.Outputs))
		}
		client := nix.New(nix.Options{Env: e.Vars, Args: []string{"--option", "pure-eval", "false"}, Stderr: nixtest.Log(t)})
		r, err := discoverWith(t.Context(), client, Options{Flake: dir, Systems: []string{"x86_64-linux"}})
		if err != nil || len(r.Outputs) != 1 {
			t.Fatalf("got %q, %v, %v", attrs(r.Outputs), r.Skipped, err)
		}
		if drv := e.Nix(t, dir, "eval", "--impure", "--raw", ".#a.drvPath"); r.Outputs[0].DrvPath != drv {
			t.Errorf("got %s, want %s, as nix build --impure does", r.Outputs[0].DrvPath, drv)
		}
		if _, err := Build(t.Context(), client, at(r.Outputs), BuildOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// Inputs are those of the lock file, and where it lacks them they are locked for
// this evaluation. Nothing is written, which "nix build" would do.
func TestInputsWithAndWithoutLockFile(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		e := v.New(t)
		dep := filepath.Join(e.Dir, "dep")
		nixtest.Write(t, dep, "data", "x", "sub/flake.nix", flake(`packages.x86_64-linux.d = make "d" { src = self; inherit (self) outPath; };`))
		e.Git(t, dep)
		follower := filepath.Join(e.Dir, "follower")
		nixtest.Write(t, follower, "flake.nix", `{ inputs.dep.url = "git+file:///nowhere"; outputs = { self, dep }: { inherit (dep) packages; }; }`)
		e.Git(t, follower)
		dir := filepath.Join(e.Dir, "flake")
		nixtest.Write(t, dir, "flake.nix", `{ inputs.dep.url = "git+file://`+dep+`?dir=sub";
			inputs.data = { url = "git+file://`+dep+`"; flake = false; };
			inputs.follower = { url = "git+file://`+follower+`"; inputs.dep.follows = "dep"; };
			outputs = { self, dep, data, follower }: {
				packages.x86_64-linux = { inherit (dep.packages.x86_64-linux) d; same = follower.packages.x86_64-linux.d; bad = abort "bad"; };
				apps.x86_64-linux.data = { type = "app"; program = "${data}/data"; };
			}; }`)
		e.Git(t, dir)
		lock := filepath.Join(dir, "flake.lock")
		for _, locked := range []bool{false, true} {
			if locked {
				e.Nix(t, dir, "flake", "lock")
				e.Git(t, dir)
			}
			r := discoverIn(t, e, dir, nil)
			equal(t, "outputs", attrs(r.Outputs), []string{"packages.x86_64-linux.d", "packages.x86_64-linux.same", "apps.x86_64-linux.data"})
			equal(t, "skipped", skipped(r), []string{"packages.x86_64-linux.bad: evaluation error"})
			if _, err := os.Stat(lock); (err == nil) != locked {
				t.Errorf("with lock file: %t: got %v", locked, err)
			}
			if locked {
				d := slices.IndexFunc(r.Outputs, func(o Output) bool { return o.Attr.String() == "packages.x86_64-linux.same" })
				if got, want := r.Outputs[d].DrvPath, e.Nix(t, dir, "eval", "--raw", ".#d.drvPath"); got != want {
					t.Errorf("got %s, want %s, as nix build does", got, want)
				}
			}
		}
	})
}

func TestHints(t *testing.T) {
	e := nixtest.New(t)
	untracked := filepath.Join(e.Dir, "untracked")
	nixtest.Write(t, untracked, "README", "x")
	e.Git(t, untracked)
	nixtest.Write(t, untracked, "flake.nix", flake(""))
	empty := filepath.Join(e.Dir, "empty")
	nixtest.Write(t, empty, "x", "x")

	for _, c := range []struct{ ref, err, hint string }{
		{untracked, "looking up the flake", "git -C " + untracked + " add flake.nix"},
		{empty, "no flake.nix", ""},
		{"path:" + untracked, ".git", "--flake " + untracked},
		{untracked + "#x^dev", "chooses outputs", "all outputs"},
		{untracked + "#x..y", "empty name", ""},
		{filepath.Join(untracked, "flake.nix"), "not a folder", "the folder"},
		{"", "empty", ""},
	} {
		_, err := discoverWith(t.Context(), newClient(t, e), Options{Flake: c.ref})
		if err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: got error %v, want %q in it", c.ref, err, c.err)
		}
		if got := hint.Of(err); !strings.Contains(got, c.hint) || (got == "") != (c.hint == "") {
			t.Errorf("%q: got hint %q, want %q in it", c.ref, got, c.hint)
		}
	}
}

// A flake that cannot be evaluated at all is an error, with Nix's message.
func TestBrokenFlake(t *testing.T) {
	e := nixtest.New(t)
	for name, source := range map[string]string{
		"syntax":  "{ outputs = ",
		"abort":   `{ outputs = { self }: abort "no outputs"; }`,
		"not set": `{ outputs = { self }: 42; }`,
	} {
		dir := filepath.Join(e.Dir, strings.ReplaceAll(name, " ", ""))
		nixtest.Write(t, dir, "flake.nix", source)
		r, err := discoverWith(t.Context(), newClient(t, e), Options{Flake: dir})
		var failed *nix.CommandError
		if !errors.As(err, &failed) || failed.Message == "" {
			t.Errorf("%s: got %v, %v, want Nix's error", name, r, err)
		}
	}
}
