package nix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/nix/nixtest"
)

func TestParseVersion(t *testing.T) {
	for line, want := range map[string]Version{
		"nix (Nix) 2.8.0":                          {Major: 2, Minor: 8},
		"nix (Nix) 2.34.8\n":                       {Major: 2, Minor: 34},
		"nix (Nix) 2.35.0pre20260101_abcdef0":      {Major: 2, Minor: 35},
		"nix (Nix) 2.19pre20231004_f2d9d2f":        {Major: 2, Minor: 19},
		"nix (Nix) 3.0.0":                          {Major: 3, Minor: 0},
		"nix (Lix, like Nix) 2.91.1":               {Major: 2, Minor: 91, Lix: true},
		"nix (Lix, like Nix) 2.93.0-dev-pre2025":   {Major: 2, Minor: 93, Lix: true},
		"nix (Determinate Nix 3.6.2) 2.29.0":       {Major: 2, Minor: 29},
		"nix (Determinate Nix 3.11.2) 2.31.1+next": {Major: 2, Minor: 31},
	} {
		if got, err := parseVersion(line); err != nil || got != want {
			t.Errorf("%q: got %+v, %v, want %+v", line, got, err, want)
		}
	}
	for _, line := range []string{"", "nix", "git version 2.39.5", "nix (Nix) two", "nix (Nix 2.8)"} {
		if got, err := parseVersion(line); err == nil {
			t.Errorf("%q: got %+v, want an error", line, got)
		}
	}
}

func TestVersionFeatures(t *testing.T) {
	for _, c := range []struct {
		v                       Version
		stdin, root, jsonFormat bool
	}{
		{Version{Major: 2, Minor: 8}, false, false, false},
		{Version{Major: 2, Minor: 15}, true, false, false},
		{Version{Major: 2, Minor: 26}, true, true, false},
		{Version{Major: 2, Minor: 33}, true, true, true},
		{Version{Major: 3, Minor: 0}, true, true, true},
		{Version{Major: 2, Minor: 93, Lix: true}, true, false, false},
	} {
		if c.v.hasStdin() != c.stdin || c.v.HasRootInstallable() != c.root || c.v.hasJSONFormat() != c.jsonFormat {
			t.Errorf("%s: got %t, %t, %t", c.v, c.v.hasStdin(), c.v.HasRootInstallable(), c.v.hasJSONFormat())
		}
	}
}

func TestChildEnv(t *testing.T) {
	keep := []string{
		"PATH=/bin", "HOME=/h", "NIX_CONFIG=access-tokens = x", "NIX_SSL_CERT_FILE=/c", "NIX_REMOTE=daemon", "AWS_SECRET_ACCESS_KEY=s3",
		"GITHUB_ACTIONS=true", "SSH_AUTH_SOCK=/s", "REGISTRY_AUTH_FILE=/a", "GIT_TERMINAL_PROMPT=0", "EMPTY=", "TMPDIR=/t",
		"GITLAB_CI=true", "CI_PROJECT_URL=https://h/o/r", "CI_REGISTRY_USER=u",
	}
	drop := []string{
		"NIX_SIGNING_KEY=k", "NIX_SIGNING_KEY_2=k", "NIXOCI_CACHE=x", "GITHUB_TOKEN=t", "GH_TOKEN=t", "GH_PAT=t", "ACTIONS_RUNTIME_TOKEN=t",
		"ACTIONS_ID_TOKEN_REQUEST_URL=u", "ACTIONS_CACHE_URL=u", "INPUT_TOKEN=t", "INPUT_SIGNING-KEY=k", "DOCKER_AUTH_CONFIG={}",
		"REGISTRY_PASSWORD=p", "CACHIX_AUTH_TOKEN=t", "MY_SECRET=s", "my_api_key=k", "SIGNING_PRIVATE_KEY=k", "nonsense",
		"GITEA_TOKEN=t", "FORGEJO_TOKEN=t", "CI_JOB_TOKEN=t", "CI_REGISTRY_PASSWORD=p", "CI_DEPLOY_PASSWORD=p", "CI_JOB_JWT=t", "CI_REPOSITORY_URL=https://u:t@h",
	}
	got := childEnv(append(slices.Clone(keep), drop...))
	if !slices.Equal(got, keep) {
		t.Errorf("got %q, want %q", got, keep)
	}
	if got := childEnv(nil); !slices.Equal(got, []string{"GIT_TERMINAL_PROMPT=0"}) {
		t.Errorf("of nothing: got %q", got)
	}
}

func TestMessage(t *testing.T) {
	for in, want := range map[string]string{
		"warning: dirty\nerror: it broke\n\n  at x\n": "it broke\n\n  at x",
		"no prefix\nat all\n":                         "no prefix\nat all",
		"\x1b[31;1merror:\x1b[0m red \x07bell\n":      "red bell",
		"":                                            "",
	} {
		var l tail
		fmt.Fprint(&l, in)
		if got := l.message(); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	var l tail
	for i := range 100_000 {
		fmt.Fprintf(&l, "line %d\n", i)
	}
	fmt.Fprint(&l, "error: the end\n")
	if got := l.message(); got != "the end" || len(l.buf) > 2*tailSize {
		t.Errorf("after a long log: got %q from %d bytes", got, len(l.buf))
	}
}

func TestBatches(t *testing.T) {
	var args []string
	for i := range 100_000 {
		args = append(args, fmt.Sprintf("/nix/store/%032d-name", i))
	}
	parts := batches(args)
	if got := slices.Concat(parts...); !slices.Equal(got, args) {
		t.Errorf("batches lose arguments: %d of %d", len(got), len(args))
	}
	for _, p := range parts {
		if n := len(strings.Join(p, " ")); n > argsSize {
			t.Errorf("a batch of %d bytes", n)
		}
	}
	if got := batches(nil); len(got) != 0 {
		t.Errorf("of nothing: got %q", got)
	}
}

// stub writes a program that takes the place of Nix.
func stub(t *testing.T, script string) *Client {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"nix", "nix-store"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return New(Options{BinDir: dir, Env: []string{"PATH=/usr/bin:/bin"}})
}

func TestMissingNix(t *testing.T) {
	_, err := New(Options{Env: []string{"PATH=" + t.TempDir() + ":.:"}}).Version(t.Context())
	if !errors.Is(err, fs.ErrNotExist) || hint.Of(err) == "" {
		t.Errorf("got %v with hint %q, want a missing file with a hint", err, hint.Of(err))
	}
}

func TestOldNix(t *testing.T) {
	_, err := stub(t, `echo "nix (Nix) 2.3.16"`).Version(t.Context())
	if err == nil || hint.Of(err) == "" {
		t.Errorf("got %v with hint %q, want an error with a hint", err, hint.Of(err))
	}
}

func TestVersionIsAskedOnce(t *testing.T) {
	count := filepath.Join(t.TempDir(), "count")
	c := stub(t, `echo x >> `+count+`; echo "nix (Nix) 2.26.3"`)
	for range 3 {
		if _, err := c.Version(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if b, _ := os.ReadFile(count); string(b) != "x\n" {
		t.Errorf("ran %d times, want once", bytes.Count(b, []byte("x")))
	}
}

// Cancelling interrupts Nix and what it started, and waits for it.
func TestCancelInterrupts(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	c := stub(t, `trap 'echo stopped >> `+mark+`; echo "error: interrupted by the user" >&2; exit 1' INT; echo begun >&2; echo started >> `+mark+`; sleep 300 >/dev/null 2>&1 & wait; wait`)
	var log bytes.Buffer
	c.stderr = &log
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- c.Dump(ctx, pathA, io.Discard)
	}()
	waitFor(t, func() bool { b, _ := os.ReadFile(mark); return len(b) > 0 })
	start := time.Now()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if took := time.Since(start); took > stopDelay/2 {
		t.Errorf("took %v", took)
	}
	if b, _ := os.ReadFile(mark); string(b) != "started\nstopped\n" {
		t.Errorf("got %q, want the program to have stopped in its own way", b)
	}
	if strings.Contains(log.String(), "interrupted by the user") {
		t.Errorf("the log has %q, which Nix says to whoever stops it", log.String())
	}
}

// What does not want to stop is killed, with all that it started.
func TestCancelKillsInTheEnd(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	c := stub(t, `trap '' INT; sleep 300 & echo $! > `+mark+`; wait`)
	c.stopDelay = 200 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- c.Dump(ctx, pathA, io.Discard)
	}()
	pid := 0
	waitFor(t, func() bool {
		b, _ := os.ReadFile(mark)
		n, _ := fmt.Sscan(string(b), &pid)
		return n == 1 && bytes.HasSuffix(b, []byte("\n"))
	})
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Dump does not return")
	}
	waitFor(t, func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || zombie(pid) })
}

// zombie reports whether a process has ended but is not waited for: in a
// container there may be no one to do that.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	return err == nil && strings.HasPrefix(rest, "Z")
}

// A writer that fails stops the dump, and its error is the one reported.
func TestDumpReportsItsWriter(t *testing.T) {
	c := stub(t, `exec cat /dev/zero`)
	full := errors.New("disk full")
	err := c.Dump(t.Context(), pathA, writerFunc(func(p []byte) (int, error) { return 0, full }))
	if !errors.Is(err, full) {
		t.Errorf("got %v, want %v", err, full)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited for too long")
		}
	}
}

// What looks like an option or an installable never reaches a command line.
func TestArgumentsAreChecked(t *testing.T) {
	var ran atomic.Bool
	c := stub(t, `echo unexpected >&2; exit 9`)
	c.stderr = writerFunc(func(p []byte) (int, error) { ran.Store(true); return len(p), nil })
	for _, bad := range []string{"--option", "nixpkgs#hello", "/etc/passwd", pathA + "/bin", "", pathA + "\n" + pathB} {
		for name, err := range map[string]error{
			"PathInfo": func() error { _, err := c.PathInfo(t.Context(), []string{bad}, true); return err }(),
			"Invalid":  func() error { _, err := c.Invalid(t.Context(), []string{bad}); return err }(),
			"Outputs":  func() error { _, err := c.Outputs(t.Context(), []string{bad}); return err }(),
			"Realise":  c.Realise(t.Context(), []string{bad}, RealiseOptions{}),
			"Dump":     c.Dump(t.Context(), bad, io.Discard),
		} {
			if err == nil {
				t.Errorf("%s(%q): got no error", name, bad)
			}
		}
	}
	for _, bad := range []string{pathA, drvA + "!", drvA + "!out;x", drvA + "^out", drvA + "!out!dev"} {
		if err := c.Realise(t.Context(), []string{bad}, RealiseOptions{}); err == nil {
			t.Errorf("Realise(%q): got no error", bad)
		}
	}
	for _, bad := range []string{"", "-x", ".#a", "a\nb"} {
		if _, err := c.FlakeMetadata(t.Context(), bad, ""); err == nil {
			t.Errorf("FlakeMetadata(%q): got no error", bad)
		}
	}
	if ran.Load() {
		t.Error("a command was run")
	}
}

// chain is n derivations, each referring to the one before.
const chain = `n: builtins.foldl' (deps: i: deps ++ [ (derivation {
  name = "chain-${toString i}"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  dep = if i == 0 then "" else builtins.elemAt deps (i - 1);
  args = [ "-c" "echo building $name >&2; mkdir $out; echo $dep $out > $out/file" ];
}) ]) [ ] (builtins.genList (i: i) n)`

func TestWithRealNix(t *testing.T) {
	e := nixtest.New(t)
	var log bytes.Buffer
	c := New(Options{Env: append(e.Vars, "NIXOCI_SECRET_FOR_TEST=secret"), Stderr: &log})
	ctx := t.Context()

	raw, err := c.Eval(ctx, `map (d: [ d.drvPath d.outPath ]) ((`+chain+`) 4)`, EvalOptions{Impure: true})
	if err != nil {
		t.Fatal(err)
	}
	var drvs [][2]string
	if err := json.Unmarshal(raw, &drvs); err != nil || len(drvs) != 4 {
		t.Fatalf("got %s, %v", raw, err)
	}
	last, outs := drvs[3][0], []string{}
	for _, d := range drvs {
		outs = append(outs, d[1])
	}
	slices.Sort(outs)

	if got, err := c.Invalid(ctx, outs); err != nil || !slices.Equal(got, outs) {
		t.Errorf("Invalid before the build: got %q, %v, want all", got, err)
	}
	var missing *InvalidPathsError
	if _, err := c.PathInfo(ctx, outs, true); !errors.As(err, &missing) || !slices.Equal(missing.Paths, outs) {
		t.Errorf("PathInfo before the build: got %v, want all paths to be missing", err)
	}
	if _, err := c.PathInfo(ctx, outs[:1], false); !errors.As(err, &missing) || len(missing.Paths) != 1 {
		t.Errorf("PathInfo before the build: got %v, want one path to be missing", err)
	}
	if err := c.Realise(ctx, []string{last}, RealiseOptions{MaxJobs: 1}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "building chain-2") {
		t.Errorf("the log has nothing of the builders: %s", log.String())
	}
	if got, err := c.Invalid(ctx, outs); err != nil || len(got) != 0 {
		t.Errorf("Invalid after the build: got %q, %v", got, err)
	}

	infos, err := c.PathInfo(ctx, []string{drvs[3][1], drvs[3][1]}, true)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range infos {
		got = append(got, i.Path)
		if !i.Ultimate || i.Deriver == "" || i.NarSize < 100 || time.Since(i.Registered) > time.Hour {
			t.Errorf("got %+v", i)
		}
		if want := e.Run(t, e.Dir, "nix-store", "--query", "--hash", i.Path); i.NarHash != want {
			t.Errorf("%s: got NAR hash %s, want %s", i.Path, i.NarHash, want)
		}
		if !slices.Contains(i.References, i.Path) {
			t.Errorf("%s refers to itself: got %q", i.Path, i.References)
		}
	}
	if !slices.Equal(got, outs) {
		t.Errorf("closure: got %q, want %q", got, outs)
	}
	if infos, err = c.PathInfo(ctx, outs[:1], false); err != nil || len(infos) != 1 {
		t.Errorf("one path: got %d, %v", len(infos), err)
	}
	// a .drv is a path like any other
	infos, err = c.PathInfo(ctx, []string{last}, true)
	if err != nil || !slices.ContainsFunc(infos, func(i PathInfo) bool { return i.Path == last && strings.HasPrefix(i.CA, "text:sha256:") }) {
		t.Errorf("of a .drv: got %+v, %v", infos, err)
	}

	var nar bytes.Buffer
	if err := c.Dump(ctx, outs[0], &nar); err != nil || !bytes.HasPrefix(nar.Bytes(), []byte("\x0d\x00\x00\x00\x00\x00\x00\x00nix-archive-1")) {
		t.Errorf("Dump: got %d bytes, %v", nar.Len(), err)
	}
	var failed *CommandError
	if err := c.Dump(ctx, e.Store+"/00000000000000000000000000000000-no", io.Discard); !errors.As(err, &failed) || failed.Message == "" {
		t.Errorf("Dump of nothing: got %v", err)
	}
	if _, err := c.Eval(ctx, `abort "by hand"`, EvalOptions{Quiet: true}); !errors.As(err, &failed) || !strings.Contains(failed.Message, "by hand") {
		t.Errorf("Eval of abort: got %v", err)
	}
	raw, err = c.Eval(ctx, `builtins.getEnv "NIXOCI_SECRET_FOR_TEST"`, EvalOptions{Impure: true})
	if err != nil || strings.TrimSpace(string(raw)) != `""` {
		t.Errorf("the evaluation sees %s, %v", raw, err)
	}
}

// One failing build does not keep the others from being built.
func TestRealiseKeepsGoing(t *testing.T) {
	e := nixtest.New(t)
	c := New(Options{Env: e.Vars, Stderr: nixtest.Log(t)})
	raw, err := c.Eval(t.Context(), `map (n: let d = derivation {
		name = n; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "case $name in bad*) exit 3;; esac; echo x > $out" ];
	}; in [ d.drvPath d.outPath ]) [ "bad1" "good1" "bad2" "good2" ]`, EvalOptions{Impure: true})
	if err != nil {
		t.Fatal(err)
	}
	var d [][2]string
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	err = c.Realise(t.Context(), []string{d[0][0], d[1][0] + "!out", d[2][0], d[3][0]}, RealiseOptions{KeepGoing: true})
	var failed *CommandError
	if !errors.As(err, &failed) || failed.Message == "" || failed.Exit <= 0 {
		t.Errorf("got %v, want Nix's error", err)
	}
	want := []string{d[0][1], d[2][1]}
	slices.Sort(want)
	if got, err := c.Invalid(t.Context(), []string{d[0][1], d[1][1], d[2][1], d[3][1]}); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v missing, want %q", got, err, want)
	}
}

// More roots than a command line holds, in one process.
func TestPathInfoOfManyRoots(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 6,000 store paths")
	}
	e := nixtest.New(t)
	const n = 6000
	c := New(Options{Env: e.Vars, Stderr: nixtest.Log(t)})
	raw, err := c.Eval(t.Context(), fmt.Sprintf(`builtins.genList (i: builtins.unsafeDiscardStringContext (builtins.toFile
		"a-file-with-a-rather-long-name-so-that-the-arguments-do-not-fit-${toString i}" "x")) %d`, n), EvalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	if err := json.Unmarshal(raw, &paths); err != nil {
		t.Fatal(err)
	}
	if len(batches(paths)) < 2 {
		t.Fatal("the paths fit a command line: make more")
	}
	for _, recursive := range []bool{true, false} {
		infos, err := c.PathInfo(t.Context(), paths, recursive)
		if err != nil || len(infos) != n {
			t.Fatalf("got %d paths, %v, want %d", len(infos), err, n)
		}
	}
	no := e.Store + "/00000000000000000000000000000000-no"
	var missing *InvalidPathsError
	if _, err := c.PathInfo(t.Context(), append(paths, no), true); !errors.As(err, &missing) || !slices.Equal(missing.Paths, []string{no}) {
		t.Errorf("got %v, want one missing path", err)
	}
}
