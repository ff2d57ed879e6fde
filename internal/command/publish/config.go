package publish

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/internal/ci"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/signing"
	"github.com/org/nixoci-action/matrix"
	"github.com/org/nixoci-action/publish"
	"github.com/org/nixoci-action/upstream"
)

// config is what the command line and the environment ask for.
type config struct {
	publish.Options // what can be said of a run by itself

	UpstreamURLs []string
	KeyFiles     []string
	KeyText      string // secret
	TrustedKeys  []string
	NixArgs      []string
	JSON         bool
	Verbose      bool
}

// Command is what the help says of it.
var Command = &cli.Command{
	Name:     "publish",
	Summary:  "builds a flake and puts it into the cache",
	Synopsis: "[flags] [STORE-PATH... | -]",
	About: "Builds the outputs of a flake, finds out which store paths of their closure no upstream cache has, and puts those into a " +
		"binary cache in an OCI registry. With store paths as arguments, or - to read them from standard input, it publishes their " +
		"closure and builds nothing.",
	Examples: `
		nixoci publish --flake ./config
		nixoci publish --flake . --cache ghcr.io/owner/repo/nix-cache --sign-key-file ~/.config/nixoci/key.secret
		nixoci publish --flake . --pin production --pin-keep 2
		nixoci publish --flake . --dry-run
		nixoci publish --flake . --matrix plan --system x86_64-linux --system aarch64-linux
		nix-build | nixoci publish --cache localhost:5000/my/cache -`,
	Environment: slices.Concat([]cli.Variable{
		cli.SigningKey,
	}, cli.Tokens, cli.Login),
	Partly: "what could be built and uploaded is published, the rest is named",
}

const noUpstream = "none"

// Values of --compat-index and --build-deps.
const (
	choiceAuto = "auto"
	choiceOn   = "on"
	choiceOff  = "off"
)

// pinName is what can be typed, and stand in a URL or a file's name.
var pinName = regexp.MustCompile(`^[A-Za-z0-9._/-]{1,128}$`)

// parseConfig reads flags and environment. It touches nothing else.
func parseConfig(args []string, getenv func(string) string) (config, error) {
	var c config
	var kinds, runners []string
	var part, compat, deps string
	f := Command.Flags(getenv)
	f.String(&c.Flake, "flake", "", "`FLAKE` to publish: a folder or any flake reference, with an attribute as in .#hello to publish only that (default \".\", unless store paths are given)")
	f.Cache(&c.Cache)
	f.Strings(&c.UpstreamURLs, "upstream", []string{upstream.Default}, "`URL` of a cache whose paths are not published again; \"none\" for no such cache")
	f.Strings(&c.Systems, "system", nil, "`SYSTEM` to publish, as in x86_64-linux (default: this machine's)")
	f.Strings(&kinds, "kinds", nil, "`KINDS` of flake outputs, separated by commas (default: all but hydraJobs)")
	f.Strings(&c.Include, "include", nil, "`GLOB` for the attributes to publish, as in packages.*.hello-* (default: all)")
	f.Strings(&c.Exclude, "exclude", nil, "`GLOB` for attributes to skip")
	f.Strings(&c.ExcludePaths, "exclude-path", nil, "`GLOB` for the names of store paths to leave out, with what refers to them")
	f.Bool(&c.DenyUnfree, "deny-unfree", "skip outputs with an unfree license")
	f.Bool(&c.AcceptConfig, "accept-flake-config", "use what the flake asks for in its nixConfig, as with accept-flake-config = true in nix.conf. Its author then decides where Nix gets programs from")
	f.Int(&c.EvalJobs, "eval-jobs", 0, "`NUMBER` of Nix processes that evaluate the flake at a time; 0 for the processors, but at most one for each GiB of --eval-memory")
	f.Size(&c.EvalMemory, "eval-memory", 0, "`SIZE` of the memory that these processes take together at most, as in 4GiB; off for three quarters of what is available")
	f.Bool(&c.SkipCached, "skip-cached", "do not build or fetch outputs that the cache or an upstream cache has; they are published all the same")
	f.Choice(&c.Matrix, "matrix", []string{matrixOff, matrix.Planning, matrix.Recording}, "`MODE` for a matrix of jobs: plan prints the jobs that build what no cache has; record publishes the whole when the jobs are done. Neither builds anything")
	f.Int(&c.MatrixJobs, "matrix-jobs", 20, "`NUMBER` of jobs in a matrix at most, up to 256")
	f.Strings(&runners, "runner", nil, "`SYSTEM=LABEL` of the machine on which a job for the system runs (default: GitHub's)")
	f.String(&part, "part", "", "`JOB` of a matrix to do, in JSON as --matrix plan prints it")
	f.String(&c.Pin, "pin", "", "`NAME` under which what is published is kept, until gc --unpin NAME, or until newer publications with the name take its place")
	f.Int(&c.PinKeep, "pin-keep", 1, "`NUMBER` of publications that --pin keeps under its name")
	f.String(&c.Series, "series", "", "`NAME` of a series of publications of store paths: the newer ones take the place of the older ones, whatever packages they have (default: by the names of the packages)")
	f.Strings(&c.KeyFiles, "sign-key-file", nil, "`FILE` with a secret key to sign with; keep it outside of the flake's folder")
	f.Strings(&c.TrustedKeys, "trusted-key", nil, "public `KEY` (NAME:BASE64), beside those of --sign-key-file: what was not built here is signed only if one of them has signed it")
	f.Bool(&c.Unsigned, "unsigned", "sign nothing: --json reports what was built here, for sign to sign it in a job that has the key. Only what a --trusted-key has signed counts as cached")
	f.Choice(&c.Compression, "compression", []string{bincache.CompressionZstd, bincache.CompressionXZ, bincache.CompressionNone}, "`NAME` of the compression of NARs: zstd, xz or none")
	f.Int(&c.Level, "compression-level", 3, "`NUMBER` from 1 to 22: zstd's compression level")
	f.Choice(&compat, "compat-index", []string{choiceAuto, choiceOn, choiceOff}, "`MODE` of the index for nixcache-oci's proxy: on or off from now on, or auto to leave it as it is")
	f.Choice(&deps, "build-deps", []string{choiceAuto, choiceOn, choiceOff}, "`MODE` for what is built only to build others with: on publishes it, off does not, auto does in CI, where it is kept until the whole is published")
	f.Int(&c.Jobs, "jobs", 0, "`NUMBER` of uploads at a time; 0 for twice the processors, at least 4")
	f.Strings(&c.NixArgs, "nix-arg", nil, "`ARGUMENT` to add to each Nix command; it must be one that nix and nix-store know, as in --nix-arg=--option --nix-arg=cores --nix-arg=2")
	f.Bool(&c.ImportOranc, "import-oranc", "import the paths that oranc has stored in the repository, without sending them again, and publish nothing else")
	f.Bool(&c.DryRun, "dry-run", "show what would be done, and write and build nothing")
	f.Bool(&c.BuildOnly, "build-only", "build, show what would be uploaded, and write nothing to the cache")
	f.Bool(&c.JSON, "json", "print the result as JSON on standard output")
	f.Bool(&c.Verbose, "verbose", "log every request and command")
	f.CacheDir(&c.CacheDir)
	f.Bool(&c.StreamLogs, "log", "print what builders print as it comes, each line with the name of its package")
	f.Bool(&c.NoLogs, "no-logs", "publish no build logs; by default those of what is built here are published, too")
	rest, err := f.Parse(args)
	if err != nil {
		return config{}, err
	}
	c.Paths = rest
	if c.BuildOnly {
		c.DryRun = true // but for the builds
	}
	if c.Matrix == matrixOff {
		c.Matrix = ""
	}
	if compat != choiceAuto {
		on := compat == choiceOn
		c.CompatIndex = &on
	}
	c.BuildDeps = deps == choiceOn || deps == choiceAuto && ci.Detect(getenv).Origin != ""
	c.KeyText = getenv("NIX_SIGNING_KEY")
	var errs []error
	for _, k := range kinds {
		ks, err := discover.ParseKinds(k)
		c.Kinds = append(c.Kinds, ks...)
		errs = append(errs, err)
	}
	c.Runners, err = parseRunners(runners)
	errs = append(errs, err)
	if part != "" {
		errs = append(errs, c.take(part))
	}
	return c, f.Usage(errors.Join(append(errs, c.validate())...))
}

// matrixOff is the value of --matrix for a run that has to do with none.
const matrixOff = "off"

// parseRunners reads "SYSTEM=LABEL", and adds them to the default.
func parseRunners(list []string) (map[string]string, error) {
	runners := matrix.DefaultRunners()
	var errs []error
	for _, text := range list {
		system, label, _ := strings.Cut(text, "=")
		if system == "" || label == "" {
			errs = append(errs, fmt.Errorf("--runner %q is not like x86_64-linux=ubuntu-24.04", text))
			continue
		}
		runners[system] = label
	}
	return runners, errors.Join(errs...)
}

// take makes the job of a matrix what is to be published.
func (c *config) take(part string) error {
	if len(c.Include)+len(c.Systems) > 0 {
		return errors.New("--part and --include or --system exclude each other: the job names its outputs")
	}
	j, err := matrix.ParseJob(part)
	if err != nil {
		return fmt.Errorf("--part is %w", err)
	}
	c.Part, c.Include, c.Systems, c.Kinds = j, matrix.Lines(j.Outputs), matrix.Lines(j.Systems), discover.AllKinds()
	return nil
}

// validateMatrix finds what is wrong with the flags for a matrix.
func (c *config) validateMatrix() error {
	var errs []error
	if c.MatrixJobs < 1 || c.MatrixJobs > matrix.MaxJobs {
		errs = append(errs, fmt.Errorf("--matrix-jobs %d is not between 1 and %d", c.MatrixJobs, matrix.MaxJobs))
	}
	if c.Matrix == "" && c.Part == nil {
		return errors.Join(errs...)
	}
	name := "--matrix"
	if c.Part != nil {
		name = "--part"
		if c.Matrix != "" {
			errs = append(errs, errors.New("--part and --matrix exclude each other"))
		}
		if c.Pin != "" {
			errs = append(errs, errors.New("--pin is for the whole: give it with --matrix record, not with --part"))
		}
	}
	if c.Flake == "" {
		errs = append(errs, fmt.Errorf("%s is for flakes", name))
	}
	if len(c.ExcludePaths) > 0 { // what is left out would be planned each time, and missed in the end
		errs = append(errs, fmt.Errorf("%s and --exclude-path exclude each other; --exclude leaves out outputs", name))
	}
	if c.Matrix == matrix.Planning {
		for _, s := range c.Systems {
			if c.Runners[s] == "" {
				errs = append(errs, matrix.NoRunner(s))
			}
		}
	}
	return errors.Join(errs...)
}

// validate finds all that is wrong before any work starts.
func (c *config) validate() error {
	var errs []error
	if len(c.Paths) > 0 && c.Flake != "" {
		errs = append(errs, errors.New("--flake and store paths exclude each other"))
	}
	if c.ImportOranc && (len(c.Paths) > 0 || c.Flake != "" || c.Matrix != "" || c.Part != nil || c.Pin != "") {
		errs = append(errs, errors.New("--import-oranc publishes nothing else: give no flake, store paths, matrix or pin with it"))
	}
	if len(c.Paths) == 0 && c.Flake == "" && !c.ImportOranc {
		c.Flake = "."
	}
	if c.BuildOnly && (c.Flake == "" || c.Matrix != "" || c.ImportOranc) {
		errs = append(errs, errors.New("--build-only is for a flake, and excludes --matrix and --import-oranc"))
	}
	if len(c.Paths) > 1 && slices.Contains(c.Paths, "-") {
		errs = append(errs, errors.New("- cannot stand beside store paths"))
	}
	if slices.Contains(c.UpstreamURLs, noUpstream) {
		if len(c.UpstreamURLs) > 1 {
			errs = append(errs, errors.New("--upstream none cannot stand beside other upstreams"))
		}
		c.UpstreamURLs = nil
	}
	for _, u := range c.UpstreamURLs {
		if _, err := upstream.New(u, upstream.Options{}); err != nil {
			errs = append(errs, err)
		}
	}
	for _, g := range c.ExcludePaths {
		if _, err := path.Match(g, ""); err != nil {
			errs = append(errs, fmt.Errorf("--exclude-path %q is no glob", g))
		}
	}
	if c.Level < 1 || c.Level > 22 {
		errs = append(errs, fmt.Errorf("--compression-level %d is not between 1 and 22", c.Level))
	}
	if c.Pin != "" && !pinName.MatchString(c.Pin) {
		errs = append(errs, fmt.Errorf("--pin %q is no name of up to 128 letters, digits and ._/-", c.Pin))
	}
	switch {
	case c.PinKeep < 1:
		errs = append(errs, fmt.Errorf("--pin-keep %d is not at least 1", c.PinKeep))
	case c.PinKeep > 1 && c.Pin == "":
		errs = append(errs, errors.New("--pin-keep needs --pin"))
	}
	if c.Series != "" && c.Flake != "" {
		errs = append(errs, errors.New("--series is for store paths"))
	}
	if c.Unsigned && len(c.KeyFiles) > 0 {
		errs = append(errs, errors.New("--unsigned and --sign-key-file exclude each other"))
	}
	if c.Unsigned && c.ImportOranc {
		errs = append(errs, errors.New("--unsigned and --import-oranc exclude each other: nothing is signed of an import"))
	}
	if c.EvalJobs < 0 {
		errs = append(errs, fmt.Errorf("--eval-jobs %d is negative", c.EvalJobs))
	}
	if c.Jobs < 0 {
		errs = append(errs, fmt.Errorf("--jobs %d is negative", c.Jobs))
	}
	if _, err := signing.Keys(nil).Trusted(c.TrustedKeys); err != nil {
		errs = append(errs, fmt.Errorf("--trusted-key: %w", err))
	}
	errs = append(errs, c.validateMatrix())
	if err := registry.Check(c.Cache); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
