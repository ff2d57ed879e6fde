package closure_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/internal/nix"
)

func TestNewOrdersReferencesFirst(t *testing.T) {
	t.Parallel()
	s := newSet(t, "app tool app",
		info("app", "app", "lib", "data"), info("tool", "lib"), info("lib", "libc"),
		info("libc", "libc"), info("data"), info("unrelated", "gone"))
	if s.Len() != 5 || s.NarSize() != 500 {
		t.Errorf("got %d paths of %d bytes, want 5 of 500", s.Len(), s.NarSize())
	}
	var before []string
	for _, p := range s.Paths() {
		for _, ref := range p.References {
			if ref != p.Path && !slices.Contains(before, ref) {
				t.Errorf("%s comes before its reference %s", p.Path, ref)
			}
		}
		before = append(before, p.Path)
	}
	if roots := s.Roots(); len(roots) != 2 || roots[0].Store.Name != "app" || roots[1].Store.Name != "tool" {
		t.Errorf("got roots %v, want app and tool", roots)
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	s := newSet(t, "app", info("app", "lib"), info("lib"))
	if p := s.Lookup(storePath("lib")); p == nil || p.Store.Name != "lib" || p.NarSize != 100 {
		t.Errorf("got %v by path, want lib", p)
	}
	if p := s.LookupHash(hashPart("app")); p == nil || p.Path != storePath("app") {
		t.Errorf("got %v by hash part, want app", p)
	}
	if p, q := s.Lookup(storePath("none")), s.LookupHash(hashPart("none")); p != nil || q != nil {
		t.Errorf("got %v and %v for an unknown path, want nil", p, q)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	sameHash := info("app")
	sameHash.Path += "-other"
	otherStore := nix.PathInfo{Path: "/gnu/store/" + hashPart("guix") + "-guix"}
	for name, tt := range map[string]struct {
		infos []nix.PathInfo
		roots []string
		want  string
	}{
		"missing root":      {nil, []string{storePath("app")}, "no information about " + storePath("app")},
		"missing reference": {[]nix.PathInfo{info("app", "lib"), info("lib", "libc")}, []string{storePath("app")}, storePath("lib") + " -> " + storePath("libc")},
		"cycle": {
			[]nix.PathInfo{info("app", "a"), info("a", "b"), info("b", "c"), info("c", "a")},
			[]string{storePath("app")},
			"cycle: " + storePath("a") + " -> " + storePath("b") + " -> " + storePath("c") + " -> " + storePath("a"),
		},
		"same hash part":  {[]nix.PathInfo{info("app"), sameHash}, []string{storePath("app"), sameHash.Path}, "same hash part"},
		"other store":     {[]nix.PathInfo{info("app"), otherStore}, []string{storePath("app"), otherStore.Path}, "different stores"},
		"malformed path":  {[]nix.PathInfo{{Path: "/nix/store/x"}}, []string{"/nix/store/x"}, "not the name of a store path"},
		"output's subdir": {[]nix.PathInfo{info("app")}, []string{storePath("app") + "/bin"}, "no information"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := closure.New(tt.infos, tt.roots)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestNewLongChainAndLongCycle(t *testing.T) {
	t.Parallel()
	const n = 100_000
	infos := make([]nix.PathInfo, n)
	for i := range infos {
		infos[i] = info("p"+strconv.Itoa(i), "p"+strconv.Itoa(i+1))
	}
	infos[n-1].References = nil
	if s := newSet(t, "p0", infos...); s.Len() != n || s.Paths()[0].Store.Name != "p99999" {
		t.Errorf("got %d paths, want %d from the end of the chain", s.Len(), n)
	}
	infos[n-1].References = []string{storePath("p0")}
	_, err := closure.New(infos, []string{storePath("p0")})
	if err == nil || !strings.Contains(err.Error(), "cycle") || len(err.Error()) > 2000 {
		t.Errorf("got error %.2000v, want a short one about a cycle", err)
	}
}
