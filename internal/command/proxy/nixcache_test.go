package proxy

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/cli"
)

// A variable that is set and empty is no upstream, and not the default.
func TestNixcacheEmptyUpstream(t *testing.T) {
	t.Setenv("NIXCACHE_UPSTREAM", "")
	c, err := parseConfig(nil, env("HOME", "/home/u", "NIXCACHE_REPO", "o/r"))
	if err != nil || len(c.upstream) > 0 || !strings.Contains(c.understood, "--upstream none (NIXCACHE_UPSTREAM)") {
		t.Errorf("got %+v, %v", c, err)
	}
}

// What nixcache-oci's variables say counts where nobody says otherwise.
func TestNixcacheVariables(t *testing.T) {
	type row struct {
		name            string
		args, env       []string
		cache, listen   string
		upstream        string
		refresh         time.Duration
		said, notSaid   string // parts of what is told, separated by |
		err             string // parts, separated by |
		understoodEmpty bool
	}
	const own = "oci:/home/u/.local/share/nixoci/cache"
	for _, tc := range []row{
		{name: "none", cache: own, refresh: 5 * time.Minute, understoodEmpty: true},
		{
			name: "one line", env: []string{"NIXCACHE_REPO", "Own/Repo"},
			cache: "ghcr.io/own/repo/nix-cache", upstream: "https://cache.nixos.org", refresh: 5 * time.Minute,
			said: "--cache ghcr.io/own/repo/nix-cache (NIXCACHE_REPO)|--upstream https://cache.nixos.org (nixcache-oci's default)", notSaid: "--listen|--refresh",
		},
		{
			name: "all", env: []string{"NIXCACHE_REPO", "o/r", "NIXCACHE_REGISTRY", "localhost:5000", "NIXCACHE_LISTEN", "0.0.0.0", "NIXCACHE_PORT", "8080", "NIXCACHE_UPSTREAM", "https://a.example  https://b.example", "NIXCACHE_INDEX_TTL", "0060"},
			cache: "localhost:5000/o/r/nix-cache", listen: "0.0.0.0:8080", upstream: "https://a.example https://b.example", refresh: time.Minute,
			said: "--listen 0.0.0.0:8080 (NIXCACHE_LISTEN and NIXCACHE_PORT)|--upstream https://a.example https://b.example (NIXCACHE_UPSTREAM)|--refresh 60s (NIXCACHE_INDEX_TTL)",
		},
		{
			name: "port alone", env: []string{"NIXCACHE_PORT", "0"},
			cache: own, listen: "127.0.0.1:0", refresh: 5 * time.Minute, said: "--listen 127.0.0.1:0 (NIXCACHE_PORT)", notSaid: "--cache|--upstream",
		},
		{name: "address alone", env: []string{"NIXCACHE_LISTEN", "::1"}, cache: own, listen: "[::1]:37515", refresh: 5 * time.Minute, said: "(NIXCACHE_LISTEN)"},
		{
			name: "our variables win", env: []string{"NIXCACHE_REPO", "no slash", "NIXCACHE_PORT", "x", "NIXCACHE_INDEX_TTL", "x", "NIXOCI_CACHE", "oci:/c", "NIXOCI_LISTEN", "127.0.0.1:1", "NIXOCI_UPSTREAM", "none", "NIXOCI_REFRESH", "2m"},
			cache: "oci:/c", listen: "127.0.0.1:1", refresh: 2 * time.Minute, understoodEmpty: true,
		},
		{
			name: "flags win", args: []string{"--cache", "oci:/c", "--listen", "127.0.0.1:1", "--refresh", "2m"},
			env:   []string{"NIXCACHE_REPO", "o/r", "NIXCACHE_PORT", "2", "NIXCACHE_INDEX_TTL", "1", "NIXCACHE_UPSTREAM", "https://a.example"},
			cache: "oci:/c", listen: "127.0.0.1:1", upstream: "https://a.example", refresh: 2 * time.Minute, said: "(NIXCACHE_UPSTREAM)", notSaid: "NIXCACHE_REPO|NIXCACHE_PORT|NIXCACHE_INDEX_TTL",
		},
		{name: "unusable", env: []string{"NIXCACHE_REPO", "repo", "NIXCACHE_PORT", "http", "NIXCACHE_INDEX_TTL", "5m"}, err: `NIXCACHE_REPO "repo"|NIXCACHE_PORT "http"|NIXCACHE_INDEX_TTL "5m"`},
		{name: "at each request", env: []string{"NIXCACHE_INDEX_TTL", "0"}, cache: own, refresh: time.Second, said: "--refresh 1s (NIXCACHE_INDEX_TTL)"},
		{
			name: "no upstream", env: []string{"NIXCACHE_REPO", "o/r", "NIXCACHE_UPSTREAM", " "},
			cache: "ghcr.io/o/r/nix-cache", refresh: 5 * time.Minute, said: "--upstream none (NIXCACHE_UPSTREAM)",
		},
		{name: "three parts", env: []string{"NIXCACHE_REPO", "o/r/nix-cache"}, err: "OWNER/REPO"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := parseConfig(tc.args, env(append([]string{"HOME", "/home/u"}, tc.env...)...))
			if tc.err != "" {
				for _, part := range strings.Split(tc.err, "|") {
					if err == nil || !strings.Contains(err.Error(), part) {
						t.Errorf("got %v, want an error with %q", err, part)
					}
				}
				if status := cli.Report(t.Context(), err, env(), io.Discard, io.Discard); status != cli.ExitUsage {
					t.Errorf("got status %d, want %d", status, cli.ExitUsage)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if strings.Join(c.caches, " ") != tc.cache || strings.Join(c.listen, " ") != tc.listen || strings.Join(c.upstream, " ") != tc.upstream || c.refresh != tc.refresh {
				t.Errorf("got %+v", c)
			}
			for _, part := range strings.Split(tc.said, "|") {
				if !strings.Contains(c.understood, part) {
					t.Errorf("got %q, want %q in it", c.understood, part)
				}
			}
			for _, part := range strings.Split(tc.notSaid, "|") {
				if part != "" && strings.Contains(c.understood, part) {
					t.Errorf("got %q, with %q in it", c.understood, part)
				}
			}
			if (c.understood == "") != tc.understoodEmpty {
				t.Errorf("got %q", c.understood)
			}
		})
	}
}

// The help names them, and the start says once what was made of them.
func TestNixcacheVariablesAreTold(t *testing.T) {
	var help bytes.Buffer
	Run(t.Context(), []string{"--help"}, env("HOME", "/home/u"), nil, &help, io.Discard)
	for _, name := range []string{"NIXCACHE_REPO", "NIXCACHE_LISTEN", "NIXCACHE_PORT", "NIXCACHE_UPSTREAM", "NIXCACHE_INDEX_TTL"} {
		if !strings.Contains(help.String(), name) {
			t.Errorf("the help lacks %s", name)
		}
	}
	var stderr output
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan int, 1)
	var stdout output
	go func() {
		done <- Run(ctx, []string{"--cache", "oci:" + t.TempDir(), "--cache-dir", t.TempDir()}, env("NIXCACHE_PORT", "0"), nil, &stdout, &stderr)
	}()
	for deadline := time.Now().Add(20 * time.Second); stdout.String() == "" && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
	}
	stop()
	if status := <-done; status != cli.ExitDone {
		t.Errorf("got status %d: %s", status, stderr.String())
	}
	if got := strings.Count(stderr.String(), "understood of nixcache-oci's configuration: --listen 127.0.0.1:0 (NIXCACHE_PORT)\n"); got != 1 {
		t.Errorf("told %d times: %s", got, stderr.String())
	}
}
