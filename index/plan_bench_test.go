package index

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/nix-community/go-nix/pkg/nixbase32"

	"github.com/org/nixoci-action/internal/storepath"
)

// benchSnapshot is a cache of n entries in segments of 500, each with five
// references to earlier ones; a third of the NARs are in packs. Ten
// publications have a tenth of the paths each.
func benchSnapshot(tb testing.TB, n int) *Snapshot {
	tb.Helper()
	r := rand.New(rand.NewPCG(1, 1))
	now := time.Now()
	bases := make([]string, n)
	var segments []*segment
	for start := 0; start < n; start += 500 {
		var entries []Entry
		for i := start; i < min(start+500, n); i++ {
			sum := sha256.Sum256([]byte(strconv.Itoa(i)))
			name := fmt.Sprintf("package-%d-1.%d", i, i%10)
			e := Entry{
				Path:    storepath.Path{Dir: storepath.DefaultDir, HashPart: nixbase32.EncodeToString(sum[:20]), Name: name},
				NarHash: FileHash(sum[:]), NarSize: 1 << 20, Compression: CompressionZstd, FileHash: FileHash(sum[:]),
				Signatures: []string{"cache.example.org-1:" + strings.Repeat("A", 86) + "=="},
				Added:      now.Add(-time.Duration(n-i) * (90 * 24 * time.Hour / time.Duration(n))),
			}
			digest := v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sum)}
			e.NAR = Location{Blob: digest, BlobSize: 1 << 18, Size: 1 << 18}
			if i%3 == 0 {
				pack := sha256.Sum256([]byte("pack" + strconv.Itoa(i/100)))
				e.NAR = Location{Blob: v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", pack)}, BlobSize: 8 << 20, Offset: int64(i%100) << 13, Size: 1 << 13}
			}
			bases[i] = e.Path.Base()
			for range min(i, 5) {
				e.References = append(e.References, bases[i-1-r.IntN(min(i, 1000))])
			}
			slices.Sort(e.References)
			e.References = slices.Compact(e.References)
			entries = append(entries, e)
		}
		h := Header{Created: entries[0].Added, Nonce: strconv.Itoa(start)}
		if start%(n/10/500*500+500) == 0 {
			h.Publications = []Publication{{Time: entries[0].Added, Ref: "refs/heads/main", Roots: []Root{{Path: entries[len(entries)-1].Path.Base()}}}}
		}
		c, err := newContent(entries)
		if err != nil {
			tb.Fatal(err)
		}
		blob, err := encodeSegment(h, c.lines)
		if err != nil {
			tb.Fatal(err)
		}
		s, err := parseSegment(blob)
		if err != nil {
			tb.Fatal(err)
		}
		sum := sha256.Sum256(blob)
		s.info = SegmentInfo{Tag: fmt.Sprint("segment-", start), Manifest: v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sum)}, Count: len(entries), Layers: len(c.layers), Created: h.Created}
		segments = append(segments, s)
	}
	return newSnapshot(v1.Hash{}, segmentList{retired: []Retired{}}, segments, nil)
}

// Whole collections, of up to a million entries, are measured by internal/bench.
func BenchmarkPlan(b *testing.B) {
	s := benchSnapshot(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		p, err := s.Plan(PlanOptions{Retention: Retention{Last: 1, Age: 30 * 24 * time.Hour, PullRequests: 7 * 24 * time.Hour}, Delay: 24 * time.Hour})
		if err != nil || p.Removed.Paths == 0 || p.Kept.Paths == 0 {
			b.Fatal("a plan that keeps everything, or nothing", err)
		}
	}
}
