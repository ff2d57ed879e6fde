package publish

import (
	"strings"
	"testing"

	"github.com/org/nixoci-action/discover"
	"github.com/org/nixoci-action/internal/ci"
	"github.com/org/nixoci-action/matrix"
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

func TestSelection(t *testing.T) {
	t.Parallel()
	const hash = "00000000000000000000000000000000-"
	paths := func(names ...string) (roots []root) {
		for _, n := range names {
			roots = append(roots, root{path: "/nix/store/" + hash + n})
		}
		return roots
	}
	actions := []string{"GITHUB_ACTIONS", "true", "GITHUB_WORKFLOW", "CI & more", "GITHUB_JOB", "build", "GITHUB_WORKSPACE", "/work/repo"}
	for _, tc := range []struct {
		name  string
		c     Options
		roots []root
		env   []string
		want  string
	}{
		{name: "a whole flake", c: Options{Flake: "."}, roots: paths("x-1")},
		{name: "the default kinds", c: Options{Flake: ".", Kinds: discover.DefaultKinds()}},
		{name: "kinds", c: Options{Flake: ".", Kinds: []discover.Kind{discover.Packages, discover.Checks, discover.Packages}}, want: "kind=checks&kind=packages"},
		{
			name: "globs", c: Options{Flake: ".", Include: []string{"b", "a.*", "b"}, Exclude: []string{"z"}, DenyUnfree: true},
			want: "deny-unfree=true&exclude=z&include=a.%2A&include=b",
		},
		{
			name: "store paths", roots: paths("nixos-system-host-24.05", "hello-2.12.1", "hello-2.10", "a-b-c", "gtk+-3.24-dev", "x-"),
			want: "package=a-b-c&package=gtk%2B&package=hello&package=nixos-system-host&package=x-",
		},
		{name: "a series", c: Options{Series: "X64 & more"}, roots: paths("a", "b"), want: "series=X64+%26+more"},
		{name: "no store path", roots: []root{{path: "/nix/store/x"}}},
		{name: "a job", c: Options{Flake: "/work/repo/config"}, env: actions, want: "flake=.%2Fconfig&job=build&workflow=CI+%26+more"},
		{name: "not in Actions", c: Options{Flake: "/work/repo/config"}, env: actions[2:]},
		{
			name: "credentials", c: Options{Flake: "git+https://me:s3cret@host/o/r?ref=x"}, env: actions[:2],
			want: "flake=git%2Bhttps%3A%2F%2Fhost%2Fo%2Fr%3Fref%3Dx&job=&workflow=",
		},
		{
			name: "a revision", c: Options{Flake: "github:o/r/" + strings.Repeat("0a", 20) + "?dir=x&narHash=sha256-ab%2Bc=&y=z"}, env: actions[:2],
			want: "flake=github%3Ao%2Fr%2F%2A%3Fdir%3Dx%26narHash%3D%2A%26hidden%3D07cd9e1d&job=&workflow=",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := selection(tc.c, tc.roots, ci.Detect(env(tc.env...))); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
	var many []string
	for i := range 200 {
		many = append(many, strings.Repeat("x", i+1))
	}
	a, b := selection(Options{}, paths(many...), ci.Job{}), selection(Options{}, paths(many[1:]...), ci.Job{})
	if len(a) > 512 || !strings.HasPrefix(a, "sha256:") || a == b {
		t.Errorf("got %s and %s, want two hashes", a, b)
	}
}

// Plan and record are different jobs of a workflow, and agree on the series; what
// they choose tells series apart, the systems do not.
func TestSeries(t *testing.T) {
	t.Parallel()
	actions := func(job string) ci.Job {
		return ci.Detect(env("GITHUB_ACTIONS", "true", "GITHUB_WORKFLOW", "CI", "GITHUB_JOB", job, "GITHUB_WORKSPACE", "/w"))
	}
	plan := series(Options{Flake: "/w/x", Systems: []string{"a", "b"}, Matrix: matrix.Planning}, actions("plan"))
	if record := series(Options{Flake: "/w/x", Systems: []string{"a"}, Matrix: matrix.Recording}, actions("record")); plan != record || plan == "" {
		t.Errorf("got %q and %q", plan, record)
	}
	seen := map[string]bool{plan: true}
	for _, c := range []Options{{Flake: "/w/y"}, {Flake: "/w/x", Include: []string{"a"}}, {Flake: "/w/x", Kinds: []discover.Kind{discover.Checks}}, {Flake: "/w/x", DenyUnfree: true}} {
		s := series(c, actions("plan"))
		if seen[s] {
			t.Errorf("%+v: got the series %q again", c, s)
		}
		seen[s] = true
	}
	if s := series(Options{Flake: "."}, ci.Job{}); s == "" {
		t.Error("outside CI there is no series")
	}
}
