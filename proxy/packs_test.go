package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/org/nixoci-action/index"
)

func packMember(i, size int) []byte { return randomBytes(uint64(1000+i), size) }

func packData(n, size int) []byte {
	var pack []byte
	for i := range n {
		pack = append(pack, packMember(i, size)...)
	}
	return pack
}

// packEntries are n entries whose NARs share one blob.
func packEntries(tb testing.TB, name string, n, size int) []index.Entry {
	tb.Helper()
	pack := packData(n, size)
	entries := make([]index.Entry, n)
	for i := range n {
		e := fileEntry(fmt.Sprintf("%s-%d", name, i), packMember(i, size))
		e.NAR = index.Location{Blob: digestOf(pack), BlobSize: int64(len(pack)), Offset: int64(i * size), Size: int64(size)}
		entries[i] = e
	}
	return entries
}

func TestPackIsReadOnce(t *testing.T) {
	const n, size = 200, 2000
	blobs := &fakeBlobs{}
	blobs.put(packData(n, size))
	entries := packEntries(t, "p", n, size)
	s := withBlobs(t, blobs, entries)

	// a lone path does not cost the pack
	if got := get(s, "GET", "/"+entries[0].URL()); !bytes.Equal(got.Body.Bytes(), packMember(0, size)) {
		t.Fatalf("got %d", got.Code)
	}
	if blobs.requests.Load() != 1 || blobs.bytes.Load() != size {
		t.Errorf("the first NAR took %d requests and %d bytes, want 1 and %d", blobs.requests.Load(), blobs.bytes.Load(), size)
	}
	var wg sync.WaitGroup
	for i, e := range entries {
		wg.Go(func() {
			if got := get(s, "GET", "/"+e.URL()); got.Code != 200 || !bytes.Equal(got.Body.Bytes(), packMember(i, size)) {
				t.Errorf("NAR %d: got %d and %d bytes", i, got.Code, got.Body.Len())
			}
			if got := get(s, "GET", "/"+e.URL(), "Range", "bytes=5-9"); got.Code != 206 || !bytes.Equal(got.Body.Bytes(), packMember(i, size)[5:10]) {
				t.Errorf("part of NAR %d: got %d and %d bytes", i, got.Code, got.Body.Len())
			}
		})
	}
	wg.Wait()
	if got := blobs.requests.Load(); got != 2 {
		t.Errorf("got %d requests for %d NARs of one pack, want 2", got, n)
	}
}

func TestPackMemoryIsBounded(t *testing.T) {
	const n, size = 4, 1000
	blobs := &fakeBlobs{}
	var entries []index.Entry
	for p := range 10 { // packs of different contents
		pack := packData(n+p, size)
		blobs.put(pack)
		for i := range 2 {
			e := fileEntry(fmt.Sprintf("%d-%d", p, i), packMember(i, size))
			e.NAR = index.Location{Blob: digestOf(pack), BlobSize: int64(len(pack)), Offset: int64(i * size), Size: size}
			entries = append(entries, e)
		}
	}
	c := newPacks(Options{Blobs: blobs, PackMemory: 20_000, Logger: logTo(t)})
	for range 3 {
		for _, e := range entries {
			if nar, ok := c.nar(t.Context(), e.NAR, true); ok && index.FileHash(sum(nar)) != e.FileHash {
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

// Packs are there to save requests; whatever is wrong with one, its NARs are
// read by themselves.
func TestUnreadablePackDoesNotMatter(t *testing.T) {
	const n, size = 10, 2000
	blobs := &fakeBlobs{hook: func(r blobRead, body io.ReadCloser) (io.ReadCloser, error) {
		if r.length == n*size {
			return nil, errors.New("too much")
		}
		return body, nil
	}}
	blobs.put(packData(n, size))
	entries := packEntries(t, "p", n, size)
	s := withBlobs(t, blobs, entries)
	for range 2 {
		for i, e := range entries {
			if got := get(s, "GET", "/"+e.URL()); got.Code != 200 || !bytes.Equal(got.Body.Bytes(), packMember(i, size)) {
				t.Errorf("NAR %d: got %d and %d bytes", i, got.Code, got.Body.Len())
			}
		}
	}
	if got := blobs.requests.Load(); got > 2*n+1 {
		t.Errorf("got %d requests for %d NARs: the pack was tried again and again", got, 2*n)
	}
	if s.packs.busy != 0 || s.packs.held.Size() != 0 {
		t.Errorf("%d and %d bytes stay reserved", s.packs.busy, s.packs.held.Size())
	}
}
