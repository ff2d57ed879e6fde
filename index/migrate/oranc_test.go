package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/oranc"
	"github.com/org/nixoci-action/internal/oranctest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

const orancSig = "cache-1:" + "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="

// orancPath is a path as `oranc push` stores it: the NAR's key is its NAR hash.
func orancPath(t *testing.T, repo registry.Repository, tag func(string) string, name string, refs ...string) format.Entry {
	t.Helper()
	data := []byte("compressed NAR of " + name)
	sum, size, err := indextest.Sha(data)
	if err != nil {
		t.Fatal(err)
	}
	e := indextest.EntryFor(name, v1.Descriptor{Digest: sum, Size: size}, refs...)
	e.Signatures = []string{orancSig}
	url := "nar/" + bincache.HashDigits(e.NarHash) + ".nar.zst"
	oranctest.Put(t, repo, tag(url), url, "application/x-nix-nar", data)
	key := e.Path.HashPart + ".narinfo"
	oranctest.Put(t, repo, tag(key), key, "text/x-nix-narinfo", []byte(strings.Replace(e.Narinfo(), e.URL(), url, 1)))
	return e
}

// orancChain is n paths, each of which refers to the one before, in both
// encodings in turn.
func orancChain(t *testing.T, repo registry.Repository, n int, refs ...string) []format.Entry {
	t.Helper()
	var all []format.Entry
	for i := range n {
		tag := oranc.Tag
		if i%2 == 1 {
			tag = oranc.OldTag
		}
		e := orancPath(t, repo, tag, "oranc"+string(rune('a'+i)), refs...)
		refs = []string{e.Path.Base()}
		all = append(all, e)
	}
	return all
}

func mustImport(t *testing.T, repo registry.Repository, o ImportOptions) Imported {
	t.Helper()
	_, im, err := Oranc(context.Background(), index.Open(repo, indextest.Quick()), o)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// heads are all tags and where they point to.
func heads(t *testing.T, repo registry.Repository, keep func(tag string) bool) map[string]v1.Hash {
	t.Helper()
	ctx := context.Background()
	tags, err := repo.Tags(ctx)
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]v1.Hash{}
	for _, tag := range tags {
		if !keep(tag) {
			continue
		}
		if at[tag], err = repo.Resolve(ctx, tag); err != nil {
			t.Fatal(err)
		}
	}
	return at
}

func all(string) bool { return true }

func notOurs(tag string) bool {
	return tag != format.RootTag && !strings.HasPrefix(tag, format.SegmentTagPrefix)
}

// Realisations of paths that were imported before are added to them. One that is
// of no path, or that Nix could not read, is counted.
func TestImportRealisations(t *testing.T) {
	t.Parallel()
	repo := indextest.Watch(indextest.Open(t, t.TempDir()))
	e := orancChain(t, repo, 1)[0]
	mustImport(t, repo, ImportOptions{})
	id := func(digit string) string { return "sha256:" + strings.Repeat(digit, 64) + "!out" }
	put := func(id, outPath string) {
		key := "realisations/" + id + ".doi"
		oranctest.Put(t, repo, oranc.Tag(key), key, "application/octet-stream",
			fmt.Appendf(nil, `{"dependentRealisations":{},"id":%q,"outPath":%q,"signatures":["%s"]}`, id, outPath, orancSig))
	}
	put(id("1"), e.Path.Base())
	put(id("2"), strings.Repeat("0", 32)+"-gone")
	put(id("3"), "../x")
	for _, o := range []ImportOptions{{DryRun: true}, {}} {
		if im := mustImport(t, repo, o); im.Realisations != 1 || im.Other != 2 || im.Paths != 0 || im.Present != 1 || (len(im.Segments) == 0) != o.DryRun {
			t.Errorf("%+v: got %+v", o, im)
		}
	}
	r, of, ok := indextest.Sweep(t, repo).LookupRealisation(id("1"))
	if !ok || of.Path != e.Path || !slices.Equal(r.Signatures, []string{orancSig}) {
		t.Errorf("got %+v of %s, %v", r, of.Path, ok)
	}
	repo.Written = nil
	if im := mustImport(t, repo, ImportOptions{}); im.Realisations != 0 || len(repo.Written) != 0 {
		t.Errorf("once more: got %+v, wrote %v", im, repo.Written)
	}
}

// Every path of oranc's is ours afterwards, as it was; no NAR is sent, and
// nothing of oranc's is changed.
func TestImportOranc(t *testing.T) {
	t.Parallel()
	indextest.Fresh(t, func(t *testing.T, next func() registry.Repository) {
		repo := indextest.Watch(next())
		entries := orancChain(t, repo, 5)
		oranctest.Put(t, repo, "nix-cache-info", "nix-cache-info", "text/x-nix-cache-info", []byte("StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 41\n"))
		oranctest.Put(t, repo, oranc.Tag("realisations/sha256:00!out.doi"), "realisations/sha256:00!out.doi", "application/octet-stream", []byte("{}"))
		before := heads(t, repo, all)
		nars := map[v1.Hash]bool{}
		for _, e := range entries {
			nars[e.NAR.Blob] = true
		}
		repo.Put, repo.Written, repo.Asked = map[v1.Hash]int{}, nil, 0

		dry := mustImport(t, repo, ImportOptions{DryRun: true})
		if dry.Paths != 5 || dry.NarSize != 5*120 || len(repo.Put)+len(repo.Written) != 0 {
			t.Errorf("dry run: got %+v, wrote %v", dry, repo.Written)
		}
		repo.Asked = 0
		progress := 0
		im := mustImport(t, repo, ImportOptions{SegmentLayers: 2, Progress: func(read, total int) {
			if progress++; read != progress || total != 5 {
				t.Errorf("progress: got %d of %d after %d", read, total, progress)
			}
		}})
		if im.Paths != 5 || im.Total != dry.Total || len(im.Segments) != 3 || len(im.Lost)+len(im.Incomplete)+len(im.Unusable) != 0 || im.Other != 1 || progress != 5 {
			t.Errorf("got %+v, progress %d", im, progress)
		}
		if im.Unsigned != 0 || !maps.Equal(im.Keys, map[string]int{"cache-1": 5}) {
			t.Errorf("signatures: got %v, %d unsigned", im.Keys, im.Unsigned)
		}
		for d := range repo.Put {
			if nars[d] {
				t.Error("a NAR was sent")
			}
		}
		if repo.Asked != 5 || repo.Written[len(repo.Written)-1] != format.RootTag {
			t.Errorf("asked for %d blobs, wrote %v", repo.Asked, repo.Written)
		}
		s := indextest.Sees(t, repo, entries...)
		if s.Len() != 5 || s.Config().Priority != 41 {
			t.Errorf("%d entries, %+v", s.Len(), s.Config())
		}
		if after := heads(t, repo, notOurs); !maps.Equal(before, after) {
			t.Errorf("oranc's tags: got %v, want %v", after, before)
		}
		repo.Put, repo.Written, repo.Read = map[v1.Hash]int{}, nil, map[v1.Hash]int{}
		again := mustImport(t, repo, ImportOptions{})
		if again.Paths != 0 || again.Present != 5 || len(repo.Put)+len(repo.Written) != 0 {
			t.Errorf("once more: got %+v, wrote %v", again, repo.Written)
		}
		for range 2 { // a key is kept also where nothing is left to import, once
			repo.Written = nil
			mustImport(t, repo, ImportOptions{DryRun: true, Config: format.Config{PublicKeys: []string{indextest.ForeignKey}}})
			mustImport(t, repo, ImportOptions{Config: format.Config{PublicKeys: []string{indextest.ForeignKey}}})
			if s := indextest.Sees(t, repo, entries...); !slices.Equal(s.Config().PublicKeys, []string{indextest.ForeignKey}) {
				t.Errorf("got the keys %v", s.Config().PublicKeys)
			}
		}
		if len(repo.Written) != 0 {
			t.Errorf("wrote %v for a key that is known", repo.Written)
		}
		// what oranc gets later is imported later
		more := orancPath(t, repo, oranc.Tag, "more", entries[4].Path.Base())
		if im := mustImport(t, repo, ImportOptions{}); im.Paths != 1 || im.Present != 5 {
			t.Errorf("more: got %+v", im)
		}
		indextest.Sees(t, repo, append(entries, more)...)
	})
}

// The snapshot tells whether there is something to import.
func TestOrancIsNoticed(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	repo := indextest.Open(t, t.TempDir())
	count := func(s *index.Snapshot, err error, paths, present int) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if n, m := s.Oranc(); n != paths || m != present {
			t.Errorf("got %d paths, %d of them in the cache, want %d and %d", n, m, paths, present)
		}
	}
	for i, e := range orancChain(t, repo, 4) {
		if i == 0 { // under both tags
			key := e.Path.HashPart + ".narinfo"
			oranctest.Put(t, repo, oranc.OldTag(key), key, "text/x-nix-narinfo", []byte("superseded"))
		}
	}
	s, err := index.Open(repo, indextest.Quick()).Refresh(ctx)
	count(s, err, 4, 0)
	indextest.MustPublish(t, repo, indextest.NewEntry(t, repo, "ours"))
	reader := index.Open(repo, indextest.Quick())
	s, err = reader.Refresh(ctx)
	count(s, err, 0, 0) // the root is there, so nobody has looked at the tags
	s, err = reader.Sweep(ctx)
	count(s, err, 4, 0)
	mustImport(t, repo, ImportOptions{})
	s, err = reader.Sweep(ctx)
	count(s, err, 4, 4)
}

// Wherever an import ends, readers see only what is complete, and the next one
// finishes it without doing anything twice.
func TestImportOrancCrashAfterEveryStep(t *testing.T) {
	t.Parallel()
	indextest.Fresh(t, func(t *testing.T, next func() registry.Repository) {
		ctx := context.Background()
		for steps := 0; ; steps++ {
			if steps > 60 {
				t.Fatal("an import takes more than 60 steps")
			}
			repo := next()
			first := indextest.NewEntry(t, repo, "first")
			indextest.MustPublish(t, repo, first)
			entries := orancChain(t, repo, 3, first.Path.Base())
			before := heads(t, repo, notOurs)
			crashed := &indextest.Crashing{Repository: repo, Left: steps}
			o := ImportOptions{CommitEvery: 2, SegmentLayers: 1}
			_, im, err := Oranc(ctx, index.Open(crashed, indextest.Quick()), o)
			if err != nil && !errors.Is(err, indextest.ErrCrash) {
				t.Fatal(err)
			}
			s, readErr := index.Open(repo, indextest.Quick()).Sweep(ctx)
			if readErr != nil {
				t.Fatalf("after %d steps: %v", steps, readErr)
			}
			indextest.Has(t, s, first)
			seen := 0
			for e := range s.All {
				seen++
				for _, r := range e.References {
					if !s.Has(r[:32]) {
						t.Errorf("after %d steps: %s without %s", steps, e.Path.Name, r)
					}
				}
			}
			if seen-1 < im.Paths {
				t.Errorf("after %d steps: imported %d, %d are there", steps, im.Paths, seen-1)
			}
			second := mustImport(t, repo, o)
			if second.Present != seen-1 || second.Paths != 3-second.Present {
				t.Errorf("after %d steps: %d there, then got %+v", steps, seen-1, second)
			}
			if s, readErr = index.Open(repo, indextest.Quick()).Refresh(ctx); err != nil && second.Paths == 0 {
				// nothing was left to write; the root is the next writer's
				s, readErr = index.Open(repo, indextest.Quick()).Sweep(ctx)
			}
			if readErr != nil {
				t.Fatal(readErr)
			}
			indextest.Has(t, s, append(entries, first)...)
			if t.Failed() {
				t.Fatalf("after %d steps, with %v: %+v, then %+v", steps, err, im, second)
			}
			if after := heads(t, repo, notOurs); !maps.Equal(before, after) {
				t.Errorf("after %d steps: oranc's tags have changed", steps)
			}
			if err == nil {
				break
			}
		}
	})
}

// Many paths make few segments, whoever reads what meanwhile.
func TestImportOrancMakesFewSegments(t *testing.T) {
	t.Parallel()
	repo := indextest.Watch(indextest.Open(t, t.TempDir()))
	for i := range 100 {
		orancPath(t, repo, oranc.Tag, fmt.Sprint("many", i))
	}
	repo.Before = func(string) { time.Sleep(5 * time.Millisecond) } // they could read on
	repo.Size = func(v1.Hash) error { time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond); return nil }
	im := mustImport(t, repo, ImportOptions{CommitEvery: 25})
	if im.Paths != 100 || len(im.Segments) > 5 {
		t.Errorf("got %d paths in %d segments", im.Paths, len(im.Segments))
	}
}

// What is not complete is left out, and named; what an upstream has is not
// missing.
func TestImportOrancLeavesOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	repo := indextest.Open(t, dir)
	upstream := "0000000000000000000000000000000" // and a letter
	good := orancPath(t, repo, oranc.Tag, "good", upstream+"1-on-upstream")
	orancPath(t, repo, oranc.Tag, "needs-nobodys", upstream+"2-nobodys")
	noBlob := orancPath(t, repo, oranc.OldTag, "no-blob")
	orancPath(t, repo, oranc.OldTag, "needs-no-blob", noBlob.Path.Base())
	if err := os.Remove(filepath.Join(dir, "blobs", "sha256", noBlob.NAR.Blob.Hex)); err != nil {
		t.Fatal(err)
	}
	noNAR := orancPath(t, repo, oranc.Tag, "no-nar")
	m, err := repo.Resolve(context.Background(), oranc.Tag("nar/"+noNAR.NarHash[7:]+".nar.zst"))
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.DeleteManifest(context.Background(), oranc.Tag("nar/"+noNAR.NarHash[7:]+".nar.zst"), m); err != nil {
		t.Fatal(err)
	}
	put := func(name, narinfo string) {
		key := indextest.EntryFor(name, v1.Descriptor{}).Path.HashPart + ".narinfo"
		oranctest.Put(t, repo, key, key, "text/x-nix-narinfo", []byte(narinfo))
	}
	put("garbage", "no narinfo")
	put("another", good.Narinfo())
	bad := orancPath(t, repo, oranc.Tag, "bad")
	put("bad", strings.NewReplacer("Compression: zstd", "Compression: lzip", bad.URL(), "nar/"+bad.NarHash[7:]+".nar.zst").Replace(bad.Narinfo()))
	// its NAR is lost, but an upstream has it
	replaced := indextest.EntryFor("replaced", v1.Descriptor{Digest: format.DigestOf([]byte("x")), Size: 1})
	put("replaced", replaced.Narinfo())
	user := orancPath(t, repo, oranc.Tag, "user", replaced.Path.Base())
	// early versions wrote all signatures into one line, and none as an empty one
	two := orancPath(t, repo, oranc.Tag, "two")
	key := two.Path.HashPart + ".narinfo"
	two.Signatures = []string{orancSig, strings.Replace(orancSig, "cache", "other", 1)}
	narinfo := strings.Replace(two.Narinfo(), two.URL(), "nar/"+two.NarHash[7:]+".nar.zst", 1)
	oranctest.Put(t, repo, key, key, "text/x-nix-narinfo", []byte(strings.Replace(narinfo, "\nSig: other", " other", 1)))

	asked := make(chan string, 100)
	o := ImportOptions{OnUpstream: func(_ context.Context, hashPart string) (bool, error) {
		asked <- hashPart
		return hashPart == upstream+"1" || hashPart == replaced.Path.HashPart, nil
	}}
	for _, o.DryRun = range []bool{true, false} {
		im := mustImport(t, repo, o)
		names := func(ps []string) string { slices.Sort(ps); return strings.Join(ps, " ") }
		var lost, incomplete []string
		for _, p := range im.Lost {
			lost = append(lost, p.Name)
		}
		for _, p := range im.Incomplete {
			incomplete = append(incomplete, p.Name)
		}
		if im.Paths != 3 || names(lost) != "no-blob no-nar replaced" || names(incomplete) != "needs-no-blob needs-nobodys" || len(im.Unusable) != 3 || im.Keys["other-1"] != 1 {
			t.Errorf("dry run %v: got %d paths, lost %v, incomplete %v, unusable %v, keys %v", o.DryRun, im.Paths, lost, incomplete, im.Unusable, im.Keys)
		}
	}
	if s := indextest.Sees(t, repo, good, user, two); s.Len() != 3 {
		t.Errorf("got %d entries", s.Len())
	}
	close(asked)
	count := map[string]int{}
	for k := range asked {
		count[k]++
	}
	for k, n := range count {
		if n != 2 { // once in each run
			t.Errorf("asked %d times for %s", n, k)
		}
	}
}

// What cannot be told is not absent: the import stops, with what was complete.
func TestImportOrancUnreadable(t *testing.T) {
	t.Parallel()
	repo := indextest.Watch(indextest.Open(t, t.TempDir()))
	entries := orancChain(t, repo, 3)
	broken := orancPath(t, repo, oranc.Tag, "broken", entries[2].Path.Base(), "00000000000000000000000000000000-x")
	repo.Size = func(d v1.Hash) error {
		if d == broken.NAR.Blob {
			return indextest.ErrCrash
		}
		return nil
	}
	_, im, err := Oranc(context.Background(), index.Open(repo, indextest.Quick()), ImportOptions{})
	if !errors.Is(err, indextest.ErrCrash) || len(im.Lost)+len(im.Incomplete) != 0 {
		t.Errorf("got %+v, %v", im, err)
	}
	repo.Size = nil
	_, im, err = Oranc(context.Background(), index.Open(repo, indextest.Quick()), ImportOptions{
		OnUpstream: func(context.Context, string) (bool, error) { return false, indextest.ErrCrash },
	})
	if !errors.Is(err, indextest.ErrCrash) || len(im.Incomplete) != 0 {
		t.Errorf("upstream: got %+v, %v", im, err)
	}
	mustImport(t, repo, ImportOptions{})
	indextest.Sees(t, repo, entries...)
}

// Stopped by a signal, it keeps what was complete.
func TestImportOrancInterrupted(t *testing.T) {
	t.Parallel()
	repo := indextest.Watch(indextest.Open(t, t.TempDir()))
	entries := orancChain(t, repo, 3)
	orancPath(t, repo, oranc.Tag, "last", entries[2].Path.Base(), "00000000000000000000000000000000-x")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, im, err := Oranc(ctx, index.Open(repo, indextest.Quick()), ImportOptions{OnUpstream: func(ctx context.Context, _ string) (bool, error) {
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			repo.Mu.Lock()
			asked := repo.Asked
			repo.Mu.Unlock()
			if asked == 4 { // all is read, but for what upstreams have
				break
			}
		}
		time.Sleep(50 * time.Millisecond)
		cancel()
		return false, ctx.Err()
	}})
	if !errors.Is(err, context.Canceled) || im.Paths != 3 {
		t.Errorf("got %+v, %v", im, err)
	}
	indextest.Sees(t, repo, entries...)
}

// What the imported paths need of ours is made young with them.
func TestImportOrancBesideOldEntries(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	repo := indextest.Open(t, t.TempDir())
	dep := indextest.NewEntry(t, repo, "dep")
	base := indextest.NewEntry(t, repo, "base", dep.Path.Base())
	other := indextest.NewEntry(t, repo, "other")
	indextest.MustPublish(t, repo, dep, base, other)
	user := orancPath(t, repo, oranc.Tag, "user", base.Path.Base())
	later := indextest.Quick()
	at := time.Now().Add(20 * time.Hour)
	later.Now = func() time.Time { return at }
	if _, im, err := Oranc(ctx, index.Open(repo, later), ImportOptions{}); err != nil || im.Paths != 1 {
		t.Fatalf("got %+v, %v", im, err)
	}
	s := indextest.Sees(t, repo, user, base, dep, other)
	for _, e := range []format.Entry{user, base, dep, other} {
		got, _ := s.Lookup(e.Path.HashPart)
		if young := at.Sub(got.Added) < time.Hour; young != (e.Path.Name != "other") {
			t.Errorf("%s was added at %s", e.Path.Name, got.Added)
		}
	}
}

// A registry's collector takes nothing of what was imported, also when oranc's
// tags are gone.
func TestImportOrancAndCollectors(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	d := registrytest.NewDistribution(t)
	repo, err := registry.Open(d.Addr+"/a/b", registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	entries := orancChain(t, repo, 5)
	mustImport(t, repo, ImportOptions{})
	d.Collect(t)
	for tag, digest := range heads(t, repo, notOurs) {
		if err := repo.DeleteManifest(ctx, tag, digest); err != nil {
			t.Fatal(err)
		}
	}
	d.Collect(t)
	indextest.Sees(t, repo, entries...)
	for _, e := range entries {
		if _, err := registry.ReadBlob(ctx, repo, e.NAR.Blob, e.NAR.BlobSize); err != nil {
			t.Errorf("%s: %v", e.Path.Name, err)
		}
	}
	if left := heads(t, repo, notOurs); len(left) > 0 {
		t.Errorf("still there: %v", left)
	}
}

// Another store's paths are not mixed into the cache.
func TestImportOrancOfAnotherStore(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	repo := indextest.Open(t, t.TempDir())
	e := orancPath(t, repo, oranc.Tag, "theirs")
	key := e.Path.HashPart + ".narinfo"
	oranctest.Put(t, repo, key, key, "text/x-nix-narinfo", []byte(strings.Replace(strings.Replace(e.Narinfo(), "/nix/store", "/other/store", 1), e.URL(), "nar/"+e.NarHash[7:]+".nar.zst", 1)))
	if s, im, err := Oranc(ctx, index.Open(repo, indextest.Quick()), ImportOptions{}); err != nil || im.Paths != 1 || s.Config().StoreDir != "/other/store" {
		t.Errorf("without nix-cache-info: got %+v, %v", im, err)
	}
	mixed := indextest.Open(t, t.TempDir())
	indextest.MustPublish(t, mixed, indextest.NewEntry(t, mixed, "ours"))
	orancPath(t, mixed, oranc.Tag, "theirs")
	oranctest.Put(t, mixed, "nix-cache-info", "nix-cache-info", "text/x-nix-cache-info", []byte("StoreDir: /other/store\n"))
	if _, _, err := Oranc(ctx, index.Open(mixed, indextest.Quick()), ImportOptions{}); err == nil || !strings.Contains(err.Error(), "/other/store") {
		t.Errorf("into a cache for another store: got %v", err)
	}
}

// No narinfo of oranc's makes an entry that could not be written and served.
func FuzzOrancNarinfo(f *testing.F) {
	e := indextest.EntryFor("hello-1.0", v1.Descriptor{Digest: format.EmptyConfig.Digest, Size: 2}, "00000000000000000000000000000000-dep")
	e.Signatures = []string{orancSig}
	f.Add(e.Narinfo())
	f.Add(strings.Replace(e.Narinfo(), orancSig, orancSig+" "+orancSig, 1))
	f.Add("StorePath: /nix/store/x\nURL\nSig:\n")
	f.Fuzz(func(t *testing.T, text string) {
		bincache.ParseInfo(text)
		e, _, err := format.ParseNarinfo(text)
		e.FileHash, e.NAR = bincache.FormatHash(make([]byte, 32)), format.Location{Blob: format.EmptyConfig.Digest, BlobSize: 2, Size: 2}
		if err != nil || e.Validate() != nil {
			return
		}
		line, err := format.AppendLine(nil, &e)
		if err != nil {
			t.Fatal(err)
		}
		again, err := format.DecodeLine(line, e.Path.Dir)
		if err != nil || again.Narinfo() != e.Narinfo() {
			t.Errorf("got %q, %v, want %q", again.Narinfo(), err, e.Narinfo())
		}
	})
}
