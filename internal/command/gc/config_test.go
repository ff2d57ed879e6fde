package gc

import (
	"bytes"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/internal/cli"
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
	t.Parallel()
	home := []string{"HOME", "/home/u", "XDG_DATA_HOME", "/data"}
	with := func(change func(*config)) config {
		c := config{
			Cache: "oci:/data/nixoci/cache", Retention: 720 * time.Hour, KeepLast: 1, PRRetention: 168 * time.Hour, Delay: 24 * time.Hour,
			CacheDir: "/home/u/.cache/nixoci",
		}
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
		{name: "defaults", want: with(func(*config) {})},
		{
			name: "in Actions", env: []string{"GITHUB_ACTIONS", "true", "GITHUB_REPOSITORY", "Own/Repo"},
			want: with(func(c *config) { c.Cache = "ghcr.io/own/repo/nix-cache" }),
		},
		{
			name: "flags before environment",
			args: []string{"--cache", "localhost:5000/x", "--retention", "P14D", "--keep-last", "0", "--branch", "main", "--branch", "release/*", "--dry-run", "--unpin", "a"},
			env:  []string{"NIXOCI_CACHE", "oci:/c", "NIXOCI_RETENTION", "1d", "NIXOCI_KEEP_LAST", "9", "NIXOCI_BRANCH", "x", "NIXOCI_DELAY", "2d", "NIXOCI_PR_RETENTION", "12h", "NIXOCI_UNPIN", "b"},
			want: with(func(c *config) {
				c.Cache, c.Retention, c.KeepLast, c.Branches, c.DryRun = "localhost:5000/x", 336*time.Hour, 0, []string{"main", "release/*"}, true
				c.Delay, c.PRRetention, c.Unpin = 48*time.Hour, 12*time.Hour, []string{"a"}
			}),
		},
		{
			name: "a flake", args: []string{"--flake", "./config", "--system", "x86_64-linux", "--kinds", "packages,checks", "--include", "a.*", "--exclude", "b", "--json", "--verbose", "--cache-dir", "/x"},
			env: []string{"NIXOCI_SYSTEM", "no"},
			want: with(func(c *config) {
				c.Flake, c.Systems, c.Kinds = "./config", []string{"x86_64-linux"}, []discover.Kind{discover.Packages, discover.Checks}
				c.Include, c.Exclude, c.JSON, c.Verbose, c.CacheDir = []string{"a.*"}, []string{"b"}, true, true, "/x"
			}),
		},
		{name: "arguments", args: []string{"x"}, err: `unexpected argument "x"`},
		{
			name: "all that is wrong at once",
			args: []string{"--cache", "nowhere", "--keep-last", "-1", "--branch", "[", "--kinds", "bundles"},
			err:  "nowhere|--keep-last -1|--branch \"[\"|bundles",
		},
		{name: "a month", args: []string{"--retention", "P1M"}, err: "months or years"},
		{name: "no delay", args: []string{"--delay", "-1h"}, err: "-1h"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
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

func TestHelp(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	if status := Run(t.Context(), []string{"--help"}, env("HOME", "/home/u"), nil, &stdout, &stderr); status != cli.ExitDone || stderr.Len() > 0 {
		t.Errorf("got status %d and %q", status, stderr.String())
	}
	for _, part := range []string{
		"Usage: nixoci gc [flags]", "--keep-last NUMBER", "(repeatable) [NIXOCI_BRANCH]", "[NIXOCI_RETENTION] (default 30d)", "[NIXOCI_PR_RETENTION] (default 7d)",
		"[NIXOCI_DELAY] (default 1d)", "--unpin NAME", "3    partly done: the cache index is pruned", "GITHUB_TOKEN",
	} {
		if !strings.Contains(strings.Join(strings.Fields(stdout.String()), " "), strings.Join(strings.Fields(part), " ")) {
			t.Errorf("the help has no %q:\n%s", part, stdout.String())
		}
	}
}
