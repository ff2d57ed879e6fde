package index_test

import (
	"testing"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
)

// No segment makes a reader panic, in whatever it is asked afterwards.
func FuzzSegment(f *testing.F) {
	header := []byte(`{"version":1,"minReader":1,"nonce":"x","created":"2026-01-01T00:00:00Z","config":{}}` + "\n")
	f.Add(append(header, indextest.SampleLine(f)...))
	f.Add(header)
	f.Add([]byte{})
	f.Fuzz(func(_ *testing.T, data []byte) {
		s, err := format.ParseSegment(indextest.Frame(data), func(int64) error { return nil })
		if err != nil {
			return
		}
		snap := index.SnapshotOf(s)
		for e := range snap.All {
			snap.LookupNAR(e.FileHash)
			snap.LookupNARHash(e.NarHash)
		}
		snap.Publications()
	})
}

func FuzzForeignIndex(f *testing.F) {
	f.Add([]byte(`{"version":1,"entries":{"00000000000000000000000000000000":{"narinfo":"StorePath: /nix/store/00000000000000000000000000000000-x\nNarHash: sha256:0000000000000000000000000000000000000000000000000000\nNarSize: 1\nCompression: xz\nSig: a","nar_digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","nar_size":2}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		seg, _, err := format.ParseForeign(b)
		if err != nil {
			return
		}
		for e := range index.SnapshotOf(seg).All {
			if err := e.Validate(); err != nil {
				t.Error(err)
			}
		}
	})
}
