package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

func openDisk(tb testing.TB, next Blobs, dir string, size int64) *DiskBlobs {
	tb.Helper()
	d, err := OpenDiskBlobs(next, DiskOptions{Dir: dir, MaxSize: size, Logger: logTo(tb)})
	if err != nil {
		tb.Fatal(err)
	}
	d.patience = time.Second
	tb.Cleanup(func() { _ = d.Close() })
	return d
}

// withDisk is withBlobs with a directory before the blobs.
func withDisk(tb testing.TB, blobs *fakeBlobs, size int64, entries ...format.Entry) (*Server, *DiskBlobs) {
	tb.Helper()
	d := openDisk(tb, blobs, tb.TempDir(), size)
	return withBlobs(tb, blobs, entries, func(o *Options) { o.Blobs, o.Logger = d, logTo(tb) }), d
}

// settled waits until nothing is fetched.
func (d *DiskBlobs) settled(tb testing.TB) {
	tb.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		d.mu.Lock()
		n := len(d.fetching)
		d.mu.Unlock()
		if n == 0 {
			return
		}
		if time.Now().After(end) {
			tb.Fatalf("%d blobs are still being fetched", n)
		}
	}
}

// onDisk are the names in the directory, without the lock's.
func (d *DiskBlobs) onDisk(tb testing.TB) map[string]int64 {
	tb.Helper()
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		tb.Fatal(err)
	}
	files := map[string]int64{}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.Name() != lockName {
			files[e.Name()] = info.Size()
		}
	}
	return files
}

func (d *DiskBlobs) expect(tb testing.TB, want DiskStatus) {
	tb.Helper()
	d.settled(tb)
	want.MaxBytes = d.max
	if got := d.Status(); got != want {
		tb.Errorf("got  %+v,\nwant %+v", got, want)
	}
}

// readAll reads a part of a blob that is size bytes long.
func readAll(b Blobs, blob v1.Hash, size, offset, length int64) ([]byte, error) {
	r, err := sized(b, size).Blob(context.Background(), blob, offset, length)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
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
	large := randomBytes(70, 8<<20)
	repo := openRepo(t, cache)
	putBlob(t, repo, large)
	e := fileEntry("large", large)
	publish(t, repo, format.Config{}, e)
	gets := &blobGets{blob: e.NAR.Blob}
	counted, err := registry.Open(cache, registry.Options{Transport: gets})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	disk := openDisk(t, counted, dir, 20<<20)
	url := start(t, newServer(t, counted, func(o *Options) { o.Blobs = disk }))
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
	disk.settled(t)
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
	for range 2 * breakerFails {
		s.registry.report(false) // it is known to be down
	}
	round(start(t, s))
	if n := gets.n.Load(); n != 1 {
		t.Errorf("after a restart: %d requests for the blob, want 1", n)
	}
	if !s.registry.open() {
		t.Error("what the disk delivered says that the registry is well")
	}
}

// Nobody waits for the end of a fetch to get its beginning.
func TestDiskFollowers(t *testing.T) {
	data := randomBytes(71, 3<<20)
	release := make(chan struct{})
	blobs := &fakeBlobs{hook: func(_ blobRead, body io.ReadCloser) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(io.LimitReader(body, 1<<20), waiting(release), body)), nil
	}}
	blobs.put(data)
	e := fileEntry("nar", data)
	s, d := withDisk(t, blobs, 10<<20, e)
	url := start(t, s)
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
	d.expect(t, DiskStatus{Bytes: int64(len(data)), Blobs: 1, Shared: 2, Misses: 1})
	if n := blobs.requests.Load(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

// Whatever happens to a fetch, who reads gets all bytes or an error.
func TestDiskFetchFails(t *testing.T) {
	data := randomBytes(72, 3<<20)
	size := int64(len(data))
	broken := errors.New("500")
	wrong := bytes.Clone(data)
	wrong[100] ^= 1
	for _, tc := range []struct {
		name string
		hook func(r blobRead, body io.ReadCloser) (io.ReadCloser, error)
		err  error
		want DiskStatus
	}{
		{
			name: "cut off now and then",
			hook: func(_ blobRead, body io.ReadCloser) (io.ReadCloser, error) { return cut(body, 100_000), nil },
			want: DiskStatus{Bytes: size, Blobs: 1, Misses: 1},
		},
		{
			name: "cut off for good",
			hook: func(r blobRead, body io.ReadCloser) (io.ReadCloser, error) {
				switch r.n {
				case 1:
					return cut(body, 1<<20), nil
				case 2:
					return nil, broken
				}
				return body, nil
			},
			want: DiskStatus{Misses: 1, Bypassed: 1},
		},
		{
			name: "another blob",
			hook: func(r blobRead, body io.ReadCloser) (io.ReadCloser, error) {
				if r.n == 1 {
					return io.NopCloser(bytes.NewReader(wrong)), nil
				}
				return body, nil
			},
			want: DiskStatus{Misses: 1}, // the reader has got it, and verifies it
		},
		{
			name: "refused",
			hook: func(blobRead, io.ReadCloser) (io.ReadCloser, error) { return nil, broken },
			err:  broken,
			want: DiskStatus{Misses: 1},
		},
		{
			name: "hangs",
			hook: func(r blobRead, body io.ReadCloser) (io.ReadCloser, error) {
				if r.n == 1 {
					return hanging{r}, nil
				}
				return body, nil
			},
			want: DiskStatus{Misses: 1, Bypassed: 1},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			blobs := &fakeBlobs{hook: tc.hook}
			blob := blobs.put(data)
			d := openDisk(t, blobs, t.TempDir(), 10<<20)
			got, err := readAll(d, blob, size, 0, size)
			if !errors.Is(err, tc.err) {
				t.Fatalf("got %v, want %v", err, tc.err)
			}
			if want := data; err == nil && !bytes.Equal(got, want) && (tc.name != "another blob" || !bytes.Equal(got, wrong)) {
				t.Errorf("got %d other bytes", len(got))
			}
			d.end() // those that hang
			d.expect(t, tc.want)
			if n := len(d.onDisk(t)); n != tc.want.Blobs {
				t.Errorf("got the files %v, want %d", d.onDisk(t), tc.want.Blobs)
			}
		})
	}
}

func TestDiskIsBounded(t *testing.T) {
	blobs := &fakeBlobs{}
	var hashes []v1.Hash
	content := func(i int) []byte { return randomBytes(uint64(800+i), 1000) }
	for i := range 4 {
		hashes = append(hashes, blobs.put(content(i)))
	}
	big := randomBytes(73, 3001)
	bigHash := blobs.put(big)
	dir := t.TempDir()
	d := openDisk(t, blobs, dir, 3000)
	read := func(d *DiskBlobs, i int) {
		t.Helper()
		if got, err := readAll(d, hashes[i], 1000, 0, 1000); err != nil || !bytes.Equal(got, content(i)) {
			t.Errorf("blob %d: got %d bytes, %v", i, len(got), err)
		}
		d.settled(t)
		time.Sleep(15 * time.Millisecond) // so that times of files differ
	}
	for i := range 3 {
		read(d, i)
	}
	// who reads what is evicted reads on
	held, err := d.Sized(1000).Blob(t.Context(), hashes[1], 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	read(d, 0) // 1 is the oldest but for the reader just opened, then 2
	read(d, 3)
	if d.Holds(hashes[2]) || !d.Holds(hashes[0]) || !d.Holds(hashes[1]) || !d.Holds(hashes[3]) {
		t.Errorf("the wrong one made room: %v", d.onDisk(t))
	}
	read(d, 2)
	if d.Holds(hashes[1]) {
		t.Error("1 did not make room")
	}
	if got, err := io.ReadAll(held); err != nil || !bytes.Equal(got, content(1)) {
		t.Errorf("a reader of what made room: got %d bytes, %v", len(got), err)
	}
	// larger than the bound: streamed, and nothing makes room in vain
	if got, err := readAll(d, bigHash, 3001, 0, 3001); err != nil || !bytes.Equal(got, big) {
		t.Errorf("a large blob: got %d bytes, %v", len(got), err)
	}
	d.expect(t, DiskStatus{Bytes: 3000, Blobs: 3, Hits: 2, Misses: 5, Bypassed: 1, Evicted: 2})

	// a smaller bound after a restart; unfinished files are gone, others stay
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{partPrefix + "123": "half", "README": "mine"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d = openDisk(t, blobs, dir, 2000)
	if d.Holds(hashes[0]) || !d.Holds(hashes[2]) || !d.Holds(hashes[3]) {
		t.Errorf("not the last used ones stayed: %v", d.onDisk(t))
	}
	files := d.onDisk(t)
	if _, ok := files["README"]; !ok || len(files) != 3 {
		t.Errorf("got the files %v", files)
	}
	read(d, 2)
	d.expect(t, DiskStatus{Bytes: 2000, Blobs: 2, Hits: 1})
}

func TestDiskIsLocked(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, &fakeBlobs{}, dir, 1)
	_, err := OpenDiskBlobs(&fakeBlobs{}, DiskOptions{Dir: dir, MaxSize: 1})
	if err == nil || !strings.Contains(err.Error(), "another process uses "+dir) || !strings.Contains(hint.Of(err), "--cache-dir") {
		t.Errorf("got %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	openDisk(t, &fakeBlobs{}, dir, 1)
}

// A file that rots must not become a broken build, and not stay.
func TestDiskRots(t *testing.T) {
	for _, size := range []int{1000, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			blobs := &fakeBlobs{}
			data := randomBytes(74, size)
			blob := blobs.put(data)
			e := fileEntry("nar", data)
			s, d := withDisk(t, blobs, 10<<20, e)
			url := start(t, s)
			if _, body, err := fetch(t, url+"/"+e.URL()); err != nil || !bytes.Equal(body, data) {
				t.Fatalf("got %d bytes, %v", len(body), err)
			}
			d.settled(t)
			rotten := bytes.Clone(data)
			rotten[size/2] ^= 1
			if err := os.WriteFile(d.path(blob), rotten, 0o600); err != nil {
				t.Fatal(err)
			}
			resp, body, err := fetch(t, url+"/"+e.URL())
			if size < pieceSize { // nothing was sent before it was noticed
				if err != nil || !bytes.Equal(body, data) {
					t.Errorf("got %d bytes, %v; want them right", len(body), err)
				}
			} else {
				if resp.StatusCode != 200 || err == nil {
					t.Errorf("got %d, %d bytes, %v; want a cut", resp.StatusCode, len(body), err)
				}
				// whoever has the damaged part does not get the rest of another
				if resp, _, _ := fetch(t, url+"/"+e.URL(), "Range", "bytes=917504-"); resp.StatusCode != 404 {
					t.Errorf("the rest: got %d, want 404", resp.StatusCode)
				}
			}
			if resp, body, err := fetch(t, url+"/"+e.URL()); resp.StatusCode != 200 || err != nil || !bytes.Equal(body, data) {
				t.Errorf("afterwards: got %d, %d bytes, %v", resp.StatusCode, len(body), err)
			}
			d.settled(t)
			if st := d.Status(); st.Damaged != 1 || st.Blobs != 1 || st.Misses != 2 {
				t.Errorf("got %+v", st)
			}
			if got, err := os.ReadFile(d.path(blob)); err != nil || !bytes.Equal(got, data) {
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
			blobs := &fakeBlobs{}
			blob := blobs.put(packData(n, size))
			entries := packEntries(t, "p", n, size)
			dir := t.TempDir()
			for round := range 2 {
				d := openDisk(t, blobs, dir, 10<<20)
				s := withBlobs(t, blobs, entries, func(o *Options) { o.Blobs = d })
				for i, e := range entries {
					if got := get(s, "GET", "/"+e.URL()); got.Code != 200 || !bytes.Equal(got.Body.Bytes(), packMember(i, size)) {
						t.Errorf("round %d, NAR %d: got %d, %d bytes", round, i, got.Code, got.Body.Len())
					}
				}
				d.settled(t)
				if n := blobs.requests.Load(); n != int64(round)+1 {
					t.Errorf("round %d: %d requests in all, want %d", round, n, round+1)
				}
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
				if err := harm(d.path(blob)); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// When nothing can be written everything is served, and this is said once.
func TestDiskFull(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old) }()

	data := randomBytes(75, 2<<20)
	blobs := &fakeBlobs{}
	blob := blobs.put(data)
	var log bytes.Buffer
	d, err := OpenDiskBlobs(blobs, DiskOptions{Dir: t.TempDir(), MaxSize: 10 << 20, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	full := syscall.Rlimit{Cur: 1 << 20, Max: old.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
		t.Fatal(err)
	}
	size := int64(len(data))
	for i := range 3 {
		if got, err := readAll(d, blob, size, 0, size); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read %d: got %d bytes, %v", i, len(got), err)
		}
		d.settled(t)
		if i == 1 {
			d.mu.Lock()
			d.paused = time.Time{} // a minute later
			d.mu.Unlock()
		}
	}
	d.expect(t, DiskStatus{Misses: 2, Bypassed: 3, Failures: 2})
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "cannot store"); n != 1 {
		t.Errorf("said %d times: %s", n, log.String())
	}
	if n := len(d.onDisk(t)); n != 0 {
		t.Errorf("got the files %v", d.onDisk(t))
	}
	d.mu.Lock()
	d.paused = time.Time{}
	d.mu.Unlock()
	if _, err := readAll(d, blob, size, 0, size); err != nil {
		t.Error(err)
	}
	d.expect(t, DiskStatus{Bytes: size, Blobs: 1, Misses: 3, Bypassed: 3, Failures: 2})
}

// Many readers of many blobs, of which few fit, from a registry that fails now
// and then: all bytes are right, and the disk has what is counted.
func TestDiskUnderLoad(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var faults sync.Mutex
	dice := rand.New(rand.NewPCG(seed, 1))
	blobs := &fakeBlobs{hook: func(r blobRead, body io.ReadCloser) (io.ReadCloser, error) {
		faults.Lock()
		defer faults.Unlock()
		switch dice.IntN(8) {
		case 0:
			return nil, errors.New("500")
		case 1:
			return cut(body, dice.Int64N(r.length+1)), nil
		}
		return body, nil
	}}
	const n = 20
	var data [n][]byte
	for i := range n {
		data[i] = randomBytes(uint64(900+i), 1+(i*37_000)%500_000)
		blobs.put(data[i])
	}
	d := openDisk(t, blobs, t.TempDir(), 1_500_000)
	var wg sync.WaitGroup
	var whole, failed atomic.Int64
	for worker := range 8 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(2+worker)))
			for range 150 {
				i := random.IntN(n)
				size := int64(len(data[i]))
				from := random.Int64N(size)
				if random.IntN(2) == 0 {
					from = 0
				}
				length := 1 + random.Int64N(size-from)
				src := newSource(t.Context(), sized(d, size), digestOf(data[i]), from, length)
				got := make([]byte, length)
				if err := src.fill(got, 10*time.Second); err != nil {
					failed.Add(1)
				} else if !bytes.Equal(got, data[i][from:from+length]) {
					t.Errorf("blob %d, %d bytes from %d: got others", i, length, from)
				} else {
					whole.Add(1)
				}
				src.close()
				if random.IntN(30) == 0 {
					d.Drop(digestOf(data[i]))
				}
			}
		})
	}
	wg.Wait()
	d.settled(t)
	sum := int64(0)
	for name, size := range d.onDisk(t) {
		sum += size
		if b, err := os.ReadFile(filepath.Join(d.dir, name)); err != nil || digestOf(b).Hex != name {
			t.Errorf("the file %s: %v", name, err)
		}
	}
	st := d.Status()
	t.Logf("%d reads, %d failed: %+v", whole.Load(), failed.Load(), st)
	if st.Bytes != sum || sum > 1_500_000 || st.Hits == 0 || st.Evicted == 0 || whole.Load() < 900 {
		t.Errorf("%d bytes on disk", sum)
	}
}
