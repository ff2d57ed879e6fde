package blobs

import (
	"fmt"
	"testing"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/proxytest"
)

func TestPackMemoryIsBounded(t *testing.T) {
	const n, size = 4, 1000
	fake := &proxytest.Blobs{}
	var entries []format.Entry
	for p := range 10 { // packs of different contents
		pack := proxytest.PackData(n+p, size)
		fake.Put(pack)
		for i := range 2 {
			e := proxytest.FileEntry(fmt.Sprintf("%d-%d", p, i), proxytest.PackMember(i, size))
			e.NAR = format.Location{Blob: proxytest.DigestOf(pack), BlobSize: int64(len(pack)), Offset: int64(i * size), Size: size}
			entries = append(entries, e)
		}
	}
	c := NewPacks(fake, 20_000, proxytest.LogTo(t))
	for range 3 {
		for _, e := range entries {
			if nar, ok := c.NAR(t.Context(), e.NAR, true); ok && bincache.FormatHash(proxytest.Sum(nar)) != e.FileHash {
				t.Fatalf("%s: wrong bytes", e.Path.Name)
			}
			c.mu.Lock()
			busy, held := int64(0), int64(0)
			for _, p := range c.reading {
				busy += p.size
			}
			for p := range c.held.Values() {
				held += int64(len(p.data))
			}
			if busy != c.busy || held != c.held.Size() || busy+held > c.max {
				t.Fatalf("%d and %d bytes are held and being read, %d and %d counted, of %d", held, busy, c.held.Size(), c.busy, c.max)
			}
			c.mu.Unlock()
		}
	}
}

// What could not be read takes no memory.
func TestUnreadablePackTakesNothing(t *testing.T) {
	fake := &proxytest.Blobs{} // has none
	e := proxytest.PackEntries(t, "p", 10, 100)[0]
	c := NewPacks(fake, 20_000, proxytest.LogTo(t))
	for range 3 {
		if _, ok := c.NAR(t.Context(), e.NAR, true); ok {
			t.Error("got a NAR that is not there")
		}
	}
	if fake.Requests.Load() == 0 || c.busy != 0 || c.held.Size() != 0 {
		t.Errorf("after %d requests %d and %d bytes are taken", fake.Requests.Load(), c.busy, c.held.Size())
	}
}

// What is held is bounded, whatever is asked for.
func TestDocumentsMemory(t *testing.T) {
	d := NewDocuments(DocumentsOptions{})
	for i := range 100 {
		data := proxytest.RandomBytes(uint64(i), 1<<20)
		d.held.Put(proxytest.DigestOf(data), data)
		if d.held.Size() > documentsMemory || d.held.Len() > documentsMemory>>20 {
			t.Fatalf("%d bytes in %d blobs are held", d.held.Size(), d.held.Len())
		}
	}
	if d.held.Len() < 10 {
		t.Errorf("only %d blobs are held", d.held.Len())
	}
}
