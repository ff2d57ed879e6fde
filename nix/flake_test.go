package nix

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/nix/nixtest"
)

// flake is a copy of the project's flake, whose nixpkgs is that of testdata.
type flake struct {
	*testing.T
	*nixtest.Env
	dir, nixpkgs string
}

func newFlake(t *testing.T) *flake {
	f := &flake{T: t, Env: nixtest.New(t)}
	f.dir, f.nixpkgs = filepath.Join(f.Dir, "project"), filepath.Join(f.Dir, "nixpkgs")
	out, err := exec.Command("git", "-C", "..", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		copyFile(t, filepath.Join("..", name), filepath.Join(f.dir, name))
	}
	for _, name := range []string{"nixpkgs/flake.nix", "nixpkgs/default.nix", "lib.nix"} {
		copyFile(t, filepath.Join("testdata", name), filepath.Join(f.nixpkgs, filepath.Base(name)))
	}
	text, err := os.ReadFile(filepath.Join(f.dir, "flake.nix"))
	if err != nil {
		t.Fatal(err)
	}
	mine := strings.Replace(string(text), "github:NixOS/nixpkgs/nixos-unstable", "path:"+f.nixpkgs, 1)
	if mine == string(text) {
		t.Fatal("the flake has another nixpkgs than the one that is replaced here")
	}
	nixtest.Write(t, f.dir, "flake.nix", mine)
	f.Git(t, f.dir)
	f.Nix(t, f.dir, "flake", "lock")
	f.Git(t, f.dir)

	env, err := exec.Command("go", "env", "-json", "GOCACHE", "GOMODCACHE", "GOPROXY", "GOSUMDB").Output()
	if err != nil {
		t.Fatalf("go env: %v", err)
	}
	var values map[string]string
	if err := json.Unmarshal(env, &values); err != nil {
		t.Fatal(err)
	}
	for name, value := range values {
		f.Vars = append(f.Vars, name+"="+value)
	}
	f.Vars = append(f.Vars, "STUB_GO_VERSION="+strings.TrimPrefix(runtime.Version(), "go"))
	return f
}

// nix runs a command of Nix, offline, on the flake.
func (f *flake) nix(args ...string) string {
	f.Helper()
	flags := []string{args[0], "--extra-experimental-features", "nix-command flakes", "--impure"}
	return f.Env.Run(f.T, f.dir, "nix", append(flags, args[1:]...)...)
}

// eval applies a function to an output and returns the string that comes out.
func (f *flake) eval(attr, apply string) string {
	f.Helper()
	return f.nix("eval", "--raw", ".#"+attr, "--apply", apply)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if os.IsNotExist(err) {
		return // deleted, and not yet committed
	} else if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	info, err := in.Stat()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOutputs(t *testing.T) {
	t.Parallel()
	f := newFlake(t)
	apps := "default=bin/nixoci gc=libexec/nixoci/gc inspect=libexec/nixoci/inspect keys=libexec/nixoci/keys nixoci=bin/nixoci proxy=libexec/nixoci/proxy publish=libexec/nixoci/publish"
	for _, system := range []string{"x86_64-linux", "aarch64-linux", "x86_64-darwin", "aarch64-darwin"} {
		if got, want := f.eval("packages."+system, `p: toString (builtins.attrNames p)`), "default nixoci"; got != want {
			t.Errorf("%s: got the packages %q, want %q", system, got, want)
		}
		got := f.eval("apps."+system, `a: toString (map (n: assert a.${n}.type == "app"; "${n}=${builtins.concatStringsSep "/" (builtins.tail (builtins.filter builtins.isString (builtins.split "-nixoci-[^/]*/" a.${n}.program)))}") (builtins.attrNames a))`)
		if got != apps {
			t.Errorf("%s: got the apps %q, want %q", system, got, apps)
		}
	}
	if got := f.eval("homeManagerModules", `m: toString (builtins.attrNames m)`); got != "default" {
		t.Errorf("got %q", got)
	}
}

// The package builds, with the modules that the hash is of; nix run starts it.
func TestRun(t *testing.T) {
	t.Parallel()
	f := newFlake(t)
	rev := f.Env.Run(t, f.dir, "git", "rev-parse", "--short=7", "HEAD")
	for installable, args := range map[string][]string{".": {"version"}, ".#nixoci": {"publish", "--version"}, ".#proxy": {"--version"}} {
		if got := f.nix(append([]string{"run", installable, "--"}, args...)...); !strings.HasPrefix(got, "nixoci 0.") || !strings.HasSuffix(got, "."+rev) {
			t.Errorf("%s: got %q, want the version with the commit %s", installable, got, rev)
		}
	}
	if got := f.nix("run", ".#gc", "--", "--help"); !strings.Contains(got, "Usage: nixoci gc") {
		t.Errorf("the app gc says %q", got)
	}
	f.nix("build", "--out-link", f.Dir+"/all", ".")
	entries, err := os.ReadDir(f.Dir + "/all/bin")
	if err != nil || len(entries) != 1 || entries[0].Name() != "nixoci" {
		t.Errorf("got the programs %v, %v, want nixoci", entries, err)
	}
	for name, part := range map[string]string{
		"man/man1/nixoci.1": "nixoci\\-publish", "man/man1/nixoci-gc.1": ".TH NIXOCI-GC 1",
		"bash-completion/completions/nixoci": "complete ", "zsh/site-functions/_nixoci": "#compdef nixoci", "fish/vendor_completions.d/nixoci.fish": "complete -c nixoci",
	} {
		if text, err := os.ReadFile(filepath.Join(f.Dir, "all/share", name)); err != nil || !strings.Contains(string(text), part) {
			t.Errorf("%s: got %q, %v", name, text, err)
		}
	}

	// a release has the version that its commit says
	nixtest.Write(t, f.dir, "launch/release.json", `{"version": "v1.2.3", "files": {}}`)
	f.Git(t, f.dir)
	if got := f.nix("run", ".", "--", "version"); got != "nixoci v1.2.3" {
		t.Errorf("a release: got %q", got)
	}
}

// An older nixpkgs builds with its newer Go, or says what is missing.
func TestOlderGo(t *testing.T) {
	t.Parallel()
	f := newFlake(t)
	name := func() (string, error) {
		cmd := exec.Command("nix", "--extra-experimental-features", "nix-command flakes", "eval", "--impure", "--raw", ".#packages.x86_64-linux.nixoci.name")
		cmd.Dir, cmd.Env = f.dir, f.Vars
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	f.Vars = append(f.Vars, "STUB_GO_VERSION=1.25.9")
	if got, err := name(); err != nil || !strings.Contains(got, "with-go-1.26") {
		t.Errorf("got %s, %v", got, err)
	}
	f.Vars = append(f.Vars, "STUB_GO_VERSION=1.24.1")
	if got, err := name(); err == nil || !strings.Contains(got, "needs Go 1.26, and this nixpkgs has 1.24.1") {
		t.Errorf("got %s, %v", got, err)
	}
}

// The modules run the program of the flake, unless they are told another one.
func TestModulesOfFlake(t *testing.T) {
	t.Parallel()
	f := newFlake(t)
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	evaluate := func(module, system, options, result string) string {
		t.Helper()
		return f.eval(module, `m: toString (import `+here+`/testdata/evaluate.nix { module = m; system = "`+system+`"; config.services.nixoci-proxy = { enable = true; cache = "oci:/c"; requireSignatures = false; `+options+` }; }).`+result)
	}
	want := f.eval("packages.x86_64-linux.nixoci", `p: "${p}/bin/nixoci"`)
	for _, module := range []string{"nixosModules.default", "nixosModules.nixoci-proxy"} {
		if got := evaluate(module, "x86_64-linux", "", "service.serviceConfig.ExecStart"); !strings.HasPrefix(got, `"`+want+`" "proxy" `) {
			t.Errorf("%s: got %s, want %s", module, got, want)
		}
	}
	if got := evaluate("homeModules.default", "x86_64-linux", "", "userService.Service.ExecStart"); !strings.HasPrefix(got, `"`+want+`" "proxy" `) {
		t.Errorf("home-manager: got %s, want %s", got, want)
	}
	want = f.eval("packages.aarch64-darwin.nixoci", `p: "${p}/bin/nixoci"`)
	if got := evaluate("darwinModules.default", "aarch64-darwin", "", "daemon.command"); !strings.HasPrefix(got, "'"+want+"' 'proxy' ") {
		t.Errorf("nix-darwin: got %s, want %s", got, want)
	}
	if got := evaluate("nixosModules.default", "x86_64-linux", `package = "/mine";`, "service.serviceConfig.ExecStart"); !strings.HasPrefix(got, `"/mine/bin/nixoci" "proxy" `) {
		t.Errorf("another package: got %s", got)
	}
}
