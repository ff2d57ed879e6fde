package main

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/nix-community/go-nix/pkg/nixbase32"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/internal/ui"
)

// largeIndexes measures what grows with the number of entries.
func largeIndexes(ctx context.Context, b *bench) ([]section, error) {
	dir, remove, err := b.work("index")
	if err != nil {
		return nil, err
	}
	defer remove()
	st, err := newStore(dir) // an environment for the proxy
	if err != nil {
		return nil, err
	}
	d, err := startDistribution(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer d.stop()
	sizes := section{Title: "index: sizes", About: "A segment for every 500 entries, three references and one signature an entry."}
	var largest *largeIndex
	for _, n := range []int{1000, 10_000, 100_000} {
		n = b.scaled(n, n/100)
		x := &largeIndex{bench: b, store: st, cache: d.cache("e" + strconv.Itoa(n)), entries: n, local: filepath.Join(dir, strconv.Itoa(n))}
		if err := x.make(ctx, &sizes); err != nil {
			return nil, err
		}
		if err := b.waitQuiet(ctx); err != nil {
			return nil, err
		}
		for rep := range b.reps {
			if err := x.starts(&sizes, x.local+"-"+strconv.Itoa(rep)); err != nil {
				return nil, err
			}
		}
		largest = x
	}
	if err := b.waitQuiet(ctx); err != nil {
		return nil, err
	}
	use := section{Title: "index: " + largest.String() + " in use", About: "Answers' bodies are counted; headers are not."}
	for range b.reps {
		if err := largest.polls(ctx, &use); err != nil {
			return nil, err
		}
	}
	return []section{sizes, use}, largest.lookups(ctx, &use)
}

// largeIndex is the index of a cache that has no NARs.
type largeIndex struct {
	*bench
	store   *store
	cache   string
	local   string
	entries int

	faker   *faker
	reader  *index.Cache
	traffic *traffic
}

func (x *largeIndex) String() string { return ui.Number(x.entries) + " entries" }

func (x *largeIndex) make(ctx context.Context, s *section) error {
	x.log("index: making %s", x)
	repo, err := registry.Open(x.cache, registry.Options{Push: true})
	if err != nil {
		return err
	}
	if x.faker, err = newFaker(ctx, repo, x.store.dir); err != nil {
		return err
	}
	if err := x.faker.publish(ctx, x.entries); err != nil {
		return err
	}
	x.traffic = &traffic{next: http.DefaultTransport}
	counted, err := registry.Open(x.cache, registry.Options{Transport: x.traffic})
	if err != nil {
		return err
	}
	x.reader = index.Open(counted, index.Options{})
	snap, err := x.reader.Refresh(ctx)
	if err != nil {
		return err
	}
	if snap.Len() != x.entries {
		return fmt.Errorf("the index has %d entries, want %d", snap.Len(), x.entries)
	}
	size := int64(0)
	for _, seg := range snap.Segments() {
		size += seg.EntriesSize
	}
	s.add(x.String()+": stored, an entry", "B", float64(size)/float64(x.entries))
	s.add(x.String()+": read at first", "MB", float64(x.traffic.bytes.Load())/1e6)
	s.add(x.String()+": requests for that", "", float64(x.traffic.requests.Load()))
	return nil
}

// starts measures how long the proxy needs until it serves.
func (x *largeIndex) starts(s *section, local string) error {
	cold, err := x.startProxy(x.store, x.cache, local)
	if err != nil {
		return err
	}
	memory := cold.memory("VmRSS")
	cold.stop()
	warm, err := x.startProxy(x.store, x.cache, local)
	if err != nil {
		return err
	}
	warm.stop()
	s.add(x.String()+": proxy's first start", "ms", 1000*cold.ready.Seconds())
	s.add(x.String()+": proxy's start with a copy on disk", "ms", 1000*warm.ready.Seconds())
	s.add(x.String()+": proxy's memory", "MB", memory)
	return nil
}

// polls measures a look at the registry when nothing is new, and after ten
// paths were published.
func (x *largeIndex) polls(ctx context.Context, s *section) error {
	if _, err := x.reader.Refresh(ctx); err != nil {
		return err
	}
	sample := func(what string) error {
		requests, bytes, start := x.traffic.requests.Load(), x.traffic.bytes.Load(), time.Now()
		if _, err := x.reader.Refresh(ctx); err != nil {
			return err
		}
		took := time.Since(start)
		s.add(what+": requests", "", float64(x.traffic.requests.Load()-requests))
		s.add(what+": received", "kB", float64(x.traffic.bytes.Load()-bytes)/1e3)
		s.add(what+": time", "ms", 1000*took.Seconds())
		return nil
	}
	if err := sample("poll, nothing new"); err != nil {
		return err
	}
	if err := x.faker.publish(ctx, 10); err != nil {
		return err
	}
	return sample("poll after ten paths")
}

// lookups measures narinfo requests.
func (x *largeIndex) lookups(ctx context.Context, s *section) error {
	p, err := x.startProxy(x.store, x.cache, x.local)
	if err != nil {
		return err
	}
	defer p.stop()
	var asks []ask
	for _, ref := range x.faker.refs {
		asks = append(asks, ask{method: "GET", path: "/" + ref[:storepath.HashPartLen] + ".narinfo"})
	}
	x.faker.rng.Shuffle(len(asks), func(i, j int) { asks[i], asks[j] = asks[j], asks[i] })
	for range x.reps {
		many, err := load{addr: p.addr, asks: asks, conns: nixConnections, window: x.window()}.run(ctx)
		if err != nil {
			return err
		}
		one, err := load{addr: p.addr, asks: asks, conns: 1, window: x.window() / 2}.run(ctx)
		if err != nil {
			return err
		}
		s.add("narinfos, 25 connections", "/s", many.perSecond())
		s.add("narinfos, 25 connections, 99 of 100 within", "ms", many.millis(0.99))
		s.add("narinfos, 1 connection, half within", "ms", one.millis(0.5))
		s.add("narinfos, 1 connection, 99 of 100 within", "ms", one.millis(0.99))
	}
	s.add("proxy's peak memory", "MB", p.memory("VmHWM"))
	return nil
}

// faker publishes entries of paths that do not exist. All of their NARs are
// parts of one blob.
type faker struct {
	repo registry.Repository
	dir  string
	rng  *rand.Rand
	blob v1.Descriptor
	refs []string // base names of what was published
}

func newFaker(ctx context.Context, repo registry.Repository, dir string) (*faker, error) {
	desc, err := repo.PutBlob(ctx, make([]byte, 8<<20))
	return &faker{repo: repo, dir: dir, rng: seeded(4, 5), blob: desc}, err
}

// publish adds n entries as a publish run does, a segment every 500.
func (f *faker) publish(ctx context.Context, n int) error {
	cache := index.Open(f.repo, index.Options{})
	base, err := cache.Sweep(ctx)
	if err != nil {
		return err
	}
	w, err := cache.NewWriter(base, index.WriterOptions{Config: format.Config{StoreDir: f.dir}})
	if err != nil {
		return err
	}
	for range n {
		if err := w.Add(ctx, f.entry()); err != nil {
			return err
		}
	}
	_, err = w.Close(ctx, &format.Publication{Time: time.Now().UTC(), Roots: []format.Root{{Path: f.refs[len(f.refs)-1]}}})
	return err
}

func (f *faker) entry() format.Entry {
	size := int64(4096 + f.rng.IntN(100_000))
	e := f.describe(bincache.FormatHash(f.random(32)), format.Location{
		Blob: f.blob.Digest, BlobSize: f.blob.Size, Offset: f.rng.Int64N(f.blob.Size - size), Size: size,
	})
	e.References = f.refer(f.refs)
	f.refs = append(f.refs, e.Path.Base())
	return e
}

// describe makes an entry without references.
func (f *faker) describe(fileHash string, nar format.Location) format.Entry {
	p := storepath.Path{
		Dir: f.dir, HashPart: nixbase32.EncodeToString(f.random(20)),
		Name: fmt.Sprintf("%s-%d.%d", packageNames[f.rng.IntN(len(packageNames))], f.rng.IntN(20), f.rng.IntN(100)),
	}
	return format.Entry{
		Path: p, NarHash: bincache.FormatHash(f.random(32)), NarSize: 3 * nar.Size,
		Deriver:     nixbase32.EncodeToString(f.random(20)) + "-" + p.Name + ".drv",
		Signatures:  []string{"cache.example.org-1:" + base64.StdEncoding.EncodeToString(f.random(64))},
		Compression: bincache.CompressionZstd, FileHash: fileHash, NAR: nar,
	}
}

// refer picks references, three on average, of what was published shortly
// before, as in a closure; and those that must be among them.
func (f *faker) refer(from []string, must ...string) []string {
	refs := must
	for range min(len(from), f.rng.IntN(7)) {
		r := from[len(from)-1-f.rng.IntN(min(len(from), 2000))]
		if !slices.Contains(refs, r) {
			refs = append(refs, r)
		}
	}
	slices.Sort(refs)
	return refs
}

func (f *faker) random(n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, f.rng.Uint64())
	}
	return b[:n]
}

// traffic counts requests and the bytes of their answers' bodies.
type traffic struct {
	next            http.RoundTripper
	requests, bytes atomic.Int64
}

func (t *traffic) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err == nil { // else nobody was there, as where HTTPS is tried first
		t.requests.Add(1)
		resp.Body = &countedBody{resp.Body, &t.bytes}
	}
	return resp, err
}

type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}
