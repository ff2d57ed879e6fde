package publish

import (
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/matrix"
	"github.com/org/nixoci-action/publish"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i+1 < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestParseConfig(t *testing.T) {
	home := []string{"HOME", "/home/u"}
	yes, no := true, false
	defaults := config{
		Options: publish.Options{
			Cache: "oci:/home/u/.local/share/nixoci/cache", Flake: ".", MatrixJobs: 20, Runners: matrix.DefaultRunners(),
			PinKeep: 1, Compression: "zstd", Level: 3, CacheDir: "/home/u/.cache/nixoci",
		},
		UpstreamURLs: []string{"https://cache.nixos.org"},
	}
	with := func(change func(*config)) config {
		c := defaults
		change(&c)
		return c
	}
	for _, tc := range []struct {
		name string
		args []string
		env  []string
		want config
		err  string // parts, separated by |
	}{
		{name: "import", args: []string{"--import-oranc", "--cache", "localhost:5000/x"}, want: with(func(c *config) { c.ImportOranc, c.Flake, c.Cache = true, "", "localhost:5000/x" })},
		{name: "building only", args: []string{"--build-only", "--cache", "localhost:5000/x"}, want: with(func(c *config) { c.DryRun, c.BuildOnly, c.Cache = true, true, "localhost:5000/x" })},
		{name: "building store paths", args: []string{"--build-only", "./result"}, err: "--build-only is for a flake"},
		{name: "building a plan", args: []string{"--build-only", "--matrix", "plan"}, err: "--build-only is for a flake"},
		{name: "import and more", args: []string{"--import-oranc", "--flake", "."}, err: "--import-oranc publishes nothing else"},
		{name: "import and paths", args: []string{"--import-oranc", "./result"}, err: "--import-oranc publishes nothing else"},
		{name: "import and pin", args: []string{"--import-oranc", "--pin", "p"}, err: "--import-oranc publishes nothing else"},
		{name: "defaults", want: defaults},
		{
			name: "in Actions", env: []string{"GITHUB_ACTIONS", "true", "GITHUB_REPOSITORY", "Own/Repo", "NIX_SIGNING_KEY", "k:secret"},
			want: with(func(c *config) { c.Cache, c.KeyText = "ghcr.io/own/repo/nix-cache", "k:secret" }),
		},
		{
			name: "flags before environment",
			args: []string{"--flake", "./config", "--cache", "localhost:5000/x", "--upstream", "none", "--jobs", "3"},
			env:  []string{"NIXOCI_FLAKE", "github:a/b", "NIXOCI_CACHE", "oci:/c", "NIXOCI_UPSTREAM", "https://a.example", "NIXOCI_JOBS", "9", "NIXOCI_DRY_RUN", "true"},
			want: with(func(c *config) {
				c.Flake, c.Cache, c.UpstreamURLs, c.Jobs, c.DryRun = "./config", "localhost:5000/x", nil, 3, true
			}),
		},
		{
			name: "lists", args: []string{"--kinds", "packages,checks", "--kinds", "hydraJobs", "--exclude-path", "*-doc"},
			env: []string{"NIXOCI_EXCLUDE_PATH", "no", "NIXOCI_INCLUDE", "packages.*.a b\nchecks.**", "NIXOCI_SYSTEM", "x86_64-linux aarch64-linux"},
			want: with(func(c *config) {
				c.Kinds = []discover.Kind{discover.Packages, discover.Checks, discover.HydraJobs}
				c.ExcludePaths, c.Include, c.Systems = []string{"*-doc"}, []string{"packages.*.a b", "checks.**"}, []string{"x86_64-linux", "aarch64-linux"}
			}),
		},
		{name: "paths", args: []string{"./result", "--json", "/nix/store/x"}, want: with(func(c *config) { c.Flake, c.Paths, c.JSON = "", []string{"./result", "/nix/store/x"}, true })},
		{name: "paths and flake", args: []string{"--flake", ".", "x"}, err: "exclude each other"},
		{name: "standard input and paths", args: []string{"-", "x"}, err: "beside store paths"},
		{name: "none and more", args: []string{"--upstream", "none", "--upstream", "https://a.example"}, err: "none"},
		{
			name: "all that is wrong at once",
			args: []string{"--cache", "nowhere", "--upstream", "ftp://x", "--compression-level", "23", "--jobs", "-1", "--exclude-path", "[", "--kinds", "bundles"},
			err:  "nowhere|ftp://x|23|-1|[|bundles",
		},
		{name: "pins", args: []string{"--pin", "prod/eu-1.y"}, env: []string{"NIXOCI_PIN_KEEP", "3"}, want: with(func(c *config) { c.Pin, c.PinKeep = "prod/eu-1.y", 3 })},
		{name: "no pins", args: []string{"--pin", "a b", "--pin-keep", "0"}, err: `"a b"|--pin-keep 0`},
		{name: "a long pin", args: []string{"--pin", strings.Repeat("x", 129)}, err: "128"},
		{name: "pins without a name", args: []string{"--pin-keep", "2"}, err: "needs --pin"},
		{
			name: "compat index", args: []string{"--compat-index", "off"}, env: []string{"NIXOCI_COMPAT_INDEX", "on"},
			want: with(func(c *config) { c.CompatIndex = &no }),
		},
		{name: "compat index by variable", env: []string{"NIXOCI_COMPAT_INDEX", "on"}, want: with(func(c *config) { c.CompatIndex = &yes })},
		{name: "unknown compat index", args: []string{"--compat-index", "yes"}, err: "auto, on, off"},
		{
			name: "a matrix", args: []string{"--matrix", "plan", "--runner", "riscv64-linux=my-risc", "--system", "riscv64-linux"},
			env: []string{"NIXOCI_MATRIX_JOBS", "256", "NIXOCI_SKIP_CACHED", "true"},
			want: with(func(c *config) {
				c.Matrix, c.MatrixJobs, c.SkipCached, c.Systems = "plan", 256, true, []string{"riscv64-linux"}
				c.Runners = matrix.DefaultRunners()
				c.Runners["riscv64-linux"] = "my-risc"
			}),
		},
		{
			name: "a part of a matrix",
			args: []string{"--part", `{"name": "n", "system": "a", "runner": "r", "outputs": "packages.a.\"x y\"\npackages.b.z", "systems": "a\nb", "series": "s", "nix": 3}`},
			want: with(func(c *config) {
				c.Include, c.Systems, c.Kinds = []string{`packages.a."x y"`, "packages.b.z"}, []string{"a", "b"}, discover.AllKinds()
				c.Part = &matrix.Job{Name: "n", System: "a", Runner: "r", Outputs: "packages.a.\"x y\"\npackages.b.z", Systems: "a\nb", Series: "s"}
			}),
		},
		{
			name: "matrices that are none",
			args: []string{"--matrix", "plan", "--matrix-jobs", "257", "--runner", "x", "--system", "mips-linux", "--part", "{}", "--exclude-path", "*-doc", "--pin", "p", "./result"},
			err:  "--matrix-jobs 257|--runner \"x\"|mips-linux|--part and --include or --system exclude|--exclude-path exclude|is for flakes",
		},
		{name: "no part", args: []string{"--part", `{"outputs": "x"}`}, err: "--part is no job"},
		{name: "no JSON", args: []string{"--part", `plan`}, err: "--part is no job"},
		{name: "a pinned part", args: []string{"--part", `{"outputs": "x", "systems": "a", "series": "s"}`, "--pin", "p", "--matrix", "record"}, err: "--pin is for the whole|--part and --matrix exclude"},
		{name: "unknown compression", args: []string{"--compression", "brotli"}, err: "zstd, xz, none"},
		{name: "capital letters", args: []string{"--cache", "ghcr.io/Own/Repo"}, err: "capital letters"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseConfig(tc.args, env(slices.Concat(home, tc.env)...))
			if tc.err == "" {
				if err != nil || !reflect.DeepEqual(got, tc.want) {
					t.Errorf("got %+v, %v;\nwant %+v", got, err, tc.want)
				}
				return
			}
			for part := range strings.SplitSeq(tc.err, "|") {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("got %v, want an error with %q", err, part)
				}
			}
			if status := cli.Report(t.Context(), err, env(), io.Discard, io.Discard); status != cli.ExitUsage {
				t.Errorf("got status %d, want %d", status, cli.ExitUsage)
			}
		})
	}
}
