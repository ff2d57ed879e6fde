package e2e

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registrytest"
)

// What stands in for the actions and the program of GitHub's that the workflow of
// a release uses: artifacts and releases are folders, and of an attestation what
// it is about is written down.
var releaseStubs = map[string]string{
	"actions/setup-go":          `go version`,
	"actions/upload-artifact":   `mkdir -p "$RELEASE/artifacts" && cp -R "$INPUT_PATH" "$RELEASE/artifacts/$INPUT_NAME"`,
	"actions/download-artifact": `rm -rf "$INPUT_PATH" && cp -R "$RELEASE/artifacts/$INPUT_NAME" "$INPUT_PATH"`,
	"actions/attest-build-provenance": `if [ "$INPUT_SUBJECT_NAME" ]; then echo "$INPUT_SUBJECT_NAME@$INPUT_SUBJECT_DIGEST"; else sha256sum $INPUT_SUBJECT_PATH; fi >> "$RELEASE/attested"
`,
}

const ghStub = `#!/bin/bash
set -euo pipefail
echo "$@" >> "$RELEASE/gh.log"
files="$RELEASE/public/org/nixoci-action/releases/download/$3"
case "$1 $2" in
"release view") test -d "$files" ;;
"release create") mkdir -p "$files" ;;
"release upload") shift 3; for f; do case $f in -*) ;; *) cp "$f" "$files" ;; esac; done ;;
*) exit 1 ;;
esac
`

// The whole way of a release: its tag, the workflow that builds it again and
// releases it, the tag v1, the image, and a job that uses v1. Only what GitHub
// itself does is imitated.
func TestReleaseWay(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it builds the program for every platform")
	}
	w := newWorld(t)
	work, origin, state := filepath.Join(w.Dir, "work"), filepath.Join(w.Dir, "origin.git"), filepath.Join(w.Dir, "release")
	downloads := httptest.NewTLSServer(http.FileServer(http.Dir(filepath.Join(state, "public"))))
	t.Cleanup(downloads.Close)
	image := registrytest.NewDistribution(t).Addr + "/org/nixoci-action/proxy"
	for _, v := range []string{"GOMODCACHE", "GOCACHE", "GOVERSION"} {
		out, err := exec.Command("go", "env", v).Output()
		if err != nil {
			t.Fatal(err)
		}
		if v == "GOVERSION" {
			v = "GOTOOLCHAIN"
		}
		w.Vars = append(w.Vars, v+"="+strings.TrimSpace(string(out)))
	}
	w.Vars = append(w.Vars, "RELEASE="+state, "IMAGE="+image, "GITHUB_SERVER_URL="+downloads.URL, "GITHUB_REPOSITORY=org/nixoci-action",
		"PATH="+filepath.Join(w.Dir, "stubs")+":"+os.Getenv("PATH"))
	nixtest.Write(t, w.Dir, "stubs/gh", ghStub, "release/attested", "", "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: downloads.Certificate().Raw})))
	if err := os.Chmod(filepath.Join(w.Dir, "stubs/gh"), 0o755); err != nil {
		t.Fatal(err)
	}

	// main, as it is here
	files, err := exec.Command("git", "-C", "../..", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Fatal(err)
	}
	copied := exec.Command("tar", "-C", "../..", "--null", "--ignore-failed-read", "-T", "-", "-cf", filepath.Join(w.Dir, "main.tar"))
	copied.Stdin = bytes.NewReader(files)
	if out, err := copied.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	w.Env.Run(t, work, "tar", "-xf", filepath.Join(w.Dir, "main.tar"))
	w.Git(t, work)
	w.Env.Run(t, w.Dir, "git", "clone", "-q", "--bare", work, origin)
	w.Env.Run(t, work, "git", "remote", "add", "origin", origin)
	rev := func(dir, name string) string {
		t.Helper()
		return strings.TrimSpace(w.Env.Run(t, dir, "git", "rev-parse", name+"^{commit}"))
	}
	head := rev(work, "HEAD")

	release := func(args ...string) (string, error) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "scripts/release", args...)
		cmd.Dir, cmd.Env = work, w.Vars
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := release("check", "v1.2.3"); err == nil || !strings.Contains(out, "launch/release.json has no checksums") {
		t.Errorf("a check of main: got %v\n%s", err, out)
	}
	if out, err := release("tag", "v1.2.3"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if now, parent := rev(work, "HEAD"), rev(work, "v1.2.3~"); now != head || parent != head {
		t.Errorf("main is at %s, the tag beside %s, want %s", now, parent, head)
	}
	w.Env.Run(t, work, "git", "push", "-q", "origin", "v1.2.3")

	// what GitHub does then, from a checkout of its own
	run := func(tag string) *job {
		t.Helper()
		dir := filepath.Join(w.Dir, "checkout-"+tag)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		w.Env.Run(t, w.Dir, "git", "clone", "-q", "--branch", tag, origin, dir)
		text, err := os.ReadFile(filepath.Join(dir, ".github/workflows/release.yml"))
		if err != nil {
			t.Fatal(err)
		}
		args := []string{"push", "-W", ".github/workflows/release.yml", "-P", "ubuntu-24.04=-self-hosted", "--eventpath", filepath.Join(w.Dir, "event.json"),
			"--github-instance", strings.TrimPrefix(downloads.URL, "https://"), "--env", "GITHUB_REPOSITORY=org/nixoci-action", "-s", "GITHUB_TOKEN=a-token-of-the-job"}
		nixtest.Write(t, w.Dir, "event.json", `{"ref": "refs/tags/`+tag+`"}`, "home/.config/act/actrc", "")
		for _, m := range regexp.MustCompile(`(actions/([\w-]+))@[0-9a-f]{40}`).FindAllStringSubmatch(string(text), -1) {
			script, ok := releaseStubs[m[1]]
			if !ok {
				continue // act knows it
			}
			action, env := "name: x\ninputs: {", ""
			for _, input := range []string{"path", "name", "subject-path", "subject-name", "subject-digest"} {
				action += input + ": {default: ''}, "
				env += "INPUT_" + strings.ToUpper(strings.ReplaceAll(input, "-", "_")) + ": '${{ inputs." + input + " }}', "
			}
			script, _ = strings.CutSuffix(script, "\n")
			quoted, err := json.Marshal("set -eu\n" + script)
			if err != nil {
				t.Fatal(err)
			}
			stub := filepath.Join(w.Dir, "stubs", m[2])
			nixtest.Write(t, stub, "action.yml", action+"}\nruns: {using: composite, steps: [{shell: bash, run: "+string(quoted)+", env: {"+env+"}}]}\n")
			args = append(args, "--local-repository", m[0]+"="+stub)
		}
		cmd := exec.CommandContext(t.Context(), "act", args...)
		cmd.Dir, cmd.Env = dir, append(append([]string{}, w.Vars...), "XDG_CONFIG_HOME="+w.Dir+"/home/.config")
		return w.runAct(cmd)
	}
	if _, err := exec.LookPath("act"); err != nil {
		registrytest.Missing(t, "act is not installed (make test installs it)")
	}
	run("v1.2.3").wants(0)
	if moved, want := rev(origin, "v1"), rev(origin, "v1.2.3"); moved != want {
		t.Errorf("v1 is at %s, v1.2.3 at %s", moved, want)
	}
	folder := filepath.Join(state, "public/org/nixoci-action/releases/download/v1.2.3")
	w.Env.Run(t, folder, "sha256sum", "--check", "--strict", "SHA256SUMS")
	attested, err := os.ReadFile(filepath.Join(state, "attested"))
	if err != nil {
		t.Fatal(err)
	}
	sbom, err := os.ReadFile(filepath.Join(folder, "nixoci.cdx.json"))
	if err != nil || !strings.Contains(string(sbom), "pkg:golang/github.com/google/go-containerregistry@") || !strings.Contains(string(attested), "dist/nixoci.cdx.json") {
		t.Errorf("the SBOM is of %d bytes, %v; attested is\n%s", len(sbom), err, attested)
	}
	digests := map[string]bool{}
	for _, tag := range []string{"v1.2.3", "v1"} {
		ref, err := name.ParseReference(image + ":" + tag)
		if err != nil {
			t.Fatal(err)
		}
		d, err := remote.Get(ref)
		if err != nil {
			t.Fatal(err)
		}
		digests[d.Digest.String()] = true
		if !strings.Contains(string(attested), "ghcr.io/org/nixoci-action/proxy@"+d.Digest.String()) {
			t.Errorf("the image %s is not what is attested: %s", d.Digest, attested)
		}
	}
	if len(digests) != 1 || strings.Count(string(attested), ".tar.gz") != 4 {
		t.Errorf("got the images %v, attested is\n%s", digests, attested)
	}

	// who uses v1 gets the program of the release
	w.Env.Run(t, w.Dir, "git", "clone", "-q", "--branch", "v1", origin, filepath.Join(w.Dir, "action"))
	w.downloads = func() int { return 0 } // the action is there
	w.jobEnv = append(w.jobEnv, "NODE_EXTRA_CA_CERTS="+filepath.Join(w.Dir, "cert.pem"))
	w.inStore(inDistribution(t))
	nixtest.Write(t, w.Dir, "repo/flake.nix", flakeText(t.Name(), ""))
	w.act(documented(t, "README.md", "# nixoci-action")).wants(0, "downloading "+downloads.URL+"/org/nixoci-action/releases/download/v1.2.3/", "8 outputs published")

	// an older release does not take v1 back
	w.Env.Run(t, origin, "git", "tag", "v1.3.0", "main")
	if out, err := release("major", "v1.2.3"); err != nil || !strings.Contains(out, "v1 stays: its newest release is v1.3.0") {
		t.Errorf("got %v\n%s", err, out)
	}
	log, err := os.ReadFile(filepath.Join(state, "gh.log"))
	if err != nil || strings.Count(string(log), "release create v1.2.3 --verify-tag") != 1 {
		t.Errorf("got the calls %q of gh, %v", log, err)
	}
}
