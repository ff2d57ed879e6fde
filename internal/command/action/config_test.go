package action

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/cli"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := len(pairs) - 2; i >= 0; i -= 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	actions := []string{"GITHUB_ACTIONS", "true", "GITHUB_REPOSITORY", "Own/Repo", "HOME", "/h"}
	c, err := parseConfig(env(actions...))
	if err != nil || c.cache() != "ghcr.io/own/repo/nix-cache" || c.dryRun || c.gc || c.warn || !c.summary || c.deadline != 0 || c.text["token"] != "" {
		t.Errorf("without inputs: got %+v, %v", c, err)
	}
	c, err = parseConfig(env(append(actions, "NIXOCI_CACHE", "localhost:1/a", "INPUT_DRY-RUN", "true", "INPUT_ON-ERROR", "warn", "INPUT_DEADLINE", "1h30m", "INPUT_SUMMARY", "false")...))
	if err != nil || c.cache() != "localhost:1/a" || !c.dryRun || !c.warn || c.summary || c.deadline != 90*time.Minute {
		t.Errorf("got %+v, %v", c, err)
	}
	_, err = parseConfig(env(append(actions, "INPUT_CACHE", "nowhere", "INPUT_GC", "perhaps", "INPUT_ON-ERROR", "ignore", "INPUT_DEADLINE", "soon", "INPUT_RETENTION-DAYS", "-1",
		"INPUT_MATRIX", "true", "INPUT_PART", "{}")...))
	for _, part := range []string{"input matrix: \"true\"", "input part: it needs the input flake", "nowhere", "input gc", "input on-error", "input deadline", "input retention-days"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want an error with %q", err, part)
		}
	}
	if status := cli.Report(context.Background(), err, env(), io.Discard, io.Discard); status != cli.ExitUsage {
		t.Errorf("got status %d, want %d", status, cli.ExitUsage)
	}
}

// The nixConfig of somebody else's flake is never used, whatever the workflow and
// nix.conf say.
func TestDistrust(t *testing.T) {
	t.Parallel()
	c, err := parseConfig(env("GITHUB_ACTIONS", "true", "HOME", "/h", "INPUT_CACHE", "ghcr.io/o/r", "INPUT_ACCEPT-FLAKE-CONFIG", "true"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"true", "false"} {
		got := c.environ(publishCommand, []string{"NIXOCI_ACCEPT_FLAKE_CONFIG=true"})
		if !slices.Contains(got, "NIXOCI_ACCEPT_FLAKE_CONFIG="+want) || want == "false" && slices.Index(got, "NIXOCI_ACCEPT_FLAKE_CONFIG=false") < slices.Index(got, "NIXOCI_ACCEPT_FLAKE_CONFIG=true") {
			t.Errorf("got %q, want %s, and last", got, want)
		}
		if refuses := slices.Contains(got, "NIXOCI_NIX_ARG=--option\naccept-flake-config\nfalse\n"); refuses != (want == "false") {
			t.Errorf("got %q", got)
		}
		c.distrust()
	}
}

// A command gets the inputs that are for it, and no secret that is not.
func TestEnviron(t *testing.T) {
	t.Parallel()
	all := []string{"GITHUB_ACTIONS", "true", "HOME", "/h", "INPUT_FLAKE", ".", "INPUT_TOKEN", "t0ken", "INPUT_SIGNING-KEY", "k3y", "INPUT_INCLUDE", "a b\nc", "INPUT_EXTRA-NIX-ARGS", "--option  cores 2", "INPUT_RETENTION-DAYS", "7"}
	for _, tc := range []struct {
		command, cache, user string
		want, lacks          []string
	}{
		{publishCommand, "ghcr.io/o/r", "", []string{"NIXOCI_FLAKE=.", "NIXOCI_INCLUDE=a b\nc\n", "NIXOCI_NIX_ARG=--option\ncores\n2\n", "NIX_SIGNING_KEY=k3y", "GITHUB_TOKEN=t0ken", "X=y", "NIXOCI_VERBOSE=true"}, []string{"INPUT_", "NIXOCI_PASSWORD", "NIXOCI_FLAKE=before"}},
		{publishCommand, "https://ghcr.io/o/r", "", []string{"GITHUB_TOKEN=t0ken"}, nil},
		{publishCommand, "localhost:1/o/r", "", nil, []string{"t0ken"}},
		{publishCommand, "ghcr.io.example.org/o/r", "", nil, []string{"t0ken"}},
		{publishCommand, "localhost:1/o/r", "me", []string{"NIXOCI_USERNAME=me", "NIXOCI_PASSWORD=t0ken"}, []string{"GITHUB_TOKEN"}},
		{publishCommand, "git.example.org/o/r", "", []string{"GITHUB_TOKEN=t0ken"}, nil},
		{publishCommand, "http://git.example.org/o/r", "", nil, []string{"t0ken"}},
		{publishCommand, "ghcr.io/git.example.org/r", "", nil, []string{"t0ken"}},
		{proxyCommand, "ghcr.io/o/r", "", []string{"NIXOCI_CACHE=ghcr.io/o/r", "GITHUB_TOKEN=t0ken"}, []string{"k3y", "NIXOCI_FLAKE", "NIXOCI_UPSTREAM"}},
		{gcCommand, "ghcr.io/o/r", "", []string{"NIXOCI_RETENTION=7d", "NIXOCI_KEEP_LAST=1", "NIXOCI_FLAKE=."}, []string{"k3y"}},
	} {
		vars := append(all, "INPUT_CACHE", tc.cache, "INPUT_USERNAME", tc.user)
		if strings.Contains(tc.cache, "git.example.org") {
			vars = append(vars, "GITEA_ACTIONS", "true", "GITHUB_SERVER_URL", "https://git.example.org")
		}
		c, err := parseConfig(env(vars...))
		if err != nil {
			t.Fatal(err)
		}
		got := c.environ(tc.command, []string{"X=y", "RUNNER_DEBUG=1", "INPUT_TOKEN=t0ken", "INPUT_SIGNING-KEY=k3y", "NIXOCI_FLAKE=before"})
		for _, want := range tc.want {
			if !slices.Contains(got, want) {
				t.Errorf("%s of %s: got %q, want %q in it", tc.command, tc.cache, got, want)
			}
		}
		for _, bad := range tc.lacks {
			if strings.Contains(strings.Join(got, "\x00"), bad) {
				t.Errorf("%s of %s: got %q, which has %q", tc.command, tc.cache, got, bad)
			}
		}
	}
}
