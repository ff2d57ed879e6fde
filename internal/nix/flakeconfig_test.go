package nix

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/nix/nixtest"
)

func TestParseSettings(t *testing.T) {
	got, err := parseSettings([]byte(`{"z":"text","cores":3,"sandbox":false,"extra-substituters":["http://a","http://b"],"bash-prompt":"x","empty":[]}`))
	want := []Setting{{"cores", "3"}, {"empty", ""}, {"extra-substituters", "http://a http://b"}, {"sandbox", "false"}, {"z", "text"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, bad := range []string{`[]`, `{"a":null}`, `{"a":{}}`, `{"a":[1]}`, `{"":"x"}`, `{"a=b":"x"}`, `{"a":"\u0000"}`, ``} {
		if got, err := parseSettings([]byte(bad)); err == nil {
			t.Errorf("%s: got %q", bad, got)
		}
	}
}

// What a flake asks for is read from its folder, its copy in the store, or
// fetched; purely, and with nothing built.
func TestFlakeSettings(t *testing.T) {
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		e := v.New(t)
		dir := filepath.Join(e.Dir, "flake")
		write := func(config string) {
			nixtest.Write(t, dir, "sub/flake.nix", "{ "+config+" outputs = { self }: abort \"evaluated\"; } # the end")
			e.Git(t, dir)
		}
		write(`nixConfig = { extra-substituters = [ "http://127.0.0.1:1" ]; cores = 3; };`)
		c := New(Options{Env: e.Vars, Stderr: nixtest.Log(t)})
		flake, err := c.FlakeMetadata(t.Context(), "git+file://"+dir+"?dir=sub", "")
		if err != nil {
			t.Fatal(err)
		}
		want := []Setting{{"cores", "3"}, {"extra-substituters", "http://127.0.0.1:1"}}
		away := flake
		away.StorePath = "/nowhere"
		for name, read := range map[string]func() ([]Setting, error){
			"folder":  func() ([]Setting, error) { return c.FlakeSettings(t.Context(), flake, filepath.Join(dir, "sub")) },
			"store":   func() ([]Setting, error) { return c.FlakeSettings(t.Context(), flake, "") },
			"fetched": func() ([]Setting, error) { return c.FlakeSettings(t.Context(), away, "") },
		} {
			if got, err := read(); err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
			}
		}
		for config, message := range map[string]string{
			`nixConfig.a = builtins.readFile "/etc/passwd";`: "/etc",
			`nixConfig.a = import (derivation { name = "x"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo 1 > $out" ]; });`: "is not valid",
			`nixConfig.a = "` + strings.Repeat("x", maxFlakeFile) + `";`:                                                                        "over",
			`nixConfig.a = x: x;`: "function",
		} {
			write(config)
			if got, err := c.FlakeSettings(t.Context(), flake, filepath.Join(dir, "sub")); err == nil || !strings.Contains(err.Error(), message) {
				t.Errorf("%.60s: got %q, %v, want %q in it", config, got, err, message)
			}
		}
		write("")
		if got, err := c.FlakeSettings(t.Context(), flake, filepath.Join(dir, "sub")); err != nil || len(got) > 0 {
			t.Errorf("without one: got %q, %v", got, err)
		}
	})
}

// Nix's own configuration, and what the user has once answered, say what is
// accepted.
func TestAccept(t *testing.T) {
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		e := v.New(t)
		settings := []Setting{{"cores", "1"}, {"cores", "2"}, {"sandbox", "false"}}
		check := func(want int) {
			t.Helper()
			accepted, refused, err := New(Options{Env: e.Vars}).Accept(t.Context(), settings)
			if err != nil || !slices.Equal(accepted, settings[:want]) || !slices.Equal(refused, settings[want:]) {
				t.Errorf("got %q accepted, %q refused, %v, want %d accepted", accepted, refused, err, want)
			}
		}
		check(0)
		nixtest.Write(t, filepath.Join(e.Dir, "home", ".local", "share", "nix"), "trusted-settings.json", `{"cores":{"1":true,"2":false},"sandbox":{"true":true}}`)
		check(1)
		nixtest.Write(t, filepath.Join(e.Dir, "etc"), "nix.conf", "experimental-features = nix-command flakes\naccept-flake-config = true\n")
		check(3)
	})
}

// Settings go on every command line.
func TestWith(t *testing.T) {
	e := nixtest.New(t)
	c := New(Options{Env: e.Vars}).With([]Setting{{"cores", "7"}, {"extra-substituters", "http://a http://b"}})
	raw, err := c.json(t.Context(), command{program: "nix", args: []string{"show-config", "--json"}})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Cores        struct{ Value int }
		Substituters struct{ Value []string }
	}
	if err := json.Unmarshal(raw, &got); err != nil || got.Cores.Value != 7 || !slices.Contains(got.Substituters.Value, "http://b") {
		t.Errorf("got %+v, %v", got, err)
	}
}
