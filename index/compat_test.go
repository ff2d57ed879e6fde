package index_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
)

// compatDocument is what nixcache-oci's readers look for.
type compatDocument struct {
	Entries   map[string]struct{ Name string }
	GCRoots   []string `json:"gc_roots"`
	PublicKey string   `json:"public_key"`
}

// firstLayer reads what nixcache-oci reads: the root's first layer.
func firstLayer(t *testing.T, repo registry.Repository) (v1.Hash, []byte) {
	t.Helper()
	ctx := context.Background()
	m, err := repo.Manifest(ctx, format.RootTag)
	if err != nil {
		t.Fatal(err)
	}
	var im v1.Manifest
	if err := json.Unmarshal(m.Raw, &im); err != nil {
		t.Fatal(err)
	}
	b, err := registry.ReadBlob(ctx, repo, im.Layers[0].Digest, im.Layers[0].Size)
	if err != nil {
		t.Fatal(err)
	}
	return im.Layers[0].Digest, b
}

// compatNames are the names in the root's first layer.
func compatNames(t *testing.T, repo registry.Repository) []string {
	t.Helper()
	_, b := firstLayer(t, repo)
	var idx compatDocument
	if err := json.Unmarshal(b, &idx); err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for e := range maps.Values(idx.Entries) {
		names = append(names, e.Name)
	}
	slices.Sort(names)
	return names
}

func compatIndexOf(on bool, at time.Time) format.Config {
	return format.Config{CompatIndex: format.CompatIndex{On: on, Time: at}}
}

// What is written for nixcache-oci reads back as what it was made of.
func TestCompatIndexReadsBack(t *testing.T) {
	t.Parallel()
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		a := indextest.NewEntry(t, repo, "a")
		b := indextest.NewEntry(t, repo, "b")
		b.References = []string{a.Path.Base(), b.Path.Base(), "00000000000000000000000000000000-on-upstream"}
		slices.Sort(b.References)
		b.Signatures, b.Deriver, b.CA = []string{"k-1:" + strings.Repeat("A", 86) + "=="}, a.Path.Base(), "fixed:r:sha256:"+strings.Repeat("0", 52)
		x := indextest.NewEntry(t, repo, "x")
		x.Compression = bincache.CompressionXZ
		upstream := func(hashPart string) bool { return hashPart[0] == '0' }
		conf := compatIndexOf(true, time.Now())
		conf.PublicKeys = []string{indextest.ForeignKey}
		if r, err := indextest.Publish(t, repo, index.WriterOptions{OnUpstream: upstream, Config: conf}, a, b, x); err != nil || r.Committed != 3 {
			t.Fatalf("got %+v, %v", r, err)
		}
		_, raw := firstLayer(t, repo)
		seg, skipped, err := format.ParseForeign(raw)
		if err != nil || len(skipped) != 0 {
			t.Fatalf("got %v, %v", skipped, err)
		}
		ours, err := index.Open(repo, indextest.Quick()).Refresh(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		theirs := index.SnapshotOf(seg)
		if theirs.Len() != 3 || !slices.Equal(theirs.Config().PublicKeys, []string{indextest.ForeignKey}) {
			t.Errorf("got %d entries, %+v", theirs.Len(), theirs.Config())
		}
		var want time.Time // a publication alone changes nothing
		for e := range theirs.All {
			if e.Added.After(want) {
				want = e.Added
			}
		}
		if !theirs.Changed().Equal(want) || want.IsZero() {
			t.Errorf("generated %s, want %s", theirs.Changed(), want)
		}
		for e := range ours.All {
			e.Extras = format.Extras{} // nixcache-oci has no place for them
			if got, _ := theirs.Lookup(e.Path.HashPart); fmt.Sprint(got) != fmt.Sprint(e) {
				t.Errorf("got\n%+v, want\n%+v", got, e)
			}
		}
	})
}

// NARs in packs are left out, and what refers to them, and one warning counts
// them.
func TestCompatIndexLeavesOutPacks(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	repo := indextest.Open(t, t.TempDir())
	pack, err := repo.PutBlob(ctx, []byte("a pack of several NARs"))
	if err != nil {
		t.Fatal(err)
	}
	packed := indextest.EntryFor("packed", pack)
	packed.NAR.Size = 5
	needs := indextest.NewEntry(t, repo, "needs", packed.Path.Base())
	far := indextest.NewEntry(t, repo, "far", needs.Path.Base())
	alone := indextest.NewEntry(t, repo, "alone")
	var log bytes.Buffer
	o := indextest.Quick()
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	c := index.Open(repo, o)
	base, err := c.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, index.WriterOptions{CommitEvery: 1, Config: compatIndexOf(true, time.Now())})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []format.Entry{packed, needs, far, alone} {
		if err := w.Add(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if got := compatNames(t, repo); !slices.Equal(got, []string{"alone"}) {
		t.Errorf("got %v", got)
	}
	indextest.Sees(t, repo, packed, needs, far, alone)
	if n := strings.Count(log.String(), "nixcache-oci does not see"); n != 1 {
		t.Errorf("got %d warnings:\n%s", n, log.String())
	}
}

// Up to 5,000 paths, then none.
func TestCompatIndexIsBounded(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	repo := indextest.Open(t, t.TempDir())
	desc, err := repo.PutBlob(ctx, []byte("one NAR for all"))
	if err != nil {
		t.Fatal(err)
	}
	var entries []format.Entry
	for i := range index.MaxCompatIndex {
		entries = append(entries, indextest.EntryFor(fmt.Sprint("p", i), desc))
	}
	var log bytes.Buffer
	o := indextest.Quick()
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	add := func(entries ...format.Entry) {
		t.Helper()
		c := index.Open(repo, o)
		base, err := c.Sweep(ctx)
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.NewWriter(base, index.WriterOptions{CommitEvery: 1 << 20, Config: compatIndexOf(true, time.Now())})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if err := w.Add(ctx, e); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Close(ctx, nil); err != nil {
			t.Fatal(err)
		}
	}
	add(entries...)
	if n := len(compatNames(t, repo)); n != index.MaxCompatIndex || log.Len() > 0 {
		t.Errorf("got %d entries\n%s", n, log.String())
	}
	add(indextest.EntryFor("one-too-many", desc))
	if n := len(compatNames(t, repo)); n != 0 || strings.Count(log.String(), "too large") != 1 {
		t.Errorf("one more: got %d entries\n%s", n, log.String())
	}
	if s := indextest.Sees(t, repo); s.Len() != index.MaxCompatIndex+1 {
		t.Errorf("got %d entries", s.Len())
	}
}

// The latest word counts, for every later writer, also where nothing else is to
// be written, where the root is lost, and where old words were merged last.
func TestCompatIndexChoice(t *testing.T) {
	t.Parallel()
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		now := time.Now().UTC().Truncate(time.Second)
		n := 0
		add := func() {
			t.Helper()
			n++
			indextest.MustPublish(t, repo, indextest.NewEntry(t, repo, fmt.Sprint("p", n)))
		}
		say := func(on bool, at time.Time) {
			t.Helper()
			if _, err := indextest.Publish(t, repo, index.WriterOptions{Config: compatIndexOf(on, at)}); err != nil {
				t.Fatal(err)
			}
		}
		want := func(what string, on bool) {
			t.Helper()
			if got := len(compatNames(t, repo)); got != map[bool]int{false: 0, true: n}[on] {
				t.Errorf("%s: got %d of %d entries", what, got, n)
			}
			if s := indextest.Sees(t, repo); s.Config().CompatIndex.On != on {
				t.Errorf("%s: got %+v", what, s.Config())
			}
		}
		add()
		want("auto", false)
		root := rootDigest(t, repo)
		say(false, now)
		if rootDigest(t, repo) != root {
			t.Error("off, as it was: something was written")
		}
		say(true, now)
		want("on", true)
		add()
		want("auto after on", true)
		root = rootDigest(t, repo)
		say(true, now.Add(time.Second))
		if rootDigest(t, repo) != root {
			t.Error("on, as it was: something was written")
		}
		loseRoot(t, repo)
		add()
		want("on, with a lost root", true)
		say(false, now.Add(-time.Hour)) // by a clock that is slow
		want("off", false)
		for range index.FanIn { // the words are in segments that get merged
			add()
		}
		want("off, merged", false)
		loseRoot(t, repo)
		add()
		want("off, merged, with a lost root", false)
		say(true, now)
		for range index.FanIn {
			add()
			want("on, merged", true)
		}
	})
}

// A word of long ago does not come back with a segment that repeats it.
func TestCompatIndexWordsAreOrdered(t *testing.T) {
	t.Parallel()
	old := format.CompatIndex{On: true, Time: time.Unix(1, 0)}
	later := format.CompatIndex{On: false, Time: time.Unix(2, 0)}
	for _, c := range []format.CompatIndex{old.Merge(later), later.Merge(old), format.CompatIndex{}.Merge(later).Merge(old), later.Merge(old).Merge(format.CompatIndex{})} {
		if c != later {
			t.Errorf("got %+v", c)
		}
	}
	same := format.CompatIndex{On: true, Time: time.Unix(2, 0)}
	if a, b := same.Merge(later), later.Merge(same); a != b {
		t.Errorf("got %+v and %+v", a, b)
	}
}

// What has not changed is not sent again, and our readers never fetch it.
func TestCompatIndexIsNotSentTwice(t *testing.T) {
	t.Parallel()
	indextest.Backends(t, func(t *testing.T, open func() registry.Repository) {
		ctx := context.Background()
		inner := open()
		mustPublishOn := func(o index.WriterOptions, entries ...format.Entry) *indextest.Watched {
			t.Helper()
			repo := indextest.Watch(inner)
			if _, err := indextest.Publish(t, repo, o, entries...); err != nil {
				t.Fatal(err)
			}
			return repo
		}
		a := indextest.NewEntry(t, inner, "a")
		mustPublishOn(index.WriterOptions{Config: compatIndexOf(true, time.Now())}, a)
		first, _ := firstLayer(t, inner)

		// a segment without entries changes the root alone
		repo := indextest.Watch(inner)
		c := index.Open(repo, indextest.Quick())
		base, err := c.Sweep(ctx)
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.NewWriter(base, index.WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Close(ctx, &format.Publication{Time: time.Now(), Flake: "."}); err != nil {
			t.Fatal(err)
		}
		if now, _ := firstLayer(t, inner); now != first || repo.Put[first] != 0 || repo.Read[first] != 0 {
			t.Errorf("unchanged: sent %d times, read %d times", repo.Put[first], repo.Read[first])
		}
		repo = mustPublishOn(index.WriterOptions{}, indextest.NewEntry(t, inner, "b"))
		second, _ := firstLayer(t, inner)
		if second == first || repo.Put[second] != 1 {
			t.Errorf("changed: sent %d times", repo.Put[second])
		}
		reader := indextest.Watch(inner)
		cache := index.Open(reader, indextest.Quick())
		for _, read := range []func(context.Context) (*index.Snapshot, error){cache.Refresh, cache.Sweep} {
			if _, err := read(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if reader.Read[second] != 0 {
			t.Error("a reader has read it")
		}
	})
}

// The roots are those of the newest publication of each line, as hash parts. One
// that is partial takes the place of none that is complete.
func TestCompatIndexRoots(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	repo := indextest.Open(t, t.TempDir())
	old, new1, other, part := indextest.NewEntry(t, repo, "old"), indextest.NewEntry(t, repo, "new"), indextest.NewEntry(t, repo, "other"), indextest.NewEntry(t, repo, "part")
	if _, err := indextest.Publish(t, repo, index.WriterOptions{Config: compatIndexOf(true, time.Now())}, old, new1, other, part); err != nil {
		t.Fatal(err)
	}
	for i, p := range []struct {
		ref     string
		e       format.Entry
		partial bool
	}{
		{"refs/heads/main", old, false},
		{"refs/heads/other", other, false},
		{"refs/heads/main", new1, false},
		{"refs/heads/main", part, true},
	} {
		c := index.Open(repo, indextest.Quick())
		base, err := c.Sweep(ctx)
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.NewWriter(base, index.WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Close(ctx, &format.Publication{Time: time.Unix(int64(i), 0), Ref: p.ref, Partial: p.partial, Roots: []format.Root{{Path: p.e.Path.Base()}}}); err != nil {
			t.Fatal(err)
		}
	}
	_, b := firstLayer(t, repo)
	var idx compatDocument
	if err := json.Unmarshal(b, &idx); err != nil {
		t.Fatal(err)
	}
	want := []string{new1.Path.HashPart, other.Path.HashPart, part.Path.HashPart}
	slices.Sort(want)
	if !slices.Equal(idx.GCRoots, want) {
		t.Errorf("got %v, want %v", idx.GCRoots, want)
	}
}
