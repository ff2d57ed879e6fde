package push_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/proxy"
	"github.com/org/nixoci-action/proxy/push"
)

// killable is a repository that a process sees until it is killed. What it has
// asked for last may have been done or not.
type killable struct {
	registry.Repository
	dead atomic.Bool
}

var errKilled = errors.New("killed")

func (k *killable) do(f func() error) error {
	if k.dead.Load() {
		return errKilled
	}
	err := f()
	if k.dead.Load() {
		return errKilled
	}
	return err
}

func (k *killable) PutManifest(ctx context.Context, tag string, m registry.Manifest) (h v1.Hash, err error) {
	err = k.do(func() (err error) { h, err = k.Repository.PutManifest(ctx, tag, m); return err })
	return h, err
}

func (k *killable) PutBlob(ctx context.Context, b []byte) (d v1.Descriptor, err error) {
	err = k.do(func() (err error) { d, err = k.Repository.PutBlob(ctx, b); return err })
	return d, err
}

func (k *killable) WriteBlob(ctx context.Context, write func(io.Writer) error) (d v1.Descriptor, err error) {
	err = k.do(func() (err error) { d, err = k.Repository.WriteBlob(ctx, write); return err })
	return d, err
}

func (k *killable) Manifest(ctx context.Context, ref string) (m registry.Manifest, err error) {
	err = k.do(func() (err error) { m, err = k.Repository.Manifest(ctx, ref); return err })
	return m, err
}

// history is a cache into which two proxies are pushed, beside a publisher and
// a collector; the proxies are killed again and again.
type history struct {
	t       *testing.T
	repo    registry.Repository
	limit   time.Time // when it has failed
	servers [2]atomic.Pointer[proxy.Server]
	lives   atomic.Int64 // of proxies, that have ended
	gcs     atomic.Int64

	mu    sync.Mutex
	acked []pushed
}

// goesOn is true until enough has happened, however long the machine takes for
// that.
func (h *history) goesOn() bool {
	switch {
	case h.t.Failed():
		return false
	case time.Now().After(h.limit):
		h.t.Errorf("in all the time only %d paths were acknowledged, %d proxies ended, and %d collections", len(h.all()), h.lives.Load(), h.gcs.Load())
		return false
	}
	return len(h.all()) < 40 || h.lives.Load() < 6 || h.gcs.Load() < 5
}

func (h *history) ack(p pushed) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acked = append(h.acked, p)
}

func (h *history) all() []pushed {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.acked[:len(h.acked):len(h.acked)]
}

// No path that was acknowledged is lost, and none is there without what it
// refers to, whatever else happens.
func TestPushHistories(t *testing.T) {
	onBackends(t, func(t *testing.T, repo registry.Repository) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		h := &history{t: t, repo: repo, limit: time.Now().Add(5 * time.Minute)}
		var wg sync.WaitGroup
		ready := make(chan struct{}, len(h.servers))
		for i := range h.servers {
			wg.Go(func() { h.serve(i, rand.New(rand.NewPCG(seed, uint64(i))), ready) })
		}
		for range h.servers {
			<-ready
		}
		for i := range 4 {
			wg.Go(func() { h.client(i, rand.New(rand.NewPCG(seed, uint64(10+i)))) })
		}
		wg.Go(func() { h.publisher(rand.New(rand.NewPCG(seed, 20))) })
		wg.Go(h.collector)
		for h.goesOn() {
			h.check()
			time.Sleep(100 * time.Millisecond)
		}
		wg.Wait()
		h.check()
		t.Logf("%d paths", len(h.all()))
	})
}

// serve is a proxy, and its successors.
func (h *history) serve(n int, random *rand.Rand, ready chan<- struct{}) {
	for life := 0; h.goesOn() || life == 0; life++ {
		k := &killable{Repository: h.repo}
		cache := index.Open(k, index.Options{Settle: time.Millisecond})
		s, err := proxy.New(proxy.Options{Index: cache, Blobs: k, Refresh: time.Second, Push: push.New(push.Options{
			Cache: cache, Repository: k, Dir: filepath.Join(h.t.TempDir(), "tmp"), Idle: 200 * time.Millisecond,
		})})
		if err != nil {
			h.t.Error(err)
			return
		}
		if err := s.Prepare(context.Background()); err != nil {
			h.t.Error(err)
			return
		}
		h.servers[n].Store(s)
		if life == 0 {
			ready <- struct{}{}
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(ctx) }()
		time.Sleep(time.Duration(random.Int64N(int64(1500 * time.Millisecond))))
		k.dead.Store(random.IntN(4) > 0) // else it is stopped
		cancel()
		<-ended
		h.lives.Add(1)
	}
}

// client pushes paths that refer to others, of whomever.
func (h *history) client(n int, random *rand.Rand) {
	for i := 0; h.goesOn(); i++ {
		size := 100 + random.IntN(2000)
		if random.IntN(6) == 0 {
			size = push.SmallNAR + random.IntN(50_000)
		}
		s := h.servers[random.IntN(len(h.servers))].Load()
		var refs []string
		for range random.IntN(3) {
			// as Nix: only what this proxy shows it takes to be there
			if all := h.all(); len(all) > 0 {
				if ref := all[random.IntN(len(all))]; proxytest.Get(s, http.MethodGet, ref.narinfo()).Code == http.StatusOK {
					refs = append(refs, ref.base())
				}
			}
		}
		how := []string{bincache.CompressionZstd, bincache.CompressionNone}[random.IntN(2)]
		p := newPushed(h.t, fmt.Sprintf("c%d-%d", n, i), how, proxytest.RandomBytes(random.Uint64(), size), refs...)
		p.entry.References = slices.Compact(p.entry.References)
		for try := 0; try < 3; try++ {
			if w := copyTo(s, p); w.Code < 300 {
				h.ack(p)
				if w := proxytest.Get(s, http.MethodGet, p.narinfo()); w.Code != http.StatusOK {
					h.t.Errorf("%s is not there, just acknowledged: %d", p.entry.Path, w.Code)
				}
				break
			}
			time.Sleep(20 * time.Millisecond)
			s = h.servers[random.IntN(len(h.servers))].Load()
		}
	}
}

// publisher is a publish, again and again.
func (h *history) publisher(random *rand.Rand) {
	ctx := context.Background()
	for i := 0; h.goesOn(); i++ {
		c := index.Open(h.repo, index.Options{Settle: time.Millisecond})
		base, err := c.Sweep(ctx)
		if err != nil {
			h.t.Error(err)
			return
		}
		w, err := c.NewWriter(base, index.WriterOptions{})
		if err != nil {
			h.t.Error(err)
			return
		}
		p := newPushed(h.t, fmt.Sprintf("published-%d", i), bincache.CompressionNone, proxytest.RandomBytes(uint64(i), 500))
		proxytest.PutBlob(h.t, h.repo, p.file)
		if err := w.Add(ctx, p.entry); err != nil {
			h.t.Error(err)
		}
		if _, err := w.Close(ctx, &format.Publication{Time: time.Now(), Ref: "refs/heads/main", Roots: []format.Root{{Path: p.base()}}}); err != nil {
			h.t.Error(err)
		} else {
			h.ack(p)
		}
		time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
	}
}

// collector is gc: it merges segments, and deletes those that were replaced.
func (h *history) collector() {
	ctx := context.Background()
	for h.goesOn() {
		time.Sleep(500 * time.Millisecond)
		c := index.Open(h.repo, index.Options{Settle: time.Millisecond})
		s, err := c.Sweep(ctx)
		if err != nil {
			h.t.Error(err)
			return
		}
		p, err := collect.NewPlan(s, collect.PlanOptions{Now: time.Now(), Retention: collect.Retention{Last: 1, Age: time.Hour}, Delay: 3 * time.Second})
		if err == nil {
			_, err = collect.Run(ctx, c, p)
		}
		if err != nil {
			h.t.Errorf("collecting: %v", err)
		}
		h.gcs.Add(1)
	}
}

// check reads the cache as somebody who has never seen it.
func (h *history) check() {
	h.t.Helper()
	all := h.all()
	s, err := index.Open(h.repo, index.Options{}).Sweep(context.Background())
	if err != nil {
		h.t.Error(err)
		return
	}
	for _, p := range all {
		e, ok := s.Lookup(p.entry.Path.HashPart)
		if !ok {
			h.t.Errorf("%s was acknowledged, and is not there", p.entry.Path)
			continue
		}
		if e.FileHash != p.entry.FileHash {
			h.t.Errorf("%s has another NAR", p.entry.Path)
		}
	}
	for e := range s.All {
		for _, r := range e.References {
			if !s.Has(r[:32]) {
				h.t.Errorf("%s is there, and %s to which it refers is not", e.Path, r)
			}
		}
		body, err := h.repo.Blob(context.Background(), e.NAR.Blob, e.NAR.Offset, e.NAR.Size)
		if err != nil {
			h.t.Errorf("%s has no NAR: %v", e.Path, err)
			continue
		}
		b, err := io.ReadAll(body)
		body.Close()
		if bincache.FormatHash(proxytest.Sum(b)) != e.FileHash {
			h.t.Errorf("the NAR of %s is not what it should be: %v", e.Path, err)
		}
	}
}

// noiseNAR is a NAR of a file of noise that is made as it is read.
type noiseNAR struct {
	head, tail []byte
	left       int64
	random     *rand.ChaCha8
}

func newNoiseNAR(size int64) (*noiseNAR, int64) {
	nar := narOf(nil)
	at := bytes.Index(nar, []byte("contents")) + 8
	n := &noiseNAR{head: append(bytes.Clone(nar[:at]), byte(size), byte(size>>8), byte(size>>16), byte(size>>24), 0, 0, 0, 0), tail: nar[at+8:], left: size, random: rand.NewChaCha8([32]byte{1})}
	return n, int64(len(nar)) + size
}

func (n *noiseNAR) Read(b []byte) (int, error) {
	switch {
	case len(n.head) > 0:
		k := copy(b, n.head)
		n.head = n.head[k:]
		return k, nil
	case n.left > 0:
		b = b[:min(int64(len(b)), n.left)]
		k, _ := n.random.Read(b)
		n.left -= int64(k)
		return k, nil
	case len(n.tail) > 0:
		k := copy(b, n.tail)
		n.tail = n.tail[k:]
		return k, nil
	}
	return 0, io.EOF
}

// A large NAR is never in memory as a whole, nor are many at once.
func TestPushMemory(t *testing.T) {
	const size, limit = 300 << 20, 80 << 20
	repo := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	s := newPushServer(t, repo)
	url := proxytest.Start(t, s)
	h := newHashOf(t, size)
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() {
		highest := uint64(0)
		for {
			select {
			case <-stop:
				peak <- highest
				return
			case <-time.After(10 * time.Millisecond):
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				highest = max(highest, m.HeapInuse)
			}
		}
	}()
	nar, length := newNoiseNAR(size)
	req, err := http.NewRequest(http.MethodPut, url+"/nar/"+h+".nar", nar)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = length
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	close(stop)
	used := int64(<-peak) - int64(before.HeapInuse)
	t.Logf("%d MB of memory for a NAR of %d MB", used>>20, size>>20)
	if resp.StatusCode != http.StatusCreated || used > limit {
		t.Errorf("got %s and %d bytes of memory, want at most %d", resp.Status, used, limit)
	}
}

func newHashOf(t *testing.T, size int64) string {
	t.Helper()
	nar, _ := newNoiseNAR(size)
	sum := sha256.New()
	if _, err := io.Copy(sum, nar); err != nil {
		t.Fatal(err)
	}
	return bincache.HashDigits(bincache.FormatHash(sum.Sum(nil)))
}
