package e2e

import (
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registrytest"
)

// gitlab runs the script of the documented job as GitLab's runner does: with sh,
// which ends at the first failure, and GitLab's variables. Imitated are the
// variables, and the download of the release; the registry has the job's login.
type gitlab struct {
	*world
	script, image string
	vars          map[string]string
}

func newGitLab(t *testing.T) *gitlab {
	w := newWorld(t)
	if _, err := exec.LookPath("curl"); err != nil {
		registrytest.Missing(w, "curl is not installed (on Debian: apt-get install curl)")
	}
	archive, err := release()
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/org/nixoci-action/releases/download/v1.0.0/nixoci-linux-amd64.tar.gz" {
			http.NotFound(rw, r)
			return
		}
		_, _ = rw.Write(archive)
	}))
	t.Cleanup(s.Close)
	repo := filepath.Join(w.Dir, "repo")
	nixtest.Write(t, w.Dir, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})), "repo/flake.nix", flakeText(t.Name(), ""))
	w.Git(t, repo)

	_, lines, ok := strings.Cut(documented(t, "docs/ci.md", "## GitLab CI"), "  script:\n")
	if !ok {
		t.Fatal("the documented job has no script")
	}
	var script strings.Builder
	for line := range strings.Lines(lines) {
		script.WriteString(strings.TrimPrefix(line, "    - "))
	}
	image := registrytest.NewLockedGitLab(t).Addr + "/group/project"
	return &gitlab{world: w, image: image, script: strings.ReplaceAll(script.String(), "https://github.com", s.URL), vars: map[string]string{
		"VERSION": "v1.0.0", "SHA256": fmt.Sprintf("%x", sha256.Sum256(archive)), "CURL_CA_BUNDLE": filepath.Join(w.Dir, "cert.pem"),
		"CI": "true", "GITLAB_CI": "true", "CI_SERVER_URL": "https://gitlab.example.org", "CI_PROJECT_DIR": repo, "CI_PROJECT_PATH": "Group/Project",
		"CI_REGISTRY": strings.TrimSuffix(image, "/group/project"), "CI_REGISTRY_IMAGE": image, "CI_REGISTRY_USER": registrytest.LockedUser, "CI_REGISTRY_PASSWORD": registrytest.LockedPassword,
		"CI_JOB_TOKEN": "job-t0ken", "CI_REPOSITORY_URL": "https://gitlab-ci-token:job-t0ken@gitlab.example.org/Group/Project.git",
		"CI_COMMIT_SHA": "0123456789abcdef0123456789abcdef01234567", "CI_JOB_NAME": "publish", "CI_JOB_URL": "https://gitlab.example.org/Group/Project/-/jobs/7",
		"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_REF_NAME": "main", "CI_COMMIT_BRANCH": "main", "CI_COMMIT_REF_SLUG": "main",
		// the store is not /nix/store, and no cache of the test's is on the network
		"NIXOCI_UPSTREAM": "none",
	}}
}

// run runs the script with some variables changed, and returns its log.
func (g *gitlab) run(code int, changed map[string]string) string {
	g.Helper()
	vars := maps.Clone(g.vars)
	maps.Copy(vars, changed)
	cmd := exec.CommandContext(g.Context(), "sh", "-e", "-c", g.script)
	cmd.Dir = g.vars["CI_PROJECT_DIR"]
	cmd.Env = append(slices.Clone(g.Vars), "GORACE=halt_on_error=1")
	for k, v := range vars {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGQUIT) }
	cmd.WaitDelay = 10 * time.Second
	timer := time.AfterFunc(limit, func() { _ = cmd.Cancel() })
	defer timer.Stop()
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
		g.Fatalf("the script ended with %v, want %d:\n%s", err, code, out)
	}
	for _, secret := range []string{registrytest.LockedPassword, "job-t0ken"} {
		if strings.Contains(string(out), secret) {
			g.Errorf("the log has a secret:\n%s", out)
		}
	}
	return string(out)
}

func TestGitLabPublishes(t *testing.T) {
	t.Parallel()
	g := newGitLab(t)
	if log := g.run(0, nil); !strings.Contains(log, "outputs: 8 found, 8 built") {
		t.Errorf("got the log\n%s", log)
	}
	merge := map[string]string{
		"CI_PIPELINE_SOURCE": "merge_request_event", "CI_MERGE_REQUEST_IID": "12", "CI_COMMIT_REF_NAME": "feature", "CI_COMMIT_BRANCH": "", "CI_MERGE_REQUEST_REF_PATH": "refs/merge-requests/12/head",
		"CI_JOB_URL": "https://gitlab.example.org/Group/Project/-/jobs/8",
	}
	change := func(tweak string) {
		nixtest.Write(t, g.vars["CI_PROJECT_DIR"], "flake.nix", flakeText(t.Name(), tweak))
	}
	change("merge")
	g.run(0, merge)
	change("tag")
	g.run(0, map[string]string{"CI_COMMIT_TAG": "v1.2", "CI_COMMIT_REF_NAME": "v1.2", "CI_COMMIT_BRANCH": "", "CI_JOB_URL": "https://gitlab.example.org/Group/Project/-/jobs/9"})

	// gc goes by what they have recorded
	g.Vars = append(g.Vars, "GITLAB_CI=true", "CI_REGISTRY_IMAGE="+g.image, "CI_REGISTRY_USER="+registrytest.LockedUser, "CI_REGISTRY_PASSWORD="+registrytest.LockedPassword)
	cmd := g.command("gc", "--dry-run", "--pr-retention", "0s", "--delay", "0s")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("gc: %v\n%s", err, out)
	}
	for _, want := range []string{g.image + "/nix-cache", "newest of main", "tag v1.2", "merge request 12"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("gc lacks %q:\n%s", want, out)
		}
	}
	var pubs []string
	for _, p := range publications(t, g.image+"/nix-cache", registrytest.Locked{}) {
		pubs = append(pubs, p.Ref+" "+p.RunURL)
	}
	want := []string{
		"refs/heads/main https://gitlab.example.org/Group/Project/-/jobs/7",
		"refs/merge-requests/12/head https://gitlab.example.org/Group/Project/-/jobs/8",
		"refs/tags/v1.2 https://gitlab.example.org/Group/Project/-/jobs/9",
	}
	if !slices.Equal(pubs, want) {
		t.Errorf("got the publications %q, want %q", pubs, want)
	}
}

// A job whose login is refused ends before it builds, with what to do.
func TestGitLabRefused(t *testing.T) {
	t.Parallel()
	g := newGitLab(t)
	log := g.run(1, map[string]string{"CI_REGISTRY_PASSWORD": "expired"})
	for _, want := range []string{"UNAUTHORIZED", "hint: CI_REGISTRY_PASSWORD is valid for this project's registry, while the job runs"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	if strings.Contains(log, "building '") {
		t.Errorf("something was built:\n%s", log)
	}
	// the project has no registry
	if log := g.run(2, map[string]string{"CI_REGISTRY_IMAGE": ""}); !strings.Contains(log, "container registry enabled") {
		t.Errorf("got the log\n%s", log)
	}
}
