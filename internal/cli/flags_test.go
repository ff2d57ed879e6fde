package cli

import (
	"bytes"
	"context"
	"reflect"
	"strings"
	"testing"
	"time"
)

type testConfig struct {
	Flake    string
	Cache    string
	Upstream []string
	Comp     string
	Jobs     int
	DryRun   bool
	Refresh  time.Duration
	Paths    []string
}

var testCommand = Command{
	Name:     "publish",
	Synopsis: "[flags] [STORE-PATH... | -]",
	About: "Builds the outputs of a flake and puts what upstream caches lack into a cache in an OCI registry, " +
		"from where Nix substitutes it.",
	Examples: `
		publish --flake ./config
		publish --cache localhost:5000/a/b ./result
	`,
	Environment: []Variable{{"NIX_SIGNING_KEY", "secret key to sign with"}},
	Partly:      "some outputs failed, the others are published",
}

func parseTest(args []string, getenv func(string) string) (testConfig, error) {
	var c testConfig
	f := testCommand.Flags(getenv)
	f.String(&c.Flake, "flake", ".", "the `FLAKE` to publish")
	f.Cache(&c.Cache)
	f.Strings(&c.Upstream, "upstream", []string{"https://cache.nixos.org"}, "an upstream cache's `URL`, or none")
	f.Choice(&c.Comp, "compression", []string{"zstd", "xz", "none"}, "`METHOD` zstd, xz or none")
	f.Int(&c.Jobs, "jobs", 4, "upload `N` paths at once")
	f.Bool(&c.DryRun, "dry-run", "print the plan only")
	f.Duration(&c.Refresh, "refresh-every", 5*time.Minute, "read the cache index anew after `DURATION`")
	var err error
	c.Paths, err = f.Parse(args)
	return c, err
}

func env(pairs ...string) func(string) string {
	m := map[string]string{"HOME": "/home/u", "XDG_DATA_HOME": "/data"}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(k string) string { return m[k] }
}

func TestParse(t *testing.T) {
	base := testConfig{
		Flake: ".", Cache: "oci:/data/nixoci/cache", Upstream: []string{"https://cache.nixos.org"}, Comp: "zstd", Jobs: 4,
		Refresh: 5 * time.Minute,
	}
	with := func(change func(*testConfig)) testConfig {
		c := base
		change(&c)
		return c
	}
	tests := map[string]struct {
		args []string
		env  []string
		want testConfig
	}{
		"defaults":                    {nil, nil, base},
		"flag":                        {[]string{"--flake", "./a"}, nil, with(func(c *testConfig) { c.Flake = "./a" })},
		"one dash and equals":         {[]string{"-flake=./a"}, nil, with(func(c *testConfig) { c.Flake = "./a" })},
		"environment":                 {nil, []string{"NIXOCI_FLAKE", "./e"}, with(func(c *testConfig) { c.Flake = "./e" })},
		"flag wins":                   {[]string{"--flake=./a"}, []string{"NIXOCI_FLAKE", "./e"}, with(func(c *testConfig) { c.Flake = "./a" })},
		"flag wins over nonsense":     {[]string{"--jobs=2"}, []string{"NIXOCI_JOBS", "x"}, with(func(c *testConfig) { c.Jobs = 2 })},
		"empty variable":              {nil, []string{"NIXOCI_JOBS", ""}, base},
		"false wins over environment": {[]string{"--dry-run=false"}, []string{"NIXOCI_DRY_RUN", "true"}, base},
		"bool":                        {[]string{"--dry-run"}, nil, with(func(c *testConfig) { c.DryRun = true })},
		"days":                        {[]string{"--refresh-every", "30d"}, nil, with(func(c *testConfig) { c.Refresh = 720 * time.Hour })},
		"choice":                      {nil, []string{"NIXOCI_COMPRESSION", "xz"}, with(func(c *testConfig) { c.Comp = "xz" })},
		"list replaces default":       {[]string{"--upstream", "a b", "--upstream", "c,d"}, nil, with(func(c *testConfig) { c.Upstream = []string{"a b", "c,d"} })},
		"list flag wins":              {[]string{"--upstream", "a"}, []string{"NIXOCI_UPSTREAM", "b c"}, with(func(c *testConfig) { c.Upstream = []string{"a"} })},
		"list by spaces":              {nil, []string{"NIXOCI_UPSTREAM", " a\tb {c,d} "}, with(func(c *testConfig) { c.Upstream = []string{"a", "b", "{c,d}"} })},
		"list by lines":               {nil, []string{"NIXOCI_UPSTREAM", "a b\r\n\n c\n"}, with(func(c *testConfig) { c.Upstream = []string{"a b", "c"} })},
		"arguments between flags": {[]string{"p", "--dry-run", "-", "--flake", "f", "--", "--q"}, nil,
			with(func(c *testConfig) { c.DryRun, c.Flake, c.Paths = true, "f", []string{"p", "-", "--q"} })},
		"cache":                {[]string{"--cache", "h/n"}, []string{"HOME", "", "XDG_DATA_HOME", ""}, with(func(c *testConfig) { c.Cache = "h/n" })},
		"cache in environment": {nil, []string{"NIXOCI_CACHE", "h/n", "HOME", "", "XDG_DATA_HOME", ""}, with(func(c *testConfig) { c.Cache = "h/n" })},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseTest(tt.args, env(tt.env...))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	tests := map[string]struct {
		args []string
		env  []string
		want string // what Report prints
	}{
		"unknown flag":  {[]string{"--flakes", "x"}, nil, "error: unknown flag --flakes\nhint: see nixoci help publish\n"},
		"missing value": {[]string{"--flake"}, nil, "error: a value is missing after --flake\nhint: see nixoci help publish\n"},
		"bad int":       {[]string{"--jobs", "x"}, nil, "error: invalid value \"x\" for --jobs: parse error\nhint: see nixoci help publish\n"},
		"bad choice":    {[]string{"--compression=gzip"}, nil, "error: invalid value \"gzip\" for --compression: must be one of zstd, xz, none\nhint: see nixoci help publish\n"},
		"empty in list": {[]string{"--upstream="}, nil, "error: invalid value \"\" for --upstream: empty\nhint: see nixoci help publish\n"},
		"all of the environment": {nil, []string{"NIXOCI_JOBS", "x", "NIXOCI_REFRESH_EVERY", "-1h"},
			"error: invalid value \"x\" for NIXOCI_JOBS: parse error\n" +
				"error: invalid value \"-1h\" for NIXOCI_REFRESH_EVERY: \"-1h\" is not a duration such as 30d, 5m or P30D\n" +
				"hint: see nixoci help publish\n"},
		"no default cache": {nil, []string{"HOME", "", "XDG_DATA_HOME", ""},
			"error: choosing a default cache: neither HOME nor XDG_DATA_HOME is set\nhint: name the cache with --cache or NIXOCI_CACHE\n"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := parseTest(tt.args, env(tt.env...))
			var stdout, stderr bytes.Buffer
			if got := Report(t.Context(), err, env(), &stdout, &stderr); got != ExitUsage {
				t.Errorf("got status %d, want %d", got, ExitUsage)
			}
			if stderr.String() != tt.want || stdout.Len() > 0 {
				t.Errorf("got %s%s\nwant %s", stdout.String(), stderr.String(), tt.want)
			}
		})
	}
}

const wantHelp = `Usage: nixoci publish [flags] [STORE-PATH... | -]

Builds the outputs of a flake and puts what upstream caches lack into a cache in
an OCI registry, from where Nix substitutes it.

Examples:
  publish --flake ./config
  publish --cache localhost:5000/a/b ./result

Flags (a flag wins over its environment variable, which wins over the default):
  --flake FLAKE
      the FLAKE to publish [NIXOCI_FLAKE] (default .)
  --cache CACHE
      CACHE: HOST/NAME in a registry, or oci:DIR for a directory in the OCI
      image layout [NIXOCI_CACHE] (default oci:/data/nixoci/cache)
  --upstream URL
      an upstream cache's URL, or none (repeatable) [NIXOCI_UPSTREAM] (default
      https://cache.nixos.org)
  --compression METHOD
      METHOD zstd, xz or none [NIXOCI_COMPRESSION] (default zstd)
  --jobs N
      upload N paths at once [NIXOCI_JOBS] (default 4)
  --dry-run
      print the plan only [NIXOCI_DRY_RUN]
  --refresh-every DURATION
      read the cache index anew after DURATION [NIXOCI_REFRESH_EVERY] (default
      5m)
  --version
      print the version
  --help
      print this text

Environment:
  NIX_SIGNING_KEY
      secret key to sign with; or NIX_SIGNING_KEY_FILE, a file with it

Exit status:
  0    done
  1    failed
  2    wrong usage or configuration
  3    partly done: some outputs failed, the others are published
  130  interrupted
`

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"-h"}, {"x", "-help"}, {"--help", "--nonsense"}} {
		_, err := parseTest(args, env("NIXOCI_JOBS", "x"))
		var stdout, stderr bytes.Buffer
		if got := Report(t.Context(), err, env(), &stdout, &stderr); got != ExitDone {
			t.Errorf("%q: got status %d, want %d", args, got, ExitDone)
		}
		if stdout.String() != wantHelp || stderr.Len() > 0 {
			t.Errorf("%q: got\n%s%s\nwant\n%s", args, stdout.String(), stderr.String(), wantHelp)
		}
	}
}

func TestVersionFlag(t *testing.T) {
	_, err := parseTest([]string{"--version"}, env())
	var stdout bytes.Buffer
	got := Report(context.Background(), err, env(), &stdout, &stdout)
	name, v, _ := strings.Cut(strings.TrimSpace(stdout.String()), " ")
	if got != ExitDone || name != "nixoci" || v == "" {
		t.Errorf("got %d, %q", got, stdout.String())
	}
}
