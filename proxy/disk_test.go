package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/pieces"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
	"github.com/org/nixoci-action/proxy/blobs"
)

// disk is a directory before blobs.
type disk struct {
	*blobs.Disk
	dir string
}

func openDisk(tb testing.TB, next blobs.Store, dir string, size int64) disk {
	tb.Helper()
	d, err := blobs.OpenDisk(next, blobs.DiskOptions{Dir: dir, MaxSize: size, Logger: proxytest.LogTo(tb)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = d.Close() })
	return disk{d, dir}
}

// withDisk is withBlobs with a directory before the blobs.
func withDisk(tb testing.TB, fake *proxytest.Blobs, size int64, entries ...format.Entry) (*Server, disk) {
	tb.Helper()
	d := openDisk(tb, fake, tb.TempDir(), size)
	return withBlobs(tb, fake, entries, func(o *Options) { o.Blobs, o.Logger = d.Disk, proxytest.LogTo(tb) }), d
}

// stored waits until there is a blob in the directory.
func stored(tb testing.TB, d disk) {
	tb.Helper()
	for end := time.Now().Add(10 * time.Second); d.Status().Blobs == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("nothing is stored: %+v", d.Status())
		}
	}
}

// blobGets counts the requests for one blob.
type blobGets struct {
	blob v1.Hash
	n    atomic.Int64
}

func (c *blobGets) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, c.blob.Hex) {
		c.n.Add(1)
	}
	return http.DefaultTransport.RoundTrip(r)
}

// Many machines want the same at the same time; the registry is asked once,
// and not at all when they come again, also after a restart and when the
// registry is gone.
func TestDiskSharesFetches(t *testing.T) {
	reg := registrytest.NewDistribution(t)
	cache := reg.Addr + "/a/b"
	large := proxytest.RandomBytes(70, 8<<20)
	repo := proxytest.OpenRepo(t, cache)
	proxytest.PutBlob(t, repo, large)
	e := proxytest.FileEntry("large", large)
	proxytest.Publish(t, repo, format.Config{}, e)
	gets := &blobGets{blob: e.NAR.Blob}
	counted, err := registry.Open(cache, registry.Options{Transport: gets})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	disk := openDisk(t, counted, dir, 20<<20)
	url := proxytest.Start(t, newServer(t, counted, func(o *Options) { o.Blobs = disk }))
	round := func(url string) {
		t.Helper()
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				c := &http.Client{Transport: &http.Transport{}}
				defer c.CloseIdleConnections()
				resp, err := c.Get(url + "/" + e.URL())
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				if body, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(body, large) {
					t.Errorf("client %d: got %s, %d bytes, %v", i, resp.Status, len(body), err)
				}
			})
		}
		wg.Wait()
	}
	round(url)
	if n := gets.n.Load(); n != 1 {
		t.Errorf("16 clients: %d requests for the blob, want 1", n)
	}
	stored(t, disk)
	round(url)
	if n := gets.n.Load(); n != 1 {
		t.Errorf("16 clients more: %d requests for the blob, want 1", n)
	}
	st := disk.Status()
	if st.Hits+st.Shared != 31 || st.Misses != 1 || st.Blobs != 1 || st.Bytes != int64(len(large)) || st.Bypassed != 0 {
		t.Errorf("got %+v", st)
	}
	if err := disk.Close(); err != nil {
		t.Fatal(err)
	}
	again := openDisk(t, counted, dir, 20<<20)
	s := newServer(t, counted, func(o *Options) { o.Blobs = again })
	reg.Stop()
	for range 4 {
		s.registry.Report(false) // it is known to be down
	}
	round(proxytest.Start(t, s))
	if n := gets.n.Load(); n != 1 {
		t.Errorf("after a restart: %d requests for the blob, want 1", n)
	}
	if !s.registry.Open() {
		t.Error("what the disk delivered says that the registry is well")
	}
}

// Nobody waits for the end of a fetch to get its beginning.
func TestDiskFollowers(t *testing.T) {
	data := proxytest.RandomBytes(71, 3<<20)
	release := make(chan struct{})
	fake := &proxytest.Blobs{Hook: func(_ proxytest.BlobRead, body io.ReadCloser) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(io.LimitReader(body, 1<<20), proxytest.Waiting(release), body)), nil
	}}
	fake.Put(data)
	e := proxytest.FileEntry("nar", data)
	s, d := withDisk(t, fake, 10<<20, e)
	url := proxytest.Start(t, s)
	var wg sync.WaitGroup
	got := make(chan struct{}, 3)
	for _, from := range []int{0, 0, 500_000} {
		wg.Go(func() {
			req, _ := http.NewRequest(http.MethodGet, url+"/"+e.URL(), nil)
			if from > 0 {
				req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			head := make([]byte, 200_000)
			if _, err := io.ReadFull(resp.Body, head); err != nil {
				t.Error(err)
			}
			got <- struct{}{}
			rest, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(append(head, rest...), data[from:]) {
				t.Errorf("from %d: got %d bytes, %v", from, len(head)+len(rest), err)
			}
		})
	}
	for range 3 {
		select {
		case <-got:
		case <-time.After(10 * time.Second):
			t.Fatal("no first bytes while the last are not there")
		}
	}
	if n := d.Status().Blobs; n != 0 {
		t.Error("the blob is complete before it has come")
	}
	close(release)
	wg.Wait()
	stored(t, d)
	if got, want := d.Status(), (blobs.DiskStatus{Bytes: int64(len(data)), MaxBytes: 10 << 20, Blobs: 1, Shared: 2, Misses: 1}); got != want {
		t.Errorf("got  %+v,\nwant %+v", got, want)
	}
	if n := fake.Requests.Load(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

// A file that rots must not become a broken build, and not stay.
func TestDiskRots(t *testing.T) {
	for _, size := range []int{1000, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			fake := &proxytest.Blobs{}
			data := proxytest.RandomBytes(74, size)
			blob := fake.Put(data)
			e := proxytest.FileEntry("nar", data)
			s, d := withDisk(t, fake, 10<<20, e)
			url := proxytest.Start(t, s)
			if _, body, err := proxytest.Fetch(t, url+"/"+e.URL()); err != nil || !bytes.Equal(body, data) {
				t.Fatalf("got %d bytes, %v", len(body), err)
			}
			stored(t, d)
			rotten := bytes.Clone(data)
			rotten[size/2] ^= 1
			if err := os.WriteFile(filepath.Join(d.dir, blob.Hex), rotten, 0o600); err != nil {
				t.Fatal(err)
			}
			resp, body, err := proxytest.Fetch(t, url+"/"+e.URL())
			if size < pieces.Size { // nothing was sent before it was noticed
				if err != nil || !bytes.Equal(body, data) {
					t.Errorf("got %d bytes, %v; want them right", len(body), err)
				}
			} else {
				if resp.StatusCode != 200 || err == nil {
					t.Errorf("got %d, %d bytes, %v; want a cut", resp.StatusCode, len(body), err)
				}
				// whoever has the damaged part does not get the rest of another
				if resp, _, _ := proxytest.Fetch(t, url+"/"+e.URL(), "Range", "bytes=917504-"); resp.StatusCode != 404 {
					t.Errorf("the rest: got %d, want 404", resp.StatusCode)
				}
			}
			if resp, body, err := proxytest.Fetch(t, url+"/"+e.URL()); resp.StatusCode != 200 || err != nil || !bytes.Equal(body, data) {
				t.Errorf("afterwards: got %d, %d bytes, %v", resp.StatusCode, len(body), err)
			}
			stored(t, d)
			if st := d.Status(); st.Damaged != 1 || st.Blobs != 1 || st.Misses != 2 {
				t.Errorf("got %+v", st)
			}
			if got, err := os.ReadFile(filepath.Join(d.dir, blob.Hex)); err != nil || !bytes.Equal(got, data) {
				t.Errorf("the file: got %d bytes, %v", len(got), err)
			}
		})
	}
}

// The same for a pack, and for files that are too short or gone.
func TestDiskLosesFiles(t *testing.T) {
	const n, size = 20, 2000
	for name, harm := range map[string]func(path string) error{
		"rotten": func(path string) error { return os.WriteFile(path, make([]byte, n*size), 0o600) },
		"short":  func(path string) error { return os.Truncate(path, 100) },
		"gone":   os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			fake := &proxytest.Blobs{}
			blob := fake.Put(proxytest.PackData(n, size))
			entries := proxytest.PackEntries(t, "p", n, size)
			dir := t.TempDir()
			for round := range 2 {
				d := openDisk(t, fake, dir, 10<<20)
				s := withBlobs(t, fake, entries, func(o *Options) { o.Blobs = d })
				for i, e := range entries {
					if got := proxytest.Get(s, "GET", "/"+e.URL()); got.Code != 200 || !bytes.Equal(got.Body.Bytes(), proxytest.PackMember(i, size)) {
						t.Errorf("round %d, NAR %d: got %d, %d bytes", round, i, got.Code, got.Body.Len())
					}
				}
				stored(t, d)
				if n := fake.Requests.Load(); n != int64(round)+1 {
					t.Errorf("round %d: %d requests in all, want %d", round, n, round+1)
				}
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
				if err := harm(filepath.Join(d.dir, blob.Hex)); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
