package upload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/registry"
)

// checkNAR reads a result back and compares it with our own dump.
func checkNAR(t testing.TB, repo registry.Repository, res Result) {
	t.Helper()
	got, err := io.ReadAll(decompress(t, res.Compression, open(t, repo, res)))
	var want bytes.Buffer
	if derr := ownDump(t.Context(), res.Info.Path, &want); derr != nil {
		t.Fatal(derr)
	}
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s: got %d bytes, %v; want %d", res.Info.Path, len(got), err, want.Len())
	}
}

func TestPacks(t *testing.T) {
	const n, size = 300, 50_000 // 15 MB that do not compress: one full pack and a rest
	var contents [][]byte
	for i := range n {
		contents = append(contents, content(uint32(i), size))
	}
	infos := fabricated(t, contents...)
	repo := &counter{Repository: newRepo(t)}
	var rec recorder
	rec.mustRun(t, repo, infos, Options{})
	if puts := repo.puts.Load(); puts != 2 || repo.writes.Load() != 0 {
		t.Errorf("got %d blobs and %d streams, want 2 blobs", puts, repo.writes.Load())
	}
	end := map[string]int64{}
	for _, res := range rec.results {
		blob := res.Blob.Digest.String()
		end[blob] += res.FileSize
		if res.Sent != res.FileSize || res.Offset+res.FileSize > res.Blob.Size {
			t.Errorf("got %+v", res)
		}
		checkNAR(t, repo, res)
	}
	for _, res := range rec.results {
		if got := end[res.Blob.Digest.String()]; got != res.Blob.Size {
			t.Errorf("the members of %s have %d bytes, it has %d", res.Blob.Digest, got, res.Blob.Size)
		}
	}
}

func TestPackBelow(t *testing.T) {
	infos := fabricated(t, content(1, 1000), content(2, 300_000), content(3, 1000), content(4, 2<<20))
	for below, want := range map[int][2]int64{0: {2, 1}, -1: {3, 1}, 1 << 20: {1, 1}, 500: {3, 1}} {
		repo := &counter{Repository: newRepo(t)}
		var rec recorder
		rec.mustRun(t, repo, infos, Options{PackBelow: below})
		if puts, writes := repo.puts.Load(), repo.writes.Load(); puts != want[0] || writes != want[1] {
			t.Errorf("PackBelow %d: got %d blobs and %d streams, want %v", below, puts, writes, want)
		}
		for _, res := range rec.results {
			checkNAR(t, repo, res)
		}
	}
}

// Contents that several paths share are sent once.
func TestSameContents(t *testing.T) {
	for _, size := range []int{1000, 400_000, 3 << 20} {
		c := content(7, size)
		infos := fabricated(t, c, c, content(8, 1000), c)
		repo := &counter{Repository: newRepo(t)}
		var rec recorder
		rec.mustRun(t, repo, infos, Options{PackBelow: -1})
		if n := repo.puts.Load() + repo.writes.Load(); n != 2 {
			t.Errorf("%d bytes: %d uploads, want 2", size, n)
		}
		sent := 0
		for _, res := range rec.results {
			if res.Sent > 0 {
				sent++
			}
			checkNAR(t, repo, res)
		}
		if len(rec.results) != 4 || sent != 2 {
			t.Errorf("%d bytes: %d results, %d of them sent", size, len(rec.results), sent)
		}
	}
}

// Where one of several paths with the same contents is damaged, the others are
// published from one that is not.
func TestSameContentsDamaged(t *testing.T) {
	for _, size := range []int{1000, 3 << 20} {
		c := content(7, size)
		infos := fabricated(t, c, c, c)
		for _, p := range []string{infos[0].Path, infos[2].Path} {
			if err := os.Chmod(p, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(p, 10); err != nil {
				t.Fatal(err)
			}
		}
		repo := newRepo(t)
		var rec recorder
		failed, err := rec.run(t, repo, infos, Options{})
		if err != nil || len(failed) != 1 || failed[0].Path != infos[0].Path || len(rec.results) != 2 {
			t.Errorf("%d bytes: got %v, %v and %d results", size, failed, err, len(rec.results))
		}
	}
}

func TestCompression(t *testing.T) {
	text := []byte(strings.Repeat("a line of text, and one more\n", 20_000))
	infos := fabricated(t, text, content(1, 100_000))
	sizes := map[int]int64{}
	for _, level := range []int{0, 1, 3, 9, 10, 19, 22} {
		repo := newRepo(t)
		var rec recorder
		rec.mustRun(t, repo, infos, Options{Level: level})
		for _, res := range rec.results {
			checkNAR(t, repo, res)
			sizes[level] += res.FileSize
		}
	}
	if sizes[0] != sizes[3] || sizes[19] > sizes[1] {
		t.Errorf("got sizes %v by level", sizes)
	}
	if _, err := Run(t.Context(), newRepo(t), at(infos), Options{Compression: "lzma"}, nil); err == nil || !strings.Contains(err.Error(), `"lzma"`) {
		t.Errorf("got %v", err)
	}
	if failed, err := Run(t.Context(), newRepo(t), at(nil), Options{}, nil); failed != nil || err != nil {
		t.Errorf("nothing to do: got %v, %v", failed, err)
	}
}

// The same input gives the same bytes, whatever was compressed before.
func TestCompressionIsReproducible(t *testing.T) {
	infos := fabricated(t, content(1, 100_000), []byte(strings.Repeat("text ", 50_000)), content(2, 3<<20))
	hashes := map[string][32]byte{}
	for range 3 {
		var rec recorder
		rec.mustRun(t, newRepo(t), infos, Options{Jobs: 1})
		for _, res := range rec.results {
			if h, ok := hashes[res.Info.Path]; ok && h != res.FileHash {
				t.Errorf("%s became other bytes", res.Info.Path)
			}
			hashes[res.Info.Path] = res.FileHash
		}
	}
}

func TestMaxBlobSize(t *testing.T) {
	infos := fabricated(t, content(1, 1000), content(2, 3000), content(3, 2<<20))
	repo := &counter{Repository: newRepo(t)}
	var rec recorder
	failed, err := rec.run(t, repo, infos, Options{MaxBlobSize: 2500})
	if err != nil || len(failed) != 2 || len(rec.results) != 1 {
		t.Fatalf("got %v, %v", failed, err)
	}
	for _, f := range failed {
		if !strings.Contains(f.Err.Error(), f.Path) || !strings.Contains(f.Err.Error(), "2500") || hint.Of(f.Err) == "" {
			t.Errorf("got %v, hint %q", f.Err, hint.Of(f.Err))
		}
	}
	if repo.puts.Load() != 1 || repo.writes.Load() != 0 {
		t.Errorf("got %d blobs and %d streams, want one blob", repo.puts.Load(), repo.writes.Load())
	}
}

func many(t testing.TB, n, size int) []nix.PathInfo {
	var contents [][]byte
	for i := range n {
		contents = append(contents, content(uint32(i), size))
	}
	return fabricated(t, contents...)
}

// A registry that is gone ends a run after a few failures, whatever is left.
func TestDeadRegistry(t *testing.T) {
	gone := func(int64) error { return errors.New("registry x: connection refused") }
	t.Run("blobs and streams", func(t *testing.T) {
		repo := &counter{Repository: newRepo(t), put: gone, write: gone}
		var rec recorder
		infos := append(many(t, 60, 300_000), many(t, 20, 1200_000)...)
		failed, err := rec.run(t, repo, infos, Options{Jobs: 4})
		if err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("got %v", err)
		}
		if n := repo.puts.Load() + repo.writes.Load(); n > registryFailures+4 || len(failed) > registryFailures+4 {
			t.Errorf("%d uploads were tried, and %d failures told", n, len(failed))
		}
	})
	t.Run("packs", func(t *testing.T) {
		repo := &counter{Repository: newRepo(t), put: gone}
		var rec recorder
		infos := many(t, 1200, 60_000) // nine packs
		failed, err := rec.run(t, repo, infos, Options{Jobs: 2})
		if err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("got %v", err)
		}
		if n := repo.puts.Load(); n < registryFailures || n > registryFailures+2 {
			t.Errorf("%d packs were tried", n)
		}
		if len(failed) == 0 || len(rec.results) > 0 {
			t.Errorf("got %d failures, %d results", len(failed), len(rec.results))
		}
	})
	t.Run("damaged paths do not count", func(t *testing.T) {
		infos := many(t, 50, 1000)
		for i := range infos[:40] {
			infos[i].NarSize++
		}
		var rec recorder
		failed, err := rec.run(t, newRepo(t), infos, Options{Jobs: 1})
		if err != nil || len(failed) != 40 || len(rec.results) != 10 {
			t.Errorf("got %d failures, %d results, %v", len(failed), len(rec.results), err)
		}
	})
}

// One failure of the registry costs the paths that it hit, no others.
func TestPackFails(t *testing.T) {
	repo := &counter{Repository: newRepo(t), put: func(n int64) error {
		if n == 1 || n == 3 { // the second time, too
			return errors.New("registry x: boom")
		}
		return nil
	}}
	infos := many(t, 300, 60_000) // two packs and a rest
	var rec recorder
	failed, err := rec.run(t, repo, infos, Options{Jobs: 2})
	if err != nil || len(failed) < 100 || len(failed) > 200 {
		t.Errorf("got %d failures, %v", len(failed), err)
	}
	for i, f := range failed {
		if f.Err == nil || i > 0 && failed[i-1].Path >= f.Path {
			t.Errorf("failures are not in order: %v", f)
		}
	}
	for _, res := range rec.results {
		checkNAR(t, repo, res)
	}
}

// refusing is a real registry that answers uploads with a status.
func refusing(t *testing.T, status int, requests *atomic.Int64) registry.Repository {
	inner := ggcr.New(ggcr.Logger(slog.NewLogLogger(slog.DiscardHandler, 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			requests.Add(1)
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(status)
			fmt.Fprint(w, `{"errors":[{"code":"DENIED","message":"no"}]}`)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	r, err := registry.Open(strings.TrimPrefix(s.URL, "http://")+"/a/b", registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestDeniedStopsAtOnce(t *testing.T) {
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		for _, infos := range [][]nix.PathInfo{many(t, 50, 2<<20), many(t, 50, 300_000), many(t, 50, 1000)} {
			var requests atomic.Int64
			var rec recorder
			_, err := rec.run(t, refusing(t, status, &requests), infos, Options{Jobs: 2})
			if !registry.Denied(err) || hint.Of(err) == "" {
				t.Errorf("%d: got %v, hint %q", status, err, hint.Of(err))
			}
			if n := requests.Load(); n > 4 { // those that were under way
				t.Errorf("%d: %d uploads were tried", status, n)
			}
		}
	}
}

// An error of the caller's ends the run, and comes back as it was.
func TestDoneFails(t *testing.T) {
	boom := errors.New("boom")
	for _, size := range []int{1000, 300_000, 2 << 20} {
		calls := atomic.Int64{}
		failed, err := Run(t.Context(), newRepo(t), at(many(t, 30, size)), Options{Jobs: 2}, func(context.Context, Result) error {
			calls.Add(1)
			return boom
		})
		if err != boom || len(failed) > 0 || calls.Load() > 4 { //nolint:errorlint // it comes back as it was
			t.Errorf("%d bytes: got %v, %v after %d calls", size, failed, err, calls.Load())
		}
	}
}

// retrying is a repository that reads each stream again and again, as one does
// behind a bad connection.
type retrying struct {
	registry.Repository
	times int
	after int64 // bytes of a try that fails; -1 means all
}

func (r retrying) WriteBlob(ctx context.Context, write func(io.Writer) error) (v1.Descriptor, error) {
	for range r.times {
		_ = write(&failing{left: r.after})
	}
	return r.Repository.WriteBlob(ctx, write)
}

type failing struct{ left int64 }

func (f *failing) Write(p []byte) (int, error) {
	if f.left < 0 {
		return len(p), nil
	}
	if f.left -= int64(len(p)); f.left <= 0 {
		return 0, errors.New("connection lost")
	}
	return len(p), nil
}

// run checks the sums.
func TestProgressAfterRetries(t *testing.T) {
	infos := append(many(t, 5, 2<<20), many(t, 20, 1000)...)
	for _, after := range []int64{0, 500_000, -1} {
		var rec recorder
		rec.mustRun(t, retrying{newRepo(t), 3, after}, infos, Options{})
	}
	t.Run("of paths that fail in the end", func(t *testing.T) {
		repo := &counter{Repository: retrying{newRepo(t), 2, 500_000}, write: func(n int64) error {
			if n%2 == 0 {
				return errors.New("registry x: boom")
			}
			return nil
		}}
		var rec recorder
		failed, err := rec.run(t, repo, infos, Options{Jobs: 1})
		if err != nil || len(failed) == 0 || len(failed) > 2 { // of two, one may be taken the second time
			t.Errorf("got %v, %v", failed, err)
		}
	})
}

// Our own dump is tried first; what it cannot read Nix's does.
func TestFallback(t *testing.T) {
	infos := fabricated(t, content(1, 1000), content(2, 2<<20))
	calls := atomic.Int64{}
	broken := func(p nix.PathInfo) nix.PathInfo { // so that our own dump finds something else
		p.NarSize++
		p.NarHash = "sha256:" + strings.Repeat("0", 52)
		return p
	}
	dump := func(_ context.Context, path string, w io.Writer) error {
		calls.Add(1)
		return ownDump(t.Context(), path, w)
	}
	var rec recorder
	rec.mustRun(t, newRepo(t), infos, Options{Dump: dump})
	if calls.Load() != 0 {
		t.Errorf("Nix was asked %d times without need", calls.Load())
	}
	rec = recorder{}
	failed, err := rec.run(t, newRepo(t), []nix.PathInfo{broken(infos[0]), broken(infos[1])}, Options{Dump: dump})
	if err != nil || len(failed) != 2 || calls.Load() != 2 {
		t.Errorf("got %v, %v after %d calls", failed, err, calls.Load())
	}
	for _, f := range failed {
		if !errors.As(f.Err, new(*CorruptedError)) {
			t.Errorf("got %v", f.Err)
		}
	}
	// a path that our own dump cannot see at all
	dir := t.TempDir() + "/x"
	unread := infos[1]
	unread.Path = dir
	rec = recorder{}
	rec.mustRun(t, newRepo(t), []nix.PathInfo{unread}, Options{Dump: func(ctx context.Context, _ string, w io.Writer) error {
		return ownDump(ctx, infos[1].Path, w)
	}})
}

func TestCancel(t *testing.T) {
	stop := errors.New("the user has had enough")
	before := runtime.NumGoroutine()
	infos := append(many(t, 50, 2<<20), many(t, 200, 50_000)...)
	t.Run("before the start", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(stop)
		repo := &counter{Repository: newRepo(t)}
		failed, err := Run(ctx, repo, at(infos), Options{}, nil)
		if !errors.Is(err, stop) || len(failed) > 0 || repo.puts.Load()+repo.writes.Load() > 0 {
			t.Errorf("got %v, %v", failed, err)
		}
	})
	t.Run("in the middle", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		repo := &counter{Repository: newRepo(t), write: func(n int64) error {
			if n == 5 {
				cancel(stop)
			}
			return nil
		}}
		failed, err := Run(ctx, repo, at(infos), Options{Jobs: 2}, func(context.Context, Result) error { return nil })
		if !errors.Is(err, stop) || len(failed) > 0 || repo.writes.Load() > 7 {
			t.Errorf("got %v, %v after %d streams", failed, err, repo.writes.Load())
		}
	})
	t.Run("while a path is read", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		endless := infos[0]
		endless.Path, endless.NarSize = "/nowhere", 1<<60
		start := time.Now()
		failed, err := Run(ctx, newRepo(t), at([]nix.PathInfo{endless}), Options{Dump: func(_ context.Context, _ string, w io.Writer) error {
			for i := 0; ; i++ {
				if i == 100 {
					cancel(stop)
				}
				if _, err := w.Write(content(uint32(i), 100_000)); err != nil {
					return err
				}
			}
		}}, nil)
		if !errors.Is(err, stop) || len(failed) > 0 || time.Since(start) > 10*time.Second {
			t.Errorf("got %v, %v after %s", failed, err, time.Since(start))
		}
	})
	t.Run("in the last pack", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		repo := &counter{Repository: newRepo(t), put: func(int64) error {
			cancel(stop)
			return stop
		}}
		failed, err := Run(ctx, repo, at(infos[50:60]), Options{}, nil)
		if !errors.Is(err, stop) || len(failed) > 0 {
			t.Errorf("got %v, %v", failed, err)
		}
	})
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}

func TestSchedule(t *testing.T) {
	p := func(name, hash string, size int64) nix.PathInfo {
		return nix.PathInfo{Path: name, NarHash: hash, NarSize: size}
	}
	groups := schedule([]nix.PathInfo{p("a", "1", 1), p("b", "2", large), p("c", "1", 1), p("d", "3", large-1), p("e", "4", large+1), p("f", "2", large)})
	got := ""
	for _, g := range groups {
		for _, p := range g {
			got += p.Path
		}
		got += " "
	}
	if want := "bf e ac d "; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMemoryOfManyStreams(t *testing.T) {
	const jobs = 4
	infos := many(t, 8, 24<<20)
	repo := newRepo(t)
	var rec recorder
	peak := peakMemory(func() { rec.mustRun(t, repo, infos, Options{Jobs: jobs}) })
	t.Logf("%d MB of heap for %d at once", peak>>20, jobs)
	if peak > jobs*15<<20 {
		t.Errorf("the heap grew by %d MB, want at most 15 for each of %d", peak>>20, jobs)
	}
}

// What arrives is uploaded while more may come, small paths too: they wait for
// others for a while, and not for the end.
func TestPathsArrive(t *testing.T) {
	t.Parallel()
	infos := append(many(t, 2, 2<<20), many(t, 3, 5000)...)
	arriving := make(chan []nix.PathInfo)
	results := make(chan Result)
	type end struct {
		failed []Failure
		err    error
	}
	ended := make(chan end, 1)
	go func() {
		failed, err := Run(t.Context(), newRepo(t), arriving, Options{PackWait: 50 * time.Millisecond}, func(_ context.Context, r Result) error {
			results <- r
			return nil
		})
		ended <- end{failed, err}
	}()
	got := map[string]int{}
	for i := range infos[:4] {
		arriving <- infos[i : i+1]
		got[(<-results).Info.Path]++
	}
	arriving <- infos[4:]
	close(arriving)
	got[(<-results).Info.Path]++
	if e := <-ended; e.err != nil || len(e.failed) > 0 || len(got) != 5 {
		t.Errorf("got %v, %v, and results for %v", e.failed, e.err, got)
	}
}

// What the registry has not taken is tried once more when all paths have arrived:
// it may have been away for a while only.
func TestRefusedIsTriedAgain(t *testing.T) {
	t.Parallel()
	for _, size := range []int{5000, 400_000, 2 << 20} {
		for _, lasting := range []bool{false, true} {
			infos := many(t, 1, size)
			refused := make(logged, 10)
			away := func(n int64) error {
				if lasting || n == 1 {
					return errors.New("the registry is away")
				}
				return nil
			}
			repo := &counter{Repository: newRepo(t), put: away, write: away}
			arriving := make(chan []nix.PathInfo)
			go func() {
				defer close(arriving)
				arriving <- infos
				<-refused
			}()
			var results int
			failed, err := Run(t.Context(), repo, arriving, Options{PackWait: time.Millisecond, Logger: slog.New(refused)}, func(context.Context, Result) error {
				results++
				return nil
			})
			if want := map[bool]int{true: 1}[lasting]; err != nil || len(failed) != want || results != 1-want || repo.puts.Load()+repo.writes.Load() != 2 {
				t.Errorf("%d bytes, lasting %v: got %v, %v and %d results after %d tries", size, lasting, failed, err, results, repo.puts.Load()+repo.writes.Load())
			}
		}
	}
}

// logged has a word for each message.
type logged chan struct{}

func (l logged) Enabled(context.Context, slog.Level) bool { return true }
func (l logged) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l logged) WithGroup(string) slog.Handler            { return l }

func (l logged) Handle(context.Context, slog.Record) error {
	l <- struct{}{}
	return nil
}
