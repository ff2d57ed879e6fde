package blobs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
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

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/proxytest"
)

func openDisk(tb testing.TB, next Store, dir string, size int64) *Disk {
	tb.Helper()
	d, err := OpenDisk(next, DiskOptions{Dir: dir, MaxSize: size, Logger: proxytest.LogTo(tb)})
	if err != nil {
		tb.Fatal(err)
	}
	d.patience = time.Second
	tb.Cleanup(func() { _ = d.Close() })
	return d
}

// settled waits until nothing is fetched.
func (d *Disk) settled(tb testing.TB) {
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
func (d *Disk) onDisk(tb testing.TB) map[string]int64 {
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

func (d *Disk) expect(tb testing.TB, want DiskStatus) {
	tb.Helper()
	d.settled(tb)
	want.MaxBytes = d.max
	if got := d.Status(); got != want {
		tb.Errorf("got  %+v,\nwant %+v", got, want)
	}
}

// readAll reads a part of a blob that is size bytes long.
func readAll(b Store, blob v1.Hash, size, offset, length int64) ([]byte, error) {
	r, err := Sized(b, size).Blob(context.Background(), blob, offset, length)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// Whatever happens to a fetch, who reads gets all bytes or an error.
func TestDiskFetchFails(t *testing.T) {
	data := proxytest.RandomBytes(72, 3<<20)
	size := int64(len(data))
	broken := errors.New("500")
	wrong := bytes.Clone(data)
	wrong[100] ^= 1
	for _, tc := range []struct {
		name string
		hook func(r proxytest.BlobRead, body io.ReadCloser) (io.ReadCloser, error)
		err  error
		want DiskStatus
	}{
		{
			name: "cut off now and then",
			hook: func(_ proxytest.BlobRead, body io.ReadCloser) (io.ReadCloser, error) {
				return proxytest.Cut(body, 100_000), nil
			},
			want: DiskStatus{Bytes: size, Blobs: 1, Misses: 1},
		},
		{
			name: "cut off for good",
			hook: func(r proxytest.BlobRead, body io.ReadCloser) (io.ReadCloser, error) {
				switch r.N {
				case 1:
					return proxytest.Cut(body, 1<<20), nil
				case 2:
					return nil, broken
				}
				return body, nil
			},
			want: DiskStatus{Misses: 1, Bypassed: 1},
		},
		{
			name: "another blob",
			hook: func(r proxytest.BlobRead, body io.ReadCloser) (io.ReadCloser, error) {
				if r.N == 1 {
					return io.NopCloser(bytes.NewReader(wrong)), nil
				}
				return body, nil
			},
			want: DiskStatus{Misses: 1}, // the reader has got it, and verifies it
		},
		{
			name: "refused",
			hook: func(proxytest.BlobRead, io.ReadCloser) (io.ReadCloser, error) { return nil, broken },
			err:  broken,
			want: DiskStatus{Misses: 1},
		},
		{
			name: "hangs",
			hook: func(r proxytest.BlobRead, body io.ReadCloser) (io.ReadCloser, error) {
				if r.N == 1 {
					return proxytest.Hanging{BlobRead: r}, nil
				}
				return body, nil
			},
			want: DiskStatus{Misses: 1, Bypassed: 1},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fake := &proxytest.Blobs{Hook: tc.hook}
			blob := fake.Put(data)
			d := openDisk(t, fake, t.TempDir(), 10<<20)
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
	fake := &proxytest.Blobs{}
	var hashes []v1.Hash
	content := func(i int) []byte { return proxytest.RandomBytes(uint64(800+i), 1000) }
	for i := range 4 {
		hashes = append(hashes, fake.Put(content(i)))
	}
	big := proxytest.RandomBytes(73, 3001)
	bigHash := fake.Put(big)
	dir := t.TempDir()
	d := openDisk(t, fake, dir, 3000)
	read := func(d *Disk, i int) {
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
	d = openDisk(t, fake, dir, 2000)
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
	d := openDisk(t, &proxytest.Blobs{}, dir, 1)
	_, err := OpenDisk(&proxytest.Blobs{}, DiskOptions{Dir: dir, MaxSize: 1})
	if err == nil || !strings.Contains(err.Error(), "another process uses "+dir) || !strings.Contains(hint.Of(err), "--cache-dir") {
		t.Errorf("got %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	openDisk(t, &proxytest.Blobs{}, dir, 1)
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

	data := proxytest.RandomBytes(75, 2<<20)
	fake := &proxytest.Blobs{}
	blob := fake.Put(data)
	var log bytes.Buffer
	d, err := OpenDisk(fake, DiskOptions{Dir: t.TempDir(), MaxSize: 10 << 20, Logger: slog.New(slog.NewTextHandler(&log, nil))})
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

// Many readers of many fake, of which few fit, from a registry that fails now
// and then: all bytes are right, and the disk has what is counted.
func TestDiskUnderLoad(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var faults sync.Mutex
	dice := rand.New(rand.NewPCG(seed, 1))
	fake := &proxytest.Blobs{Hook: func(r proxytest.BlobRead, body io.ReadCloser) (io.ReadCloser, error) {
		faults.Lock()
		defer faults.Unlock()
		switch dice.IntN(8) {
		case 0:
			return nil, errors.New("500")
		case 1:
			return proxytest.Cut(body, dice.Int64N(r.Length+1)), nil
		}
		return body, nil
	}}
	const n = 20
	var data [n][]byte
	for i := range n {
		data[i] = proxytest.RandomBytes(uint64(900+i), 1+(i*37_000)%500_000)
		fake.Put(data[i])
	}
	d := openDisk(t, fake, t.TempDir(), 1_500_000)
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
				src := Read(t.Context(), Sized(d, size), proxytest.DigestOf(data[i]), from, length)
				got := make([]byte, length)
				if err := src.Fill(got, 10*time.Second); err != nil {
					failed.Add(1)
				} else if !bytes.Equal(got, data[i][from:from+length]) {
					t.Errorf("blob %d, %d bytes from %d: got others", i, length, from)
				} else {
					whole.Add(1)
				}
				src.Close()
				if random.IntN(30) == 0 {
					d.Drop(proxytest.DigestOf(data[i]))
				}
			}
		})
	}
	wg.Wait()
	d.settled(t)
	sum := int64(0)
	for name, size := range d.onDisk(t) {
		sum += size
		if b, err := os.ReadFile(filepath.Join(d.dir, name)); err != nil || proxytest.DigestOf(b).Hex != name {
			t.Errorf("the file %s: %v", name, err)
		}
	}
	st := d.Status()
	t.Logf("%d reads, %d failed: %+v", whole.Load(), failed.Load(), st)
	if st.Bytes != sum || sum > 1_500_000 || st.Hits == 0 || st.Evicted == 0 || whole.Load() < 900 {
		t.Errorf("%d bytes on disk", sum)
	}
}
