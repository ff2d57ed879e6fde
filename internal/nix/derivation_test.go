package nix

import (
	"encoding/json"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/storepath"
)

// The outputs of derivations are the same whether their files can be read or Nix
// is asked, which is one command then.
func TestOutputs(t *testing.T) {
	t.Parallel()
	const expr = `let make = attrs: derivation ({ name = "a"; system = "x86_64-linux"; builder = "/bin/sh"; } // attrs); in
		map (d: { drv = d.drvPath; outputs = builtins.listToAttrs (map (o: { name = o; value = d.${o}.outPath; }) d.outputs); }) ([
			(make { outputs = [ "out" "dev" "lib-x" ]; }) (make { outputs = [ "dev" ]; }) (make { name = "a-dev"; outputs = [ "out" ]; })
			(make { outputs = [ "out" ]; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "x"; })
			(make { outputs = [ "out" ]; args = [ (builtins.concatStringsSep "" (builtins.genList (i: "long arguments ") 10000)) ]; })
		] ++ builtins.genList (i: make { outputs = [ "out" "doc" ]; n = i; }) 50)`
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		for place, args := range map[string][]string{"here": nil, "elsewhere": {"--store"}} {
			e := v.New(t)
			if args != nil {
				args = append(args, filepath.Join(e.Dir, "chroot"))
			}
			var log strings.Builder
			c := New(Options{Env: e.Vars, Args: args, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
			raw, err := c.Eval(t.Context(), expr, EvalOptions{Impure: true})
			if err != nil {
				t.Fatal(err)
			}
			var all []struct {
				Drv     string
				Outputs map[string]string
			}
			if err := json.Unmarshal(raw, &all); err != nil {
				t.Fatal(err)
			}
			want := map[string]map[string]string{}
			var drvs []string
			for _, d := range all {
				want[d.Drv] = d.Outputs
				drvs = append(drvs, d.Drv)
			}
			log.Reset()
			got, err := c.Outputs(t.Context(), drvs)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: got %v, %v, want %v", place, got, err, want)
			}
			if ran := strings.Count(log.String(), "ran"); ran > 1 || (ran == 1) != (args != nil) {
				t.Errorf("%s: got %d commands:\n%s", place, ran, log.String())
			}
		}
	})
}

// A path that depends on what is built is in no derivation's file.
func TestOutputsThatFloat(t *testing.T) {
	t.Parallel()
	e := nixtest.New(t)
	c := New(Options{Env: e.Vars, Args: []string{"--extra-experimental-features", "ca-derivations"}})
	raw, err := c.Eval(t.Context(), `(derivation { name = "a"; system = "x86_64-linux"; builder = "/bin/sh"; outputs = [ "out" "dev" ];
		__contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; }).drvPath`, EvalOptions{Impure: true})
	if err != nil {
		t.Fatal(err)
	}
	drv := strings.Trim(strings.TrimSpace(string(raw)), `"`)
	got, err := c.Outputs(t.Context(), []string{drv})
	if want := map[string]map[string]string{drv: {"out": "", "dev": ""}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestParseOutputs(t *testing.T) {
	t.Parallel()
	drv, err := storepath.Parse("/nix/store/00000000000000000000000000000000-a-1.0.drv")
	if err != nil {
		t.Fatal(err)
	}
	const one = "/nix/store/11111111111111111111111111111111-a-1.0"
	for text, want := range map[string]map[string]string{
		`Derive([("out","` + one + `","","")],[],`:                                    {"out": one},
		`Derive([("out","","r:sha256","")],[],`:                                       {"out": ""},
		`Derive([("dev","` + one + `-dev","",""),("out","` + one + `","","")],[("x",`: {"out": one, "dev": one + "-dev"},
		`Derive([],[],`:                                              nil,
		`Derive([("out","` + one + `","","")`:                        nil, // cut short
		`Derive([("out","` + one + `-x","","")],`:                    nil,
		`Derive([("out","/etc/a-1.0","","")],`:                       nil,
		`Derive([("o\"t","` + one + `","","")],`:                     nil,
		`DrvWithVersion("xp-dyn-drv",[("out","` + one + `","","")],`: nil,
		``: nil,
	} {
		if got, err := parseOutputs(drv, []byte(text)); !reflect.DeepEqual(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%s: got %v, %v, want %v", text, got, err, want)
		}
	}
}

func FuzzOutputs(f *testing.F) {
	drv, _ := storepath.Parse("/nix/store/00000000000000000000000000000000-a.drv")
	f.Add([]byte(`Derive([("dev","/nix/store/11111111111111111111111111111111-a-dev","",""),("out","","r:sha256","")],[],`))
	f.Fuzz(func(t *testing.T, text []byte) {
		outputs, err := parseOutputs(drv, text)
		if err == nil && len(outputs) == 0 {
			t.Error("got no outputs and no error")
		}
		for name, path := range outputs {
			if p, err := storepath.Parse(path); path != "" && (err != nil || p.Name != outputPathName(drv, name)) {
				t.Errorf("got output %q %q", name, path)
			}
		}
	})
}

// What Nix prints is matched to names.
func TestNameOutputs(t *testing.T) {
	t.Parallel()
	store := func(n string) string { return "/nix/store/11111111111111111111111111111111-" + n }
	paths := []string{store("a-1.0"), store("a-1.0-dev"), store("a-1.0-lib-x")}
	got, err := nameOutputs("/nix/store/00000000000000000000000000000000-a-1.0.drv", paths)
	if want := map[string]string{"out": paths[0], "dev": paths[1], "lib-x": paths[2]}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{store("b"), "/etc/a-1.0", "/other/11111111111111111111111111111111-a-1.0"} {
		if got, err := nameOutputs("/nix/store/00000000000000000000000000000000-a-1.0.drv", slices.Concat(paths, []string{bad})); err == nil {
			t.Errorf("%s: got %v, want an error", bad, got)
		}
	}
}
