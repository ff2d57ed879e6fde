package action

// field is an input or an output. The tables below are the source for
// action.yml and docs/action.md; a test compares them.
type field struct {
	name, fallback, about string

	// For inputs: the variable that gives it to commands, which are named in
	// to. What is not set there is left to the command's own default.
	variable, to string
	list         bool // one item a line
}

const (
	publishCommand = "publish"
	proxyCommand   = "proxy"
	gcCommand      = "gc"
	signCommand    = "sign"
)

var inputs = []field{
	{name: "flake", about: "flake to build and publish, such as `.`; without it, what the job itself builds is published at its end", variable: "NIXOCI_FLAKE", to: "publish gc"},
	{name: "cache", about: "where the cache is: `HOST/NAME` in a registry, or `oci:DIR`; by default `ghcr.io/<repository>/nix-cache`, on Gitea and Forgejo `HOST/<repository>/nix-cache`", variable: "NIXOCI_CACHE", to: "publish proxy gc sign"},
	{name: "upstream-caches", about: "caches whose paths are not published, one a line; by default https://cache.nixos.org; `none` for no such cache", variable: "NIXOCI_UPSTREAM", to: "publish", list: true},
	{name: "systems", about: "systems to publish, one a line; by default the runner's", variable: "NIXOCI_SYSTEM", to: "publish gc", list: true},
	{name: "kinds", about: "kinds of outputs, one a line, as in `packages`; by default all but `hydraJobs`", variable: "NIXOCI_KINDS", to: "publish gc", list: true},
	{name: "include", about: "globs over attributes, one a line: publish only these", variable: "NIXOCI_INCLUDE", to: "publish gc", list: true},
	{name: "exclude", about: "globs over attributes, one a line: skip these", variable: "NIXOCI_EXCLUDE", to: "publish gc", list: true},
	{name: "accept-flake-config", fallback: "false", about: "`true` to use what the flake asks for in its `nixConfig`, but never for the pull request of a fork; see [What is published](publish.md#the-flakes-nixconfig)", variable: "NIXOCI_ACCEPT_FLAKE_CONFIG", to: "publish gc"},
	{name: "eval-jobs", about: "processes that evaluate the flake at a time; by default one for each processor, if there is memory for them", variable: "NIXOCI_EVAL_JOBS", to: "publish gc"},
	{name: "eval-memory", about: "memory that these processes take together at most, as in `4GiB`; by default three quarters of what is available", variable: "NIXOCI_EVAL_MEMORY", to: "publish gc"},
	{name: "skip-cached", fallback: "true", about: "`false` to build or fetch also those outputs that the cache or an upstream cache has already", variable: "NIXOCI_SKIP_CACHED", to: "publish"},
	{name: "exclude-paths", about: "globs over names of store paths, one a line: leave these out, and what refers to them", variable: "NIXOCI_EXCLUDE_PATH", to: "publish", list: true},
	{name: "signing-key", about: "secret key to sign with, from a secret", variable: "NIX_SIGNING_KEY", to: "publish sign"},
	{name: "trusted-keys", about: "public keys, or files with such keys as in `./public-key.txt`, one a line, that the job trusts beside the `signing-key`; what they, or keys for which they vouch, have signed it substitutes and signs", variable: "NIXOCI_TRUSTED_KEY", to: "publish", list: true},
	{name: "unsigned", fallback: "false", about: "`true` to sign nothing: the file in the output `report` says what is to be signed, by a job that has the key", variable: "NIXOCI_UNSIGNED", to: "publish"},
	{name: "sign", about: "reports of jobs with `unsigned`, one a line: sign what they have built, and do nothing else", variable: "NIXOCI_REPORT", to: "sign", list: true},
	{name: "token", fallback: "${{ github.token }}", about: "token for ghcr.io or the forge's own registry; with `username`, password for the cache's registry"},
	{name: "username", about: "user at the cache's registry; not needed for ghcr.io and the forge's own, nor after a docker login"},
	{name: "jobs", about: "uploads at a time; by default twice the processors, at least 4", variable: "NIXOCI_JOBS", to: "publish"},
	{name: "compression", fallback: "zstd", about: "`zstd`, `xz` or `none`", variable: "NIXOCI_COMPRESSION", to: "publish"},
	{name: "dry-run", fallback: "false", about: "`true` to show what would be done, and build, upload and remove nothing", variable: "NIXOCI_DRY_RUN", to: "publish gc"},
	{name: "on-error", fallback: "fail", about: "`warn` for a green job in spite of failures; refused credentials and wrong inputs always fail"},
	{name: "gc", fallback: "false", about: "`true` to collect: to remove from the cache what nothing needs any more, and do nothing else"},
	{name: "matrix", about: "`plan` to make a matrix of jobs that build what no cache has, and build nothing; `record` to publish the whole when these jobs are done", variable: "NIXOCI_MATRIX", to: "publish"},
	{name: "part", about: "job of a matrix to do, as the expression `toJSON(matrix)` gives it", variable: "NIXOCI_PART", to: "publish"},
	{name: "matrix-jobs", fallback: "20", about: "largest number of jobs in a matrix, up to 256", variable: "NIXOCI_MATRIX_JOBS", to: "publish"},
	{name: "runners", about: "runners for the systems of a matrix, one a line, as in `x86_64-linux=ubuntu-24.04`; by default GitHub's", variable: "NIXOCI_RUNNER", to: "publish", list: true},
	{name: "retention-days", fallback: "30", about: "for gc: days for which a publication stays after a newer one took its place"},
	{name: "keep-last", fallback: "1", about: "for gc: publications of each branch and job that stay for ever", variable: "NIXOCI_KEEP_LAST", to: "gc"},
	{name: "pin", about: "name under which what is published stays until it is unpinned", variable: "NIXOCI_PIN", to: "publish"},
	{name: "build-deps", fallback: "auto", about: "`off` to publish only outputs, and nothing that is built only to build them with; that is kept until the whole is published, so that a job that dies need not build it again", variable: "NIXOCI_BUILD_DEPS", to: "publish"},
	{name: "extra-nix-args", about: "arguments for each Nix command of the action, separated by white space, as in `--option cores 2`", variable: "NIXOCI_NIX_ARG", to: "publish"},
	{name: "deadline", about: "time after which the step stops, as in `5h`; what is uploaded by then stays"},
	{name: "on-fork", fallback: "build", about: "what to do for a pull request from a fork, whose job may not write: `build` the `flake` and publish nothing, `read` the cache for the job's other steps, or `skip`"},
	{name: "trust-event", about: "events, such as `pull_request_target`, in which the job publishes and signs although anybody may have chosen what it builds; without it the job only reads then"},
	{name: "summary", fallback: "true", about: "`false` for no job summary"},
}

var outputs = []field{
	{name: "cache", about: "the cache"},
	{name: "public-key", about: "the public keys that the job trusts for the cache, separated by spaces"},
	{name: "substituter", about: "URL of the cache as a substituter, up to the end of the job"},
	{name: "outputs", about: "the flake's outputs as JSON: a list of objects with `attr`, `system`, `status`, `paths`"},
	{name: "matrix", about: "with `matrix: plan`, the matrix as JSON; empty if there is nothing to build"},
	{name: "published", about: "number of outputs that are published"},
	{name: "uploaded-paths", about: "number of store paths that were uploaded"},
	{name: "uploaded-bytes", about: "bytes that were uploaded"},
	{name: "upstream-paths", about: "number of store paths left out because an upstream cache has them"},
	{name: "cached-paths", about: "number of store paths that the cache had already"},
	{name: "failed", about: "number of outputs and store paths that failed"},
	{name: "report", about: "file with the whole report as JSON"},
}
