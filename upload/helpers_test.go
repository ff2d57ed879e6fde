package upload

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registry"
)

// raceEnabled tells that compression is ten times slower than usual.
var raceEnabled bool

// store is a real Nix store.
type store struct {
	*nixtest.Env
	client *nix.Client
}

func newStore(t testing.TB) *store {
	e := nixtest.New(t)
	return &store{e, nix.New(nix.Options{Env: e.Vars, Stderr: nixtest.Log(t)})}
}

// build builds derivations, given as attributes of drv's argument, and returns
// what the store records about all their outputs, in the order of the names of
// the outputs' paths.
func (s *store) build(t testing.TB, exprs ...string) []nix.PathInfo {
	t.Helper()
	expr := `let drv = args: derivation ({
	  system = "x86_64-linux"; builder = "/bin/sh"; PATH = builtins.getEnv "PATH";
	  args = [ "-ec" args.script ];
	} // builtins.removeAttrs args [ "script" ]);
	in [ ` + strings.Join(exprs, "\n") + ` ]`
	drvs := s.Run(t, s.Dir, "nix-instantiate", "-E", expr)
	var args []string
	for _, d := range strings.Fields(drvs) {
		d, _, _ = strings.Cut(d, "!")
		args = append(args, d)
	}
	paths := strings.Fields(s.Run(t, s.Dir, "nix-store", append([]string{"--realise"}, args...)...))
	return s.info(t, paths...)
}

func (s *store) info(t testing.TB, paths ...string) []nix.PathInfo {
	t.Helper()
	infos, err := s.client.PathInfo(t.Context(), paths, false)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(infos, func(a, b nix.PathInfo) int { return strings.Compare(name(a), name(b)) })
	return infos
}

// name is a path's name, without its hash part.
func name(p nix.PathInfo) string {
	_, base, _ := strings.Cut(p.Path[strings.LastIndexByte(p.Path, '/')+1:], "-")
	return base
}

func named(t testing.TB, infos []nix.PathInfo, want string) nix.PathInfo {
	t.Helper()
	for _, i := range infos {
		if name(i) == want {
			return i
		}
	}
	t.Fatalf("no path is named %q", want)
	return nix.PathInfo{}
}

func newRepo(t testing.TB) registry.Repository {
	t.Helper()
	r, err := registry.Open("oci:"+t.TempDir(), registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// recorder keeps what a Run reports.
type recorder struct {
	mu      sync.Mutex
	results []Result
	added   int64 // by Progress.Add
	done    map[string]int64
	sent    int64
}

func (r *recorder) Add(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.added += n
}

func (r *recorder) Done(path string, narSize, fileSize int64, _ time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		r.done = map[string]int64{}
	}
	r.done[path] += narSize
	r.sent += fileSize
}

func (r *recorder) result(_ context.Context, res Result) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results = append(r.results, res)
	return nil
}

// at makes paths arrive all at once.
func at(paths []nix.PathInfo) <-chan []nix.PathInfo {
	c := make(chan []nix.PathInfo, 1)
	c <- paths
	close(c)
	return c
}

// run uploads paths and checks what must be true of every Run. Only of one that
// was stopped the sum of what was read does not matter.
func (r *recorder) run(t testing.TB, repo registry.Repository, paths []nix.PathInfo, o Options) ([]Failure, error) {
	t.Helper()
	o.Progress = r
	failed, err := Run(t.Context(), repo, at(paths), o, r.result)
	var size, sent int64
	for _, res := range r.results {
		size += res.Info.NarSize
		sent += res.Sent
		if r.done[res.Info.Path] != res.Info.NarSize {
			t.Errorf("progress for %s: %d bytes, want %d", res.Info.Path, r.done[res.Info.Path], res.Info.NarSize)
		}
	}
	if err == nil && r.added != size || r.sent != sent || len(r.done) != len(r.results) {
		t.Errorf("progress says %d bytes read, %d sent, %d paths; want %d, %d, %d", r.added, r.sent, len(r.done), size, sent, len(r.results))
	}
	if err == nil && len(r.results)+len(failed) != len(paths) {
		t.Errorf("%d results and %d failures for %d paths", len(r.results), len(failed), len(paths))
	}
	return failed, err
}

// mustRun is run without any failure.
func (r *recorder) mustRun(t testing.TB, repo registry.Repository, paths []nix.PathInfo, o Options) {
	t.Helper()
	if failed, err := r.run(t, repo, paths, o); err != nil || len(failed) > 0 {
		t.Fatalf("got failures %v, error %v", failed, err)
	}
}

// open reads a result's compressed NAR as a client gets it.
func open(t testing.TB, repo registry.Repository, res Result) io.Reader {
	t.Helper()
	body, err := repo.Blob(t.Context(), res.Blob.Digest, res.Offset, res.FileSize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { body.Close() })
	return body
}

func decompress(t testing.TB, compression string, r io.Reader) io.Reader {
	t.Helper()
	switch compression {
	case bincache.CompressionZstd:
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Close)
		return d
	case bincache.CompressionXZ:
		d, err := xz.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		return d
	case bincache.CompressionNone:
		return r
	}
	t.Fatalf("unknown compression %q", compression)
	return nil
}

// check reads a result back and compares it, byte for byte, with what Nix
// itself makes of the path.
func (s *store) check(t testing.TB, repo registry.Repository, res Result) {
	t.Helper()
	file := sha256.New()
	compressed := io.TeeReader(open(t, repo, res), file)
	cmd := exec.Command("nix-store", "--dump", res.Info.Path)
	cmd.Env = s.Vars
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n, err := compare(decompress(t, res.Compression, compressed), out)
	_, _ = io.Copy(io.Discard, out)
	if werr := cmd.Wait(); werr != nil {
		t.Fatal(werr)
	}
	if err != nil || n != res.Info.NarSize {
		t.Errorf("%s: after %d of %d bytes: %v", res.Info.Path, n, res.Info.NarSize, err)
	}
	if n, _ := io.Copy(io.Discard, compressed); n > 0 {
		t.Errorf("%s: %d bytes are left over", res.Info.Path, n)
	}
	if [32]byte(file.Sum(nil)) != res.FileHash {
		t.Errorf("%s: the file hash is wrong", res.Info.Path)
	}
}

func compare(a, b io.Reader) (int64, error) {
	ra, rb := bufio.NewReaderSize(a, 1<<20), bufio.NewReaderSize(b, 1<<20)
	pa, pb := make([]byte, 1<<20), make([]byte, 1<<20)
	total := int64(0)
	for {
		na, erra := io.ReadFull(ra, pa)
		nb, errb := io.ReadFull(rb, pb)
		if !bytes.Equal(pa[:na], pb[:nb]) {
			return total, errors.New("other bytes")
		}
		total += int64(na)
		switch {
		case errors.Is(erra, io.EOF), errors.Is(erra, io.ErrUnexpectedEOF):
			return total, nil
		case erra != nil:
			return total, erra
		case errb != nil:
			return total, errb
		}
	}
}

// counter counts what a repository is asked for, and fails as it is told.
type counter struct {
	registry.Repository
	puts, writes atomic.Int64
	// put and write come before the n-th call, from 1 on; an error ends it.
	put, write func(n int64) error
}

func (c *counter) PutBlob(ctx context.Context, data []byte) (v1.Descriptor, error) {
	if n := c.puts.Add(1); c.put != nil {
		if err := c.put(n); err != nil {
			return v1.Descriptor{}, err
		}
	}
	return c.Repository.PutBlob(ctx, data)
}

func (c *counter) WriteBlob(ctx context.Context, write func(io.Writer) error) (v1.Descriptor, error) {
	if n := c.writes.Add(1); c.write != nil {
		if err := c.write(n); err != nil {
			return v1.Descriptor{}, err
		}
	}
	return c.Repository.WriteBlob(ctx, write)
}

// fabricated makes paths without a Nix: plain files with the given contents,
// described as a store would.
func fabricated(t testing.TB, contents ...[]byte) []nix.PathInfo {
	t.Helper()
	dir := t.TempDir()
	var infos []nix.PathInfo
	for i, c := range contents {
		p := nix.PathInfo{Path: fmt.Sprintf("%s/%032d-f%d", dir, i, i)}
		if err := os.WriteFile(p.Path, c, 0o444); err != nil {
			t.Fatal(err)
		}
		m := &meter{sum: sha256.New(), limit: 1 << 40, progress: silent{}}
		if err := ownDump(t.Context(), p.Path, m); err != nil {
			t.Fatal(err)
		}
		p.NarHash, p.NarSize = m.hash(), m.n
		infos = append(infos, p)
	}
	return infos
}

// content is n bytes that do not compress and differ by seed.
func content(seed uint32, n int) []byte {
	b := make([]byte, n)
	x := seed*2654435761 + 12345
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}
