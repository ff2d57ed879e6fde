package closure_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/upstreamtest"
	"github.com/org/nixoci-action/upstream"
)

var hashPart = upstreamtest.HashPart

func storePath(name string) string { return "/nix/store/" + hashPart(name) + "-" + name }

// info is a sample path of 100 bytes that refers to refs, names as well.
func info(name string, refs ...string) nix.PathInfo {
	i := nix.PathInfo{Path: storePath(name), NarSize: 100}
	for _, r := range refs {
		i.References = append(i.References, storePath(r))
	}
	slices.Sort(i.References)
	return i
}

func newSet(t testing.TB, roots string, infos ...nix.PathInfo) *closure.Set {
	t.Helper()
	var paths []string
	for r := range strings.FieldsSeq(roots) {
		paths = append(paths, storePath(r))
	}
	s, err := closure.New(infos, paths)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// quick are options that keep tests short.
var quick = upstream.Options{Timeout: 5 * time.Second, Backoff: time.Millisecond, Patience: 20 * time.Second}

func ask(t testing.TB, url string, opts upstream.Options) closure.Upstream {
	t.Helper()
	u, err := upstream.New(url, opts)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
