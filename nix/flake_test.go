package nix

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
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

// commands are those that are delivered.
func commands(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("../cmd")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != "action" {
			names = append(names, e.Name())
		}
	}
	if len(names) < 3 {
		t.Fatalf("got the commands %q", names)
	}
	return names
}

func TestOutputs(t *testing.T) {
	t.Parallel()
	f := newFlake(t)
	names := append(commands(t), "default")
	slices.Sort(names)
	want := strings.Join(names, " ")
	for _, system := range []string{"x86_64-linux", "aarch64-linux", "x86_64-darwin", "aarch64-darwin"} {
		if got := f.eval("packages."+system, `p: toString (builtins.attrNames p)`); got != want {
			t.Errorf("%s: got the packages %q, want %q", system, got, want)
		}
		for app := range strings.SplitSeq(f.eval("apps."+system, `a: toString (map (n: assert a.${n}.type == "app"; "${n}=${baseNameOf a.${n}.program}") (builtins.attrNames a))`), " ") {
			name, program, _ := strings.Cut(app, "=")
			if !slices.Contains(names, name) || program != strings.Replace(name, "default", "proxy", 1) {
				t.Errorf("%s: the app %q runs %q", system, name, program)
			}
		}
	}
	if got := f.eval("overlays.default", `o: toString (builtins.attrNames (o { } { }).nixoci)`); got != want {
		t.Errorf("the overlay has %q, want %q", got, want)
	}
	if got := f.eval("homeManagerModules", `m: toString (builtins.attrNames m)`); got != "default" {
		t.Errorf("got %q", got)
	}
}

// The packages build, with the modules that the hash is of; nix run starts them.
func TestRun(t *testing.T) {
	t.Parallel()
	f := newFlake(t)
	rev := f.Env.Run(t, f.dir, "git", "rev-parse", "--short=7", "HEAD")
	for installable, want := range map[string]string{".#proxy": "proxy 0.", ".": "proxy 0."} {
		if got := f.nix("run", installable, "--", "--version"); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "."+rev) {
			t.Errorf("%s: got %q, want %q and the commit %s", installable, got, want, rev)
		}
	}
	f.nix("build", "--out-link", f.Dir+"/all", ".")
	entries, err := os.ReadDir(f.Dir + "/all/bin")
	if err != nil {
		t.Fatal(err)
	}
	var programs []string
	for _, e := range entries {
		programs = append(programs, e.Name())
	}
	if want := commands(t); !slices.Equal(programs, want) {
		t.Errorf("got the programs %q, want %q", programs, want)
	}

	// a release has the version that its commit says
	nixtest.Write(t, f.dir, "launch/release.json", `{"version": "v1.2.3", "files": {}}`)
	f.Git(t, f.dir)
	if got := f.nix("run", ".#proxy", "--", "--version"); got != "proxy v1.2.3" {
		t.Errorf("a release: got %q", got)
	}
}

// An older nixpkgs builds with its newer Go, or says what is missing.
func TestOlderGo(t *testing.T) {
	t.Parallel()
	f := newFlake(t)
	name := func() (string, error) {
		cmd := exec.Command("nix", "--extra-experimental-features", "nix-command flakes", "eval", "--impure", "--raw", ".#packages.x86_64-linux.proxy.name")
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
	want := f.eval("packages.x86_64-linux.proxy", `p: "${p}/bin/proxy"`)
	for _, module := range []string{"nixosModules.default", "nixosModules.nixoci-proxy"} {
		if got := evaluate(module, "x86_64-linux", "", "service.serviceConfig.ExecStart"); !strings.HasPrefix(got, `"`+want+`" `) {
			t.Errorf("%s: got %s, want %s", module, got, want)
		}
	}
	if got := evaluate("homeModules.default", "x86_64-linux", "", "userService.Service.ExecStart"); !strings.HasPrefix(got, `"`+want+`" `) {
		t.Errorf("home-manager: got %s, want %s", got, want)
	}
	want = f.eval("packages.aarch64-darwin.proxy", `p: "${p}/bin/proxy"`)
	if got := evaluate("darwinModules.default", "aarch64-darwin", "", "daemon.command"); !strings.HasPrefix(got, "'"+want+"' ") {
		t.Errorf("nix-darwin: got %s, want %s", got, want)
	}
	if got := evaluate("nixosModules.default", "x86_64-linux", `package = "/mine";`, "service.serviceConfig.ExecStart"); !strings.HasPrefix(got, `"/mine/bin/proxy" `) {
		t.Errorf("another package: got %s", got)
	}
}
