package index_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
)

// Of several entries for a path the one that was added last counts, of those
// added at once the one in the later segment, and none that does not decode.
func TestWhichEntryCounts(t *testing.T) {
	t.Parallel()
	const damaged = -1
	for _, tc := range []struct {
		added []int // by segment, in seconds
		want  int   // segment; damaged if there is none
	}{
		{[]int{1, 2, 3}, 2},
		{[]int{3, 1, 2}, 0},
		{[]int{2, 3, 1}, 1},
		{[]int{2, 1, 2}, 2},
		{[]int{2, damaged, 1}, 0},
		{[]int{1, 2, damaged}, 1},
		{[]int{damaged, 1, damaged}, 1},
		{[]int{damaged, damaged, 1}, 2},
		{[]int{damaged, damaged}, damaged},
	} {
		var segments []*format.Segment
		for i, added := range tc.added {
			e := indextest.EntryFor("x", v1.Descriptor{Digest: format.EmptyConfig.Digest, Size: 2})
			e.Added, e.NarSize = time.Unix(int64(1_700_000_000+added), 0), int64(100+i)
			line, err := format.AppendLine(nil, &e)
			if err != nil {
				t.Fatal(err)
			}
			if added == damaged {
				line = bytes.Replace(line, []byte(`"narSize":`), []byte(`"narSize":-`), 1)
			}
			blob, err := format.EncodeSegment(format.Header{}, line)
			if err != nil {
				t.Fatal(err)
			}
			s, err := format.ParseSegment(blob, func(int64) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			s.Info.Tag = fmt.Sprint("segment-", i)
			segments = append(segments, s)
		}
		hashPart := indextest.EntryFor("x", v1.Descriptor{}).Path.HashPart
		for range 2 { // segments remember what they were asked
			got := damaged
			if e, ok := index.SnapshotOf(segments...).Lookup(hashPart); ok {
				got = int(e.NarSize) - 100
			}
			if got != tc.want {
				t.Errorf("%v: got the entry of segment %d, want %d", tc.added, got, tc.want)
			}
		}
	}
}
