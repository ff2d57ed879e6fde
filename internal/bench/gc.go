package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/report"
)

// collections measures gc on caches with a history.
func collections(ctx context.Context, b *bench) ([]section, error) {
	dir, remove, err := b.work("gc")
	if err != nil {
		return nil, err
	}
	defer remove()
	st, err := newStore(dir) // an environment for gc
	if err != nil {
		return nil, err
	}
	d, err := startDistribution(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer d.stop()
	sizes := section{Title: "gc: sizes", About: "Ten publications in 81 days; half of the entries are in none that is kept. " +
		"A segment for every 500 entries (20,000 in the largest cache), with one pack and ten blobs of single NARs."}
	polls := section{Title: "gc: polls", About: "A look at the registry after ten paths were published, before and after gc has merged the segments."}
	for i, n := range []int{1000, 10_000, 100_000, 1_000_000} {
		x := &agedCache{
			bench: b, store: st, dir: dir, registry: d, entries: b.scaled(n, 100*(i+1)), perSegment: historySegment,
			name: "gc" + strconv.Itoa(n), runs: b.reps,
		}
		if n == 1_000_000 {
			if have := availableMemory(); have < hugeMemory*int64(x.entries)/1_000_000 {
				b.log("gc: leaving out %s: %d MB of memory are free", x, have/mB)
				continue
			}
			x.perSegment, x.runs = 40*historySegment, 1
		}
		if err := x.measure(ctx, &sizes); err != nil {
			return nil, err
		}
		if n == 100_000 {
			if err := x.polls(ctx, &polls); err != nil {
				return nil, err
			}
		}
	}
	return []section{sizes, polls}, nil
}

// hugeMemory is what a million entries take, in bytes: in gc, in this program
// and in the files of both that the system keeps in memory.
const hugeMemory = 8000 * mB

// agedCache is a cache with a history. Each run of gc gets a copy of it.
type agedCache struct {
	*bench
	store      *store
	dir        string
	registry   *distribution
	name       string
	entries    int
	perSegment int
	runs       int

	faker  *faker
	copies int
}

func (x *agedCache) String() string { return ui.Number(x.entries) + " entries" }

// measure makes the cache and runs gc on it.
func (x *agedCache) measure(ctx context.Context, s *section) error {
	x.log("gc: making %s", x)
	repo, err := registry.Open(x.registry.cache(x.name), registry.Options{Push: true})
	if err != nil {
		return err
	}
	if x.faker, err = newFaker(ctx, repo, x.store.dir); err != nil {
		return err
	}
	if err := newHistory(x.faker, repo, x.perSegment).write(ctx, x.entries, time.Now()); err != nil {
		return err
	}
	for rep := range x.runs {
		x.log("gc: %s, repetition %d of %d", x, rep+1, x.runs)
		if err := x.waitQuiet(ctx); err != nil {
			return err
		}
		if err := x.collect(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// collect takes one sample of everything.
func (x *agedCache) collect(ctx context.Context, s *section) error {
	cache, err := x.copy()
	if err != nil {
		return err
	}
	dry, err := x.gc(ctx, cache, x.dir+"/none", "--dry-run")
	if err != nil {
		return err
	}
	before, err := read(ctx, cache, "")
	if err != nil {
		return err
	}
	cold, err := x.gc(ctx, cache, filepath.Join(x.dir, "cold-"+filepath.Base(cache)))
	if err != nil {
		return err
	}
	after, err := read(ctx, cache, "")
	if err != nil {
		return err
	}
	if n := dry.Kept.Paths + dry.Removed.Paths; n != x.entries || before.snapshot.Len() != n || cold.Result.Removed != dry.Removed || after.snapshot.Len() != dry.Kept.Paths {
		return fmt.Errorf("gc planned to keep %d and to remove %d of %d paths, has removed %d and left %d",
			dry.Kept.Paths, dry.Removed.Paths, x.entries, cold.Result.Removed.Paths, after.snapshot.Len())
	}
	copied, err := x.copy()
	if err != nil {
		return err
	}
	local := filepath.Join(x.dir, "warm-"+filepath.Base(copied))
	if _, err := read(ctx, copied, local); err != nil {
		return err
	}
	warm, err := x.gc(ctx, copied, local)
	if err != nil {
		return err
	}

	add := func(what, unit string, value float64) { s.add(x.String()+": "+what, unit, value) }
	size := entriesSize(before.snapshot.Segments())
	written := entriesSize(slices.DeleteFunc(after.snapshot.Segments(), func(i format.SegmentInfo) bool {
		return !slices.Contains(cold.Result.Segments, i.Tag)
	}))
	add("removed, of all paths", "", float64(dry.Removed.Paths)/float64(x.entries))
	add("dry run", "s", dry.wall.Seconds())
	add("dry run, peak memory", "MB", float64(dry.memory)/1e6)
	add("dry run, requests", "", float64(dry.requests))
	add("reading the index", "s", dry.stage("read"))
	add("planning", "s", dry.stage("plan"))
	add("planning / reading", "", dry.stage("plan")/dry.stage("read"))
	add("gc", "s", cold.wall.Seconds())
	add("gc with a copy of the index on disk", "s", warm.wall.Seconds())
	add("gc, peak memory", "MB", float64(cold.memory)/1e6)
	add("gc, requests", "", float64(cold.requests))
	add("gc, requests with a copy on disk", "", float64(warm.requests))
	add("gc, manifests deleted", "", float64(cold.Result.Deleted))
	add("gc, segments written", "MB", float64(written)/1e6)
	add("gc, NARs copied into new packs", "MB", float64(cold.Result.RepackedSize)/1e6)
	add("segments written / index", "", float64(written)/float64(size))
	add("segments before", "", float64(len(before.snapshot.Segments())))
	add("segments after", "", float64(len(after.snapshot.Segments())))
	add("read at first, before", "MB", float64(before.traffic.bytes.Load())/1e6)
	add("read at first, after", "MB", float64(after.traffic.bytes.Load())/1e6)
	add("requests for that, before", "", float64(before.traffic.requests.Load()))
	add("requests for that, after", "", float64(after.traffic.requests.Load()))
	return nil
}

func entriesSize(segments []format.SegmentInfo) (n int64) {
	for _, s := range segments {
		n += s.EntriesSize
	}
	return n
}

// polls measures what a publish of ten paths costs readers.
func (x *agedCache) polls(ctx context.Context, s *section) error {
	for range x.runs {
		cache, err := x.copy()
		if err != nil {
			return err
		}
		if err := x.poll(ctx, s, cache, "before"); err != nil {
			return err
		}
		if _, err := x.gc(ctx, cache, x.dir+"/none"); err != nil {
			return err
		}
		if err := x.poll(ctx, s, cache, "after"); err != nil {
			return err
		}
	}
	return nil
}

func (x *agedCache) poll(ctx context.Context, s *section, cache, when string) error {
	r, err := read(ctx, cache, "")
	if err != nil {
		return err
	}
	repo, err := registry.Open(cache, registry.Options{Push: true})
	if err != nil {
		return err
	}
	f := *x.faker
	f.repo = repo
	if err := f.publish(ctx, 10); err != nil {
		return err
	}
	requests, bytes := r.traffic.requests.Load(), r.traffic.bytes.Load()
	if _, err := r.cache.Refresh(ctx); err != nil {
		return err
	}
	s.add(when+": requests", "", float64(r.traffic.requests.Load()-requests))
	s.add(when+": received", "kB", float64(r.traffic.bytes.Load()-bytes)/1e3)
	return nil
}

// reading is a reader that has read a cache for the first time.
type reading struct {
	cache    *index.Cache
	snapshot *index.Snapshot
	traffic  *traffic
}

func read(ctx context.Context, cache, local string) (*reading, error) {
	r := &reading{traffic: &traffic{next: http.DefaultTransport}}
	repo, err := registry.Open(cache, registry.Options{Transport: r.traffic})
	if err != nil {
		return nil, err
	}
	r.cache = index.Open(repo, index.Options{Dir: local})
	r.snapshot, err = r.cache.Refresh(ctx)
	return r, err
}

// copy makes a copy of the cache under another name. Blobs are shared by all
// repositories of the registry, which keeps a link to each in their folders.
func (x *agedCache) copy() (string, error) {
	x.copies++
	name := x.name + "-" + strconv.Itoa(x.copies)
	return x.registry.cache(name), os.CopyFS(x.registry.folder(name), os.DirFS(x.registry.folder(x.name)))
}

// collected is one run of gc, and what of its report is of interest.
type collected struct {
	finished
	requests int64 // that the registry has answered

	report.GC
}

// stage is how long a part of the run took, in seconds.
func (c *collected) stage(name string) float64 {
	for _, s := range c.Stages {
		if s.Name == name {
			return s.Seconds
		}
	}
	return 0
}

func (x *agedCache) gc(ctx context.Context, cache, local string, flags ...string) (collected, error) {
	var c collected
	before, err := x.registry.requests(ctx)
	if err != nil {
		return c, err
	}
	flags = append([]string{"gc", "--cache", cache, "--cache-dir", local, "--json"}, flags...)
	if c.finished, err = execute(ctx, x.store.env, "", x.program, flags...); err != nil {
		return c, err
	}
	after, err := x.registry.requests(ctx)
	if err != nil {
		return c, err
	}
	c.requests = after - before
	if err := json.Unmarshal(c.stdout, &c); err != nil {
		return c, fmt.Errorf("decoding gc's result: %w", err)
	}
	c.stdout = nil
	return c, nil
}

const (
	publications = 10
	// publishedEvery is the time between two. By default gc keeps the last
	// four: the oldest of them has been replaced 27 days ago.
	publishedEvery = 9 * 24 * time.Hour
	// lasting is the part of a publication that all later ones need: with the
	// last four publications, half of all paths.
	lasting        = 6
	historySegment = 500
	historyNAR     = 64 // bytes
	historyBlobs   = 10 // NARs with a blob of their own, of those of a segment
)

// history publishes as a project does over time: each publication adds paths,
// and repeats those of the ones before that it still needs.
type history struct {
	*faker
	repo       registry.Repository
	perSegment int
	now        time.Time
	kept       []format.Entry // that later publications need
	keptNames  []string       // their base names
	last       []string       // base names of a publication's other paths
}

func newHistory(f *faker, repo registry.Repository, perSegment int) *history {
	return &history{faker: f, repo: repo, perSegment: perSegment}
}

// write publishes n paths; the last of them nine days before now.
func (h *history) write(ctx context.Context, n int, now time.Time) error {
	cache := index.Open(h.repo, index.Options{Now: func() time.Time { return h.now }, Settle: time.Millisecond})
	for i := range publications {
		h.now = now.Add(-time.Duration(publications-i) * publishedEvery)
		if err := h.publish(ctx, cache, n*(i+1)/publications-n*i/publications); err != nil {
			return err
		}
	}
	return nil
}

// publish makes one publication with n new paths.
func (h *history) publish(ctx context.Context, cache *index.Cache, n int) error {
	base, err := cache.Sweep(ctx)
	if err != nil {
		return err
	}
	w, err := cache.NewWriter(base, index.WriterOptions{Config: format.Config{StoreDir: h.dir}, CommitEvery: h.perSegment})
	if err != nil {
		return err
	}
	entries := slices.Clone(h.kept)
	h.last = nil
	for n > 0 {
		added, err := h.add(ctx, min(n, h.perSegment))
		if err != nil {
			return err
		}
		entries = append(entries, added...)
		n -= len(added)
	}
	for _, e := range entries {
		if err := w.Add(ctx, e); err != nil {
			return err
		}
	}
	p := format.Publication{Time: h.now, Flake: ".", Ref: "refs/heads/main", Systems: []string{"x86_64-linux"}}
	for _, name := range newest(h.last) {
		p.Roots = append(p.Roots, format.Root{Attr: "packages.x86_64-linux.default", Path: name})
	}
	_, err = w.Close(ctx, &p)
	return err
}

// add makes n entries, whose NARs it stores.
func (h *history) add(ctx context.Context, n int) ([]format.Entry, error) {
	data := h.random(n * historyNAR)
	single := max(2, n/historyBlobs)
	pack, err := h.repo.PutBlob(ctx, data)
	if err != nil {
		return nil, err
	}
	var entries []format.Entry
	for i := range n {
		at := i * historyNAR
		nar := format.Location{Blob: pack.Digest, BlobSize: pack.Size, Offset: int64(at), Size: historyNAR}
		part := data[at:][:historyNAR]
		if i%single == 1 {
			desc, err := h.repo.PutBlob(ctx, part)
			if err != nil {
				return nil, err
			}
			nar = format.Location{Blob: desc.Digest, BlobSize: desc.Size, Size: desc.Size}
		}
		sum := sha256.Sum256(part)
		e := h.describe(bincache.FormatHash(sum[:]), nar)
		// each refers to the one before, so that the last refers to all
		if i%lasting == 0 {
			e.References = h.refer(h.keptNames, newest(h.keptNames)...)
			h.kept, h.keptNames = append(h.kept, e), append(h.keptNames, e.Path.Base())
		} else {
			e.References = h.refer(h.last, append(newest(h.keptNames), newest(h.last)...)...)
			h.last = append(h.last, e.Path.Base())
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// newest is the last of names, if there is one.
func newest(names []string) []string { return slices.Clone(names[max(0, len(names)-1):]) }
