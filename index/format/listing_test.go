package format_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
)

func TestCheckListing(t *testing.T) {
	file := `{"narOffset":1,"size":1,"type":"regular"}`
	tree := func(inner string) string {
		return `{"root":{"entries":{"lib":{"entries":{"debug":{"entries":{".build-id":{"entries":{` + inner + `},"type":"directory"}},"type":"directory"}},"type":"directory"}},"type":"directory"},"version":1}`
	}
	for doc, want := range map[string][]string{
		`{"version":1,"root":` + file + `}`: nil,
		tree(`"01":{"entries":{"` + indextest.BuildID[2:] + `.debug":` + file + `,"x.debug":` + file + `},"type":"directory"},"zz":` + file): {indextest.BuildID},
		tree(`"01":{"entries":{"` + indextest.BuildID[2:] + `.debug":{"target":"x","type":"symlink"}},"type":"directory"}`):                  nil,
		tree(`"01":null`): nil,
		strings.Replace(tree(""), `{"entries":{".build-id"`, `null,"x":{"entries":{".build-id"`, 1): nil,
	} {
		got, end, err := format.CheckListing([]byte(doc))
		wantEnd := int64(0)
		if strings.Contains(doc, `"size":1`) {
			wantEnd = 2
		}
		if err != nil || !slices.Equal(got, want) || end != wantEnd {
			t.Errorf("%s: got %q, %d, %v, want %q, %d", doc, got, end, err, want, wantEnd)
		}
	}
	for _, bad := range []string{``, `[]`, `{}`, `{"version":1}`, `{"version":2,"root":` + file + `}`, `{"version":1,"root":7}`,
		tree(`"01":{"narOffset":-1,"size":1,"type":"regular"}`), tree(`"01":{"narOffset":9223372036854775807,"size":1,"type":"regular"}`), tree(`"01":{"size":-1}`)} {
		if got, _, err := format.CheckListing([]byte(bad)); err == nil {
			t.Errorf("%s: got %q", bad, got)
		}
	}
}

// Whatever a client pushes as a listing, what is taken from it can be stored.
func FuzzCheckListing(f *testing.F) {
	f.Add([]byte(`{"root":{"entries":{"lib":{"entries":{"debug":{"entries":{".build-id":{"entries":{"01":{"entries":{"` + indextest.BuildID[2:] + `.debug":{"narOffset":1,"size":1,"type":"regular"}}}}}}}}}}},"version":1}`))
	f.Add([]byte(`{"version":1,"root":{"entries":{"a":null,"b":{"narOffset":9223372036854775807,"size":1}}}}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		ids, end, err := format.CheckListing(doc)
		if err != nil {
			return
		}
		if end < 0 || len(ids) > format.MaxBuildIDs || !slices.IsSorted(ids) || len(slices.Compact(slices.Clone(ids))) != len(ids) {
			t.Errorf("got %q, %d", ids, end)
		}
		for _, id := range ids {
			if !format.ValidBuildID(id) {
				t.Errorf("got the build ID %q", id)
			}
		}
	})
}
