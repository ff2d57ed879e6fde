package proxy

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/proxy/blobs"
)

func TestPackIsReadOnce(t *testing.T) {
	const n, size = 200, 2000
	blobs := &proxytest.Blobs{}
	blobs.Put(proxytest.PackData(n, size))
	entries := proxytest.PackEntries(t, "p", n, size)
	s := withBlobs(t, blobs, entries)

	// a lone path does not cost the pack
	if got := proxytest.Get(s, "GET", "/"+entries[0].URL()); !bytes.Equal(got.Body.Bytes(), proxytest.PackMember(0, size)) {
		t.Fatalf("got %d", got.Code)
	}
	if blobs.Requests.Load() != 1 || blobs.Bytes.Load() != size {
		t.Errorf("the first NAR took %d requests and %d bytes, want 1 and %d", blobs.Requests.Load(), blobs.Bytes.Load(), size)
	}
	var wg sync.WaitGroup
	for i, e := range entries {
		wg.Go(func() {
			if got := proxytest.Get(s, "GET", "/"+e.URL()); got.Code != 200 || !bytes.Equal(got.Body.Bytes(), proxytest.PackMember(i, size)) {
				t.Errorf("NAR %d: got %d and %d bytes", i, got.Code, got.Body.Len())
			}
			if got := proxytest.Get(s, "GET", "/"+e.URL(), "Range", "bytes=5-9"); got.Code != 206 || !bytes.Equal(got.Body.Bytes(), proxytest.PackMember(i, size)[5:10]) {
				t.Errorf("part of NAR %d: got %d and %d bytes", i, got.Code, got.Body.Len())
			}
		})
	}
	wg.Wait()
	if got := blobs.Requests.Load(); got != 2 {
		t.Errorf("got %d requests for %d NARs of one pack, want 2", got, n)
	}
}

// Packs are there to save requests; whatever is wrong with one, its NARs are
// read by themselves.
func TestUnreadablePackDoesNotMatter(t *testing.T) {
	const n, size = 10, 2000
	fake := &proxytest.Blobs{Hook: func(r proxytest.BlobRead, body io.ReadCloser) (io.ReadCloser, error) {
		if r.Length == n*size {
			return nil, errors.New("too much")
		}
		return body, nil
	}}
	fake.Put(proxytest.PackData(n, size))
	entries := proxytest.PackEntries(t, "p", n, size)
	s := withBlobs(t, fake, entries)
	memory := blobs.NewBudget(1 << 20)
	s.packs.ShareMemory(memory)
	for range 2 {
		for i, e := range entries {
			if got := proxytest.Get(s, "GET", "/"+e.URL()); got.Code != 200 || !bytes.Equal(got.Body.Bytes(), proxytest.PackMember(i, size)) {
				t.Errorf("NAR %d: got %d and %d bytes", i, got.Code, got.Body.Len())
			}
		}
	}
	if got := fake.Requests.Load(); got > 2*n+1 {
		t.Errorf("got %d requests for %d NARs: the pack was tried again and again", got, 2*n)
	}
	if n := memory.Used(); n != 0 {
		t.Errorf("%d bytes stay reserved", n)
	}
}
