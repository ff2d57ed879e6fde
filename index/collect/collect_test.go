package collect

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

// piled is how many segments of a size a compaction merges.
const piled = 8

var defaults = PlanOptions{Retention: month, Delay: 24 * time.Hour}

// collectAt plans and collects.
func collectAt(repo registry.Repository, days float64, o PlanOptions) (*Plan, Collected, error) {
	ctx := context.Background()
	c := index.Open(repo, indextest.At(days))
	s, err := c.Sweep(ctx)
	if err != nil {
		return nil, Collected{}, err
	}
	o.Now = c.Options().Now()
	p, err := NewPlan(s, o)
	if err != nil {
		return nil, Collected{}, err
	}
	done, err := Run(ctx, c, p)
	return p, done, err
}

func mustCollect(t *testing.T, repo registry.Repository, days float64, o PlanOptions) (*Plan, Collected) {
	t.Helper()
	p, done, err := collectAt(repo, days, o)
	if err != nil {
		t.Fatal(err)
	}
	return p, done
}

func TestCollect(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		lib := indextest.NewEntry(t, repo, "lib")
		a := indextest.NewEntry(t, repo, "a", lib.Path.Base())
		b := indextest.NewEntry(t, repo, "b", lib.Path.Base())
		loose := indextest.NewEntry(t, repo, "loose")
		indextest.PublishAt(t, repo, 90, "refs/heads/main", a, lib)
		indextest.PublishAt(t, repo, 50, "refs/heads/main", b, lib)
		indextest.PublishAt(t, repo, 20, "refs/pull/1/merge", indextest.NewEntry(t, repo, "pr", lib.Path.Base()), lib)
		c := index.Open(repo, indextest.At(60))
		base, err := c.Sweep(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.NewWriter(base, index.WriterOptions{}) // a publish that was interrupted
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Add(context.Background(), loose); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Close(context.Background(), nil); err != nil {
			t.Fatal(err)
		}

		p, done := mustCollect(t, repo, 0, defaults)
		reasons := map[string]string{}
		for _, x := range p.Paths {
			sign := "-"
			if x.Keep {
				sign = "+"
			}
			reasons[x.Path.Name] = sign + x.Reason
		}
		for name, want := range map[string]string{
			"lib": "+newest of main", "b": "+newest of main", "a": "-main, replaced 2026-10-12",
			"pr": "-pull request 1, published 2026-11-11", "loose": "-in no publication, added more than 30 days ago",
		} {
			if reasons[name] != want {
				t.Errorf("%s: got %q, want %q", name, reasons[name], want)
			}
		}
		if p.Removed.Paths != 3 || p.Kept.Paths != 2 || p.Freed != a.NAR.Size+loose.NAR.Size+int64(len("compressed NAR of pr")) {
			t.Errorf("got %+v kept, %+v removed, %d bytes freed", p.Kept, p.Removed, p.Freed)
		}
		if done.Removed.Paths != 3 || done.Deleted != 0 {
			t.Errorf("got %+v", done)
		}
		s := indextest.Sweep(t, open())
		indextest.Has(t, s, b, lib)
		indextest.Lacks(t, s, a, loose)
		if n := len(indextest.Tags(t, repo)); n < 6 {
			t.Errorf("%d tags are left: something was deleted before the delay had passed", n)
		}
		// nothing more to do, until the delay has passed
		if _, again := mustCollect(t, repo, -0.9, defaults); len(again.Segments)+again.Deleted > 0 || len(again.Waiting) == 0 {
			t.Errorf("before the delay has passed: got %+v", again)
		}
		if _, later := mustCollect(t, repo, -1.1, defaults); later.Deleted < 4 {
			t.Errorf("after the delay: got %+v", later)
		}
		s = indextest.Sweep(t, open())
		indextest.Has(t, s, b, lib)
		if want := 1 + len(s.Segments()); len(indextest.Tags(t, repo)) != want {
			t.Errorf("got the tags %q, want %d", indextest.Tags(t, repo), want)
		}
	})
}

// A collection that dies before any of its writes has lost nothing, and the
// next one does the rest.
func TestCollectionCrashes(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		lib := indextest.NewEntry(t, repo, "lib")
		keep := indextest.NewEntry(t, repo, "keep", lib.Path.Base())
		indextest.PublishAt(t, repo, 90, "refs/heads/main", keep, lib)
		for steps := 0; ; steps++ {
			if steps > 60 {
				t.Fatal("a collection takes more than 60 steps")
			}
			dead := indextest.NewEntry(t, repo, fmt.Sprint("dead", steps), lib.Path.Base())
			indextest.PublishAt(t, repo, 70, "refs/pull/1/merge", dead, lib)
			mustCollect(t, repo, 5, defaults) // so that there is something to delete
			more := indextest.NewEntry(t, repo, fmt.Sprint("more", steps))
			indextest.PublishAt(t, repo, 60, "refs/pull/1/merge", more)
			_, _, err := collectAt(&indextest.Crashing{Repository: repo, Left: steps}, 0, defaults)
			if err != nil && !errors.Is(err, indextest.ErrCrash) {
				t.Fatalf("after %d steps: %v", steps, err)
			}
			s := indextest.Sweep(t, open())
			indextest.Has(t, s, keep, lib)
			indextest.Lacks(t, s, dead)
			mustCollect(t, repo, 0, defaults)
			mustCollect(t, repo, -2, defaults)
			s = indextest.Sweep(t, open())
			indextest.Has(t, s, keep, lib)
			indextest.Lacks(t, s, dead, more)
			if want := 1 + len(s.Segments()); len(indextest.Tags(t, repo)) != want {
				t.Fatalf("after a crash at step %d: got the tags %q, want %d", steps, indextest.Tags(t, repo), want)
			}
			if err == nil {
				return
			}
		}
	})
}

// A compaction that did not know of a collection copies what that removed. It
// stays removed; else it would be there without what it refers to.
func TestRemovedStaysRemoved(t *testing.T) {
	ctx := context.Background()
	repo := indextest.NewMemory()
	lib := indextest.NewEntry(t, repo, "lib")
	user := indextest.NewEntry(t, repo, "user", lib.Path.Base())
	indextest.PublishAt(t, repo, 90, "refs/pull/1/merge", lib)
	indextest.PublishAt(t, repo, 90, "refs/pull/2/merge", user)
	indextest.PublishAt(t, repo, 90, "refs/heads/main", indextest.NewEntry(t, repo, "x"))

	slow := index.Open(repo, indextest.At(0))
	base, err := slow.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mustCollect(t, repo, 0, defaults)
	indextest.Lacks(t, indextest.Sweep(t, repo), user, lib)
	// it merges the segment with user, and another one, but not that with lib
	w, err := slow.NewWriter(base, index.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p, _ := base.Position(user.Path.Base())
	var entries []format.Entry
	for i := range base.Loaded()[p.Segment].Len() {
		e, ok := base.At(index.Position{Segment: p.Segment, Line: int32(i)})
		if !ok {
			t.Fatal("an entry is damaged")
		}
		entries = append(entries, e)
	}
	h := base.Replacing([]int{int(p.Segment)})
	c, err := format.NewContent(entries)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Put(ctx, h, c); err != nil {
		t.Fatal(err)
	}
	indextest.Lacks(t, indextest.Sweep(t, repo), user, lib)
	// published again it is there again
	indextest.PublishAt(t, repo, 0, "refs/heads/main", user, lib)
	indextest.Has(t, indextest.Sweep(t, repo), user, lib)
	// and what was removed is forgotten in the end
	for days := -2.0; days > -12; days -= 2 {
		mustCollect(t, repo, days, defaults)
	}
	for _, seg := range indextest.Sweep(t, repo).Loaded() {
		if len(seg.Header.Removed) > 0 {
			t.Errorf("%s still remembers %v", seg.Info.Tag, seg.Header.Removed)
		}
	}
	indextest.Has(t, indextest.Sweep(t, repo), user, lib)
}

// packOf stores NARs in one pack.
func packOf(t *testing.T, repo registry.Repository, names ...string) []format.Entry {
	t.Helper()
	var pack []byte
	var entries []format.Entry
	for _, n := range names {
		e := indextest.EntryFor(n, v1.Descriptor{})
		e.NAR.Offset, e.NAR.Size = int64(len(pack)), int64(len(modelNAR(n)))
		pack = append(pack, modelNAR(n)...)
		entries = append(entries, e)
	}
	desc, err := repo.PutBlob(context.Background(), pack)
	if err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		entries[i].NAR.Blob, entries[i].NAR.BlobSize = desc.Digest, desc.Size
	}
	return entries
}

// Whoever can write to the registry may say of a pack what they like. A pack whose
// parts overlap is left as it is.
func TestRepackOverlap(t *testing.T) {
	repo := indextest.Open(t, t.TempDir())
	var names []string
	for i := range 200 {
		names = append(names, fmt.Sprintf("m%d", i))
	}
	pack := packOf(t, repo, names...)
	indextest.PublishAt(t, repo, 90, "refs/pull/1/merge", pack...)
	wide := indextest.EntryFor("wide", v1.Descriptor{})
	wide.NAR = pack[0].NAR
	wide.NAR.Size = pack[50].NAR.Offset // no more, or too little of the pack would be waste
	indextest.PublishAt(t, repo, 50, "refs/heads/main", wide, pack[1])
	if _, done := mustCollect(t, repo, 0, defaults); done.Repacked != 0 {
		t.Errorf("got %+v", done)
	}
	s := indextest.Sweep(t, repo)
	for _, want := range []format.Entry{wide, pack[1]} {
		if e, ok := s.Lookup(want.Path.HashPart); !ok || e.NAR != want.NAR {
			t.Errorf("%s: got %+v, %v", want.Path.Name, e.NAR, ok)
		}
	}
}

// An answer that breaks off while a pack is read ends no collection.
func TestRepackBrokenOff(t *testing.T) {
	f := registrytest.NewFaulty(t, registrytest.NewDistribution(t).Addr)
	repo, err := registry.Open(f.Addr+"/a/b", registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	pack := packOf(t, repo, "m1", "m2", "m3", "m4", "m5")
	indextest.PublishAt(t, repo, 90, "refs/pull/1/merge", pack...)
	indextest.PublishAt(t, repo, 50, "refs/heads/main", pack[1], pack[3])
	var broken atomic.Bool
	f.Inject(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasSuffix(r.URL.Path, pack[0].NAR.Blob.String()) && r.Header.Get("Range") != "" && !broken.Swap(true) {
			w.Header().Set("Content-Range", strings.Replace(r.Header.Get("Range"), "=", " ", 1)+"/*")
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write([]byte("x"))
			return
		}
		next.ServeHTTP(w, r)
	})
	if _, done := mustCollect(t, repo, 0, defaults); done.Repacked == 0 || !broken.Load() {
		t.Errorf("got %+v, broken off: %v", done, broken.Load())
	}
}

func TestRepack(t *testing.T) {
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		ctx := context.Background()
		repo := open()
		half := packOf(t, repo, "h1", "h2", "h3", "h4") // half of it goes: it stays
		mostly := packOf(t, repo, "m1", "m2", "m3", "m4", "m5")
		rest := packOf(t, repo, "r1", "r2", "r3", "r4")
		indextest.PublishAt(t, repo, 90, "refs/pull/1/merge", slices.Concat(half, mostly, rest)...)
		kept := []format.Entry{half[0], half[1], mostly[1], mostly[3], rest[3]}
		indextest.PublishAt(t, repo, 50, "refs/heads/main", kept...)
		p, done := mustCollect(t, repo, 0, defaults)
		if copied := mostly[1].NAR.Size + mostly[3].NAR.Size + rest[3].NAR.Size; done.Repacked != copied || p.Freed != mostly[0].NAR.BlobSize+rest[0].NAR.BlobSize-copied {
			t.Errorf("got %d bytes copied and %d freed", done.Repacked, p.Freed)
		}
		s := indextest.Sweep(t, open())
		if s.Len() != len(kept) {
			t.Errorf("got %d entries", s.Len())
		}
		for i, want := range kept {
			e, ok := s.Lookup(want.Path.HashPart)
			if !ok || (e.NAR == want.NAR) != (i < 2) || e.NAR.Size != want.NAR.Size || e.FileHash != want.FileHash {
				t.Errorf("%s: got %+v, %v", want.Path.Name, e.NAR, ok)
				continue
			}
			body, err := repo.Blob(ctx, e.NAR.Blob, e.NAR.Offset, e.NAR.Size)
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, e.NAR.Size+1)
			n, _ := body.Read(b)
			body.Close()
			if string(b[:n]) != string(modelNAR(want.Path.Name)) {
				t.Errorf("%s: got the NAR %q", want.Path.Name, b[:n])
			}
		}
		// the new pack belongs to a segment: a directory's collection keeps it
		mustCollect(t, repo, -2, defaults)
		s = indextest.Sweep(t, open())
		if e, ok := s.Lookup(rest[3].Path.HashPart); !ok {
			t.Error("it is gone")
		} else if size, err := repo.BlobSize(ctx, e.NAR.Blob); err != nil || size != e.NAR.BlobSize {
			t.Errorf("the new pack has %d bytes, %v", size, err)
		}
	})
}

// A collection that rewrites segments and packs names each blob by what is in it,
// and makes no pack of two compressions.
func TestCollectKeepsCompressions(t *testing.T) {
	compressions := []string{bincache.CompressionZstd, bincache.CompressionXZ, bincache.CompressionNone, bincache.CompressionGzip, bincache.CompressionBzip2}
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		var gone, kept []format.Entry
		var mixed []string // a pack as an earlier collection may have left it
		for _, name := range compressions {
			whole, pack := indextest.NewEntry(t, repo, name), packOf(t, repo, name+"1", name+"2", name+"3", name+"4")
			for _, e := range append([]*format.Entry{&whole}, pointers(pack)...) {
				e.Compression = name
			}
			gone = append(gone, pack[:3]...)
			kept = append(kept, whole, pack[3])
			mixed = append(mixed, name+"5")
		}
		both := packOf(t, repo, append(mixed, "filler1", "filler2", "filler3", "filler4", "filler5", "filler6")...)
		for i, name := range compressions {
			both[i].Compression = name
		}
		gone, kept = append(gone, both[len(mixed):]...), append(kept, both[:len(mixed)]...)

		indextest.PublishAt(t, repo, 90, "refs/pull/1/merge", slices.Concat(gone, kept)...)
		indextest.PublishAt(t, repo, 50, "refs/heads/main", kept...)
		if _, done := mustCollect(t, repo, 0, defaults); done.Repacked == 0 {
			t.Fatal("no pack was rewritten")
		}
		s := indextest.Sweep(t, open())
		indextest.Lacks(t, s, gone...)
		want := map[v1.Hash]string{}
		for _, k := range kept {
			e, ok := s.Lookup(k.Path.HashPart)
			if !ok || e.Compression != k.Compression {
				t.Fatalf("%s: got %q, %v", k.Path.Name, e.Compression, ok)
			}
			media := map[bool]string{true: "application/vnd.nixoci.pack.v1+", false: "application/vnd.nixoci.nar.v1+"}[e.NAR.Packed()] + e.Compression
			if !e.NAR.Packed() {
				media = strings.TrimSuffix(media, "+none")
			}
			if other, ok := want[e.NAR.Blob]; ok && other != media {
				t.Errorf("one pack is both %s and %s", other, media)
			}
			want[e.NAR.Blob] = media
		}
		for _, seg := range s.Segments() {
			man, err := repo.Manifest(context.Background(), seg.Tag)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range indextest.Layers(man)[1:] {
				if string(l.MediaType) != want[l.Digest] {
					t.Errorf("a blob of %s is called %s", want[l.Digest], l.MediaType)
				}
			}
		}
	})
}

func pointers(entries []format.Entry) (ps []*format.Entry) {
	for i := range entries {
		ps = append(ps, &entries[i])
	}
	return ps
}

// What the registry has lost is given up, with what refers to it, so that the
// next publish brings it back.
func TestCollectLostBlobs(t *testing.T) {
	repo := indextest.NewMemory()
	lib := indextest.NewEntry(t, repo, "lib")
	user := indextest.NewEntry(t, repo, "user", lib.Path.Base())
	other := indextest.NewEntry(t, repo, "other")
	pack := packOf(t, repo, "p1", "p2", "p3")
	indextest.PublishAt(t, repo, 20, "refs/pull/1/merge", pack...)
	indextest.PublishAt(t, repo, 10, "refs/heads/main", lib, user, other, pack[0])
	delete(repo.Blobs, lib.NAR.Blob)
	delete(repo.Blobs, pack[0].NAR.Blob)
	_, done := mustCollect(t, repo, 0, defaults)
	var lost []string
	for _, e := range done.Lost {
		lost = append(lost, e.Path.Name)
	}
	slices.Sort(lost)
	if want := []string{"lib", "p1", "user"}; !slices.Equal(lost, want) {
		t.Errorf("got %v lost, want %v", lost, want)
	}
	s := indextest.Sweep(t, repo)
	indextest.Has(t, s, other)
	indextest.Lacks(t, s, lib, user, pack[0])
	indextest.PublishAt(t, repo, 0, "refs/heads/main", indextest.NewEntry(t, repo, "lib"), user)
	indextest.Has(t, indextest.Sweep(t, repo), lib, user, other)
}

// A segment whose tag somebody deletes after the plan was made is gone; a
// collection must not fail on it, nor delete anything that might replace it.
func TestCollectLostTag(t *testing.T) {
	ctx := context.Background()
	repo := indextest.NewMemory()
	a, b := indextest.NewEntry(t, repo, "a"), indextest.NewEntry(t, repo, "b")
	indextest.PublishAt(t, repo, 3, "refs/heads/main", a)
	indextest.PublishAt(t, repo, 2, "refs/heads/other", b)
	c := index.Open(repo, indextest.At(0))
	s, err := c.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	o := defaults
	o.Now = c.Options().Now()
	p, err := NewPlan(s, o)
	if err != nil {
		t.Fatal(err)
	}
	delete(repo.Tagged, s.Segments()[0].Tag)
	if _, err := Run(ctx, c, p); err != nil {
		t.Fatal(err)
	}
	if s, err = c.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*index.Snapshot{s, indextest.Sweep(t, repo)} {
		indextest.Has(t, s, b)
		indextest.Lacks(t, s, a)
	}
	indextest.PublishAt(t, repo, 0, "refs/heads/main", a)
	indextest.Has(t, indextest.Sweep(t, repo), a, b)
}

// refusing deletes nothing, or not some things.
type refusing struct {
	*indextest.Memory
	all  bool
	tags []string
}

func (r *refusing) DeleteManifest(ctx context.Context, tag string, digest v1.Hash) error {
	if r.all || slices.Contains(r.tags, tag) {
		return &registry.RefusedError{All: r.all, Reason: "not here", Err: errors.New("405")}
	}
	return r.Memory.DeleteManifest(ctx, tag, digest)
}

func TestCollectRefused(t *testing.T) {
	repo := indextest.NewMemory()
	b := indextest.NewEntry(t, repo, "b")
	indextest.PublishAt(t, repo, 90, "refs/heads/main", indextest.NewEntry(t, repo, "a"))
	indextest.PublishAt(t, repo, 89, "refs/heads/main", indextest.NewEntry(t, repo, "a2"))
	indextest.PublishAt(t, repo, 50, "refs/heads/main", b)
	stuck := indextest.Tags(t, repo)[1]
	mustCollect(t, repo, 3, defaults)
	before := len(repo.Manifests)
	_, done := mustCollect(t, &refusing{Memory: repo, all: true}, 0, defaults)
	if done.Deleted != 0 || len(done.Refused) < 3 || len(repo.Manifests) < before {
		t.Errorf("all refused: got %+v, %d of %d manifests left", done, len(repo.Manifests), before)
	}
	_, done = mustCollect(t, &refusing{Memory: repo, tags: []string{stuck}}, 0, defaults)
	if done.Deleted < 2 || len(done.Refused) != 1 || done.Refused[0].Tag != stuck {
		t.Errorf("one refused: got %+v", done)
	}
	// it never comes back, however often the index is rewritten
	for i := range 5 {
		days := -10 - 10*float64(i)
		indextest.PublishAt(t, repo, days+1, "refs/heads/main", indextest.NewEntry(t, repo, fmt.Sprint("n", i)))
		mustCollect(t, &refusing{Memory: repo, tags: []string{stuck}}, days, PlanOptions{Delay: 24 * time.Hour, Retention: Retention{Last: 1}})
		indextest.Lacks(t, indextest.Sweep(t, repo), indextest.EntryFor("a", v1.Descriptor{}))
	}
	if !slices.Contains(indextest.Tags(t, repo), stuck) {
		t.Error("the refused one is gone")
	}
}

// listing knows of manifests without a tag, as ghcr.io does.
type listingUntagged struct {
	*indextest.Memory
	untagged []v1.Hash
}

func (l *listingUntagged) Untagged(context.Context, time.Time) ([]v1.Hash, error) {
	return l.untagged, nil
}

// Manifests without a tag are deleted if they are ours, and only then.
func TestCollectUntagged(t *testing.T) {
	ctx := context.Background()
	repo := indextest.NewMemory()
	_, config := format.FormImage.Config()
	if _, err := repo.PutBlob(ctx, config); err != nil {
		t.Fatal(err)
	}
	put := func(artifactType, name string) v1.Hash {
		f := format.Form(len(name)) % (format.FormImage + 1)
		m, err := f.Manifest(artifactType, []v1.Descriptor{format.EmptyConfig}, indextest.Noon.Add(time.Duration(len(name))*time.Second), "")
		if err != nil {
			t.Fatal(err)
		}
		digest, err := repo.PutManifest(ctx, name, m)
		if err != nil {
			t.Fatal(err)
		}
		delete(repo.Tagged, name)
		return digest
	}
	indextest.PublishAt(t, repo, 3, "refs/heads/main", indextest.NewEntry(t, repo, "a"))
	var all []v1.Hash
	for i := range piled {
		all = append(all, put(format.MediaRoot, strings.Repeat("r", i+1)))
	}
	theirs := put("application/vnd.example.image", strings.Repeat("t", 40))
	root, err := repo.Resolve(ctx, format.RootTag)
	if err != nil {
		t.Fatal(err)
	}
	l := &listingUntagged{repo, append(slices.Clone(all), theirs, root)}
	_, done := mustCollect(t, l, 0, defaults)
	for _, h := range all {
		if _, ok := repo.Manifests[h]; ok {
			t.Errorf("%s is still there", h)
		}
	}
	if _, ok := repo.Manifests[theirs]; !ok {
		t.Error("a manifest of another program was deleted")
	}
	if done.Deleted != len(all) {
		t.Errorf("got %d deleted", done.Deleted)
	}
	indextest.Has(t, indextest.Sweep(t, repo), indextest.NewEntry(t, repo, "a"))
}

func TestUnpin(t *testing.T) {
	ctx := context.Background()
	repo := indextest.NewMemory()
	a := indextest.NewEntry(t, repo, "a")
	c := index.Open(repo, indextest.At(90))
	base, err := c.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, index.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Add(ctx, a); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(ctx, &format.Publication{Time: c.Options().Now(), Ref: "refs/pull/1/merge", Pin: "p", Roots: []format.Root{{Path: a.Path.Base()}}}); err != nil {
		t.Fatal(err)
	}
	mustCollect(t, repo, 10, defaults)
	indextest.Has(t, indextest.Sweep(t, repo), a)
	o := defaults
	o.Unpin = []string{"p"}
	p, _ := mustCollect(t, repo, 0, o)
	if p.Removed.Paths != 1 {
		t.Errorf("got %+v removed", p.Removed)
	}
	indextest.Lacks(t, indextest.Sweep(t, repo), a)
	// it stays unpinned without being told again, and a new pin counts
	indextest.PublishAt(t, repo, -1, "refs/pull/1/merge", a)
	mustCollect(t, repo, -20, defaults)
	indextest.Lacks(t, indextest.Sweep(t, repo), a)
}

func TestPlanNeedsOwnCacheAndTags(t *testing.T) {
	repo := indextest.NewMemory()
	indextest.PublishAt(t, repo, 1, "refs/heads/main", indextest.NewEntry(t, repo, "a"))
	s, err := index.Open(repo, indextest.Quick()).Refresh(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewPlan(s, defaults); err == nil {
		t.Error("a plan was made without the tag list")
	}
	indextest.PutForeign(t, repo, map[string]any{"version": 1, "entries": map[string]any{}})
	s = indextest.Sweep(t, repo)
	if _, err := NewPlan(s, defaults); !errors.Is(err, format.ErrForeign) {
		t.Errorf("got %v, want ErrForeign", err)
	}
}

// A large publish writes many segments, which only a collection merges.
func TestCollectMergesSegments(t *testing.T) {
	ctx := context.Background()
	repo := indextest.NewMemory()
	c := index.Open(repo, indextest.At(1))
	base, err := c.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const n = 3000
	w, err := c.NewWriter(base, index.WriterOptions{CommitEvery: 300})
	if err != nil {
		t.Fatal(err)
	}
	pub := format.Publication{Time: c.Options().Now(), Ref: "refs/heads/main"}
	desc, err := repo.PutBlob(ctx, []byte("one pack for all"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		e := indextest.EntryFor(fmt.Sprint("e", i), desc)
		pub.Roots = append(pub.Roots, format.Root{Path: e.Path.Base()})
		if err := w.Add(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(ctx, &pub); err != nil {
		t.Fatal(err)
	}
	before := len(indextest.Sweep(t, repo).Segments()) // one has the publication only
	p, done := mustCollect(t, repo, 0, defaults)
	s := indextest.Sweep(t, repo)
	if before != 11 || len(s.Segments()) != 2 || s.Len() != n || p.Removed.Paths != 0 || done.Rewritten != 10 || p.Written != 1 {
		t.Errorf("got %d entries in %d segments, before in %d; %d were written", s.Len(), len(s.Segments()), before, len(done.Segments))
	}
	if len(s.Publications()) != 1 || len(s.Publications()[0].Roots) != n {
		t.Error("the publication is gone")
	}
	if _, again := mustCollect(t, repo, 0, defaults); len(again.Segments) > 0 {
		t.Errorf("again: got %+v", again)
	}
}

// A collection may remove what is old at any moment, so nothing becomes visible
// that relies on it before it has been repeated.
func TestOldEntriesMustBeRepeated(t *testing.T) {
	ctx := context.Background()
	repo := indextest.NewMemory()
	lib := indextest.NewEntry(t, repo, "lib")
	user := indextest.NewEntry(t, repo, "user", lib.Path.Base())
	indextest.PublishAt(t, repo, 0.51, "refs/heads/main", lib)
	c := index.Open(repo, indextest.At(0))
	base, err := c.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, index.WriterOptions{CommitEvery: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Add(ctx, user); err != nil {
		t.Fatal(err)
	}
	indextest.Lacks(t, indextest.Sweep(t, repo), user)
	old, _ := base.Lookup(lib.Path.HashPart)
	if err := w.Add(ctx, old); err != nil {
		t.Fatal(err)
	}
	indextest.Has(t, indextest.Sweep(t, repo), user, lib)

	young := indextest.NewEntry(t, repo, "young", lib.Path.Base())
	indextest.PublishAt(t, repo, 0, "refs/heads/main", young) // relies on lib as it is
	indextest.Has(t, indextest.Sweep(t, repo), young)
}
