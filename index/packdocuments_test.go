package index

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/org/nixoci-action/index/format"
)

// No blob is too large for its reader, and each document is where it is said to
// be.
func TestPackDocuments(t *testing.T) {
	random := make([]byte, 9<<20)
	for i := range random {
		random[i] = byte((i * i * 31) >> 7 * 13)
	}
	docs := map[string]*encoded{}
	for i := range 10 {
		docs[fmt.Sprint(i)] = &encoded{listing: random[i<<10 : 1<<20], log: random[i<<12 : 1<<20]}
	}
	docs["large"] = &encoded{listing: random, log: random[1:]}
	for _, p := range packDocuments(docs) {
		if len(p.blob) > format.MaxExtrasBlob || len(p.blob) > format.ExtrasSize && len(p.parts) > 1 {
			t.Errorf("a blob of %d bytes with %d documents", len(p.blob), len(p.parts))
		}
		for _, part := range p.parts {
			want := docs[part.hashPart].listing
			if part.log {
				want = docs[part.hashPart].log
			}
			if !bytes.Equal(p.blob[part.offset:part.offset+part.size], want) {
				t.Errorf("%+v is something else", part)
			}
		}
	}
}
