package e2e

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/docstest"
	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registrytest"
)

// Of a documented command the longest beginning counts that is in one of these.

// executed begin the commands that TestDocumentedCommandsWork runs.
var executed = []string{
	"nixoci publish", "nixoci proxy", "nixoci gc", "nixoci inspect", "nix-build | nixoci publish -", "go run ./cmd/nixoci inspect", "nix run github:org/nixoci-action -- ",
	"nix copy --to 'http://127.0.0.1:37515", "nix store copy-log --to http://127.0.0.1:37515", "nix log .#hello", "curl http://127.0.0.1:37515/", "curl -X POST http://127.0.0.1:37515/",
	"(umask 077; mkdir -p ~/.config/nixoci\n nix-store --generate-binary-cache-key", "(umask 077; openssl rand",
	"sudo install ", "echo NIXOCI_CACHE=", "go version -m bin/nixoci",
}

// elsewhere begin the commands that a test, or a file that CI runs, has.
var elsewhere = map[string]string{
	"nixoci publish --import-oranc":      "internal/e2e/TestImportsOranc",
	"nixoci publish --matrix":            "internal/e2e/TestMatrix",
	"nixoci publish --part":              "internal/e2e/TestMatrix",
	"nixoci action ":                     "internal/e2e/TestActionPublishes",
	"nixoci sign --report":               "internal/e2e/TestTrustSplit",
	`cp "${{ steps.cache.outputs.report`: "internal/e2e/TestTrustSplitInActions",
	"nixoci keys ":                       "internal/e2e/TestKeys",
	"curl -fsSLo nixoci.tar.gz":          "internal/e2e/TestGitLabPublishes",
	`echo "$SHA256  nixoci.tar.gz"`:      "internal/e2e/TestGitLabPublishes",
	"tar -xzf nixoci.tar.gz":             "internal/e2e/TestGitLabPublishes",
	"./nixoci publish":                   "internal/e2e/TestGitLabPublishes",
	"docker run ":                        "internal/e2e/TestContainerImage",
	"nix flake init -t":                  "internal/e2e/TestTemplate",
	"scripts/nix-root --run sid":         "internal/e2e/TestEveryVersionOfNix",
	"scripts/with-nix scripts/nix-root":  "scripts/test",
	"go test ./...":                      ".github/workflows/ci.yml",
	"go test ":                           "internal/command/TestDocumentedTests",
	"make bench":                         "internal/bench/TestRun",
	"make image":                         "internal/image/TestImage",
	"make test":                          ".ci/run",
	"make build":                         ".github/workflows/ci.yml",
	"make demo":                          ".github/workflows/ci.yml",
	"make lint":                          ".github/workflows/ci.yml",
	"make vuln":                          ".github/workflows/ci.yml",
}

// impossible begin the commands that cannot run here, with the reason.
var impossible = map[string]string{
	"make check":               "takes minutes, and does a part of make test",
	"make conformance":         "takes minutes, and does a part of make test with another registry",
	"make torture":             "takes more than an hour; make test has a sample of each part",
	"make fuzz":                "takes ten seconds for each target; their seeds are tests",
	"scripts/release tag":      "builds a release, and tags a commit",
	"git push":                 "pushes to GitHub",
	"git add -A && git commit": "pushes to GitHub",
	"gh secret set":            "writes to GitHub",
	"gh api":                   "reads from GitHub",
	"gh attestation verify":    "reads from GitHub",
	"P=users/OWNER":            "is for the GitHub API",
	"while read -r id":         "deletes on GitHub",
	"ORANC=":                   "is for crane",
	"crane ":                   "needs crane, which is another project's program",
	"nix flake lock":           "fetches nixpkgs from GitHub",
	"sudo systemctl enable":    "starts services of the machine; TestSocketActivation has a systemd of its own",
}

// beginnings are those of all lists, the longest first.
func beginnings() []string {
	all := slices.Concat(executed, slices.Collect(maps.Keys(elsewhere)), slices.Collect(maps.Keys(impossible)))
	slices.SortFunc(all, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return all
}

// eachDocumented calls f with each documented command, once, in the order of the
// pages, and with its beginning in the lists, "" if it is in none.
func eachDocumented(t *testing.T, f func(page, command, beginning string)) {
	t.Helper()
	all, pages, seen := append(beginnings(), ""), docstest.Pages(t), map[string]bool{}
	for _, page := range slices.Sorted(maps.Keys(pages)) {
		for _, command := range docstest.Commands(t, pages[page]) {
			if !seen[command] {
				seen[command] = true
				f(page, command, all[slices.IndexFunc(all, func(b string) bool { return strings.HasPrefix(command, b) })])
			}
		}
	}
}

// Each documented command is run by a test, or stands in the list of those that
// cannot run.
func TestDocumentedCommandsAreTested(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	eachDocumented(t, func(page, command, beginning string) {
		if beginning == "" {
			t.Errorf("%s has a command that is in no list of internal/e2e/docs_test.go: %s", page, command)
		}
		used[beginning] = true
		where, ok := elsewhere[beginning]
		if !ok {
			return
		}
		dir, name := filepath.Split(where)
		if text, err := os.ReadFile(filepath.Join("../..", where)); err == nil {
			words := strings.Replace(regexp.QuoteMeta(strings.TrimPrefix(beginning, "scripts/with-nix ")), "go test ", "go test .*", 1)
			if !regexp.MustCompile(words).Match(text) {
				t.Errorf("%s does not run %s", where, beginning)
			}
		} else if !docstest.HasTest(t, dir, name+`\(`) {
			t.Errorf("there is no %s in %s for %s", name, dir, beginning)
		}
	})
	for _, b := range beginnings() {
		if !used[b] {
			t.Errorf("no page has a command that begins with %q: remove it from the list", b)
		}
	}
}

// The documented commands do what they are for, one after the other, with the
// example flake and a registry on this machine.
func TestDocumentedCommandsWork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, program := range []string{"curl", "openssl"} {
		w.Program(t, program)
	}
	w.addConf("experimental-features = nix-command flakes\n")
	registry := registrytest.NewDistribution(t).Addr
	repo := filepath.Join(w.Dir, "repo")
	if err := os.CopyFS(repo, os.DirFS("../../config")); err != nil {
		t.Fatal(err)
	}
	nixtest.Write(t, repo, "default.nix", `derivation { name = "x"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }`)
	w.Git(t, repo)
	root := filepath.Join(w.Dir, "root") // where "sudo" installs
	for name, target := range map[string]string{"bin": bin, "contrib": "../../contrib"} {
		if target, err := filepath.Abs(target); err != nil || os.Symlink(target, filepath.Join(repo, name)) != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "usr/local/bin"), 0o755); err != nil {
		t.Fatal(err)
	}

	var serving *daemon // the proxy that was started last
	address := ""
	stop := func() {
		if serving != nil {
			serving.stop()
		}
	}
	eachDocumented(t, func(page, command, beginning string) {
		if !slices.Contains(executed, beginning) || t.Failed() {
			return
		}
		// what a reader replaces, and what keeps the test on this machine
		text := strings.NewReplacer(
			"ghcr.io/OWNER/REPO", registry+"/owner/repo", "ghcr.io/TEAM/REPO", registry+"/team/repo", "ghcr.io/my-org", registry+"/my-org",
			"--listen 0.0.0.0:37515", "--listen 127.0.0.1:0", "127.0.0.1:37515", address,
			"nix run github:org/nixoci-action --", "nixoci",
			"nix store copy-log ", "nix store copy-log --netrc-file netrc ", // the proxy of that time wants a token
			"go run ./cmd/nixoci inspect", "nixoci inspect --cache "+registry+"/owner/repo/nix-cache", // a job's cache has its repository's name
			"nixoci publish -\n", "nixoci publish - --cache "+registry+"/owner/repo/nix-cache",
			"curl ", "curl -fsS ",
			"/4cggaifbp1fc8zhsdrk9pzi45ifqk6i6.ls", "/$(nix eval --raw .#hello.outPath | sed 's|.*/||; s|-.*||').ls",
			"sudo ", "", " /usr/", " "+root+"/usr/", " /etc/", " "+root+"/etc/",
		).Replace(command + "\n")
		proxy := strings.HasPrefix(text, "nixoci proxy ")
		if proxy {
			text = "exec " + strings.TrimSuffix(text, " &\n")
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		cmd := exec.CommandContext(ctx, "sh", "-e", "-c", text)
		cmd.WaitDelay = 10 * time.Second
		cmd.Dir = repo
		cmd.Env = append(slices.Clone(w.Vars), "PATH="+bin+":"+os.Getenv("PATH"), "RUNNER_TEMP="+w.TempDir(), "NIXOCI_UPSTREAM=none", "NIXOCI_LISTEN=127.0.0.1:0", "GORACE=halt_on_error=1")
		if proxy {
			stop()
			t.Cleanup(cancel)
			serving = launchProxy(t, cmd)
			address = regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(serving.url())
			resp, err := http.Get("http://" + address + "/healthz")
			if err != nil {
				t.Fatalf("%s: %s: %v", page, text, err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("%s: %s: /healthz says %s", page, text, resp.Status)
			}
			return
		}
		defer cancel()
		copies := strings.HasPrefix(text, "nix copy ")
		if copies { // something new, with the newest token
			_ = os.Remove(filepath.Join(repo, "result"))
			if err := os.Symlink(w.add("pushed", command)[0], filepath.Join(repo, "result")); err != nil {
				t.Fatal(err)
			}
			token, _ := os.ReadFile(filepath.Join(w.Dir, "home/.config/nixoci/push-tokens"))
			nixtest.Write(t, repo, "netrc", "machine 127.0.0.1 login any password "+string(token))
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %s: %v\n%s", page, text, err, out)
		} else if copies && w.pushStatus("http://"+address).Pushed.Paths != 1 {
			t.Errorf("%s: %s: nothing was pushed:\n%s", page, text, out)
		}
	})
	stop()
}
