package page

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/nix-community/go-nix/pkg/nixbase32"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/storepath"
)

const testKey = "test-1:Yeaqy3FM9MFKA/J0HCnQqZm7LfZ9lCcS3Mqf7JYLb9s="

// now is when all tests look at their caches.
var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func daysAgo(d float64) time.Time { return now.Add(-time.Duration(d * 24 * float64(time.Hour))) }

// fake writes a real cache index of store paths that have no NARs.
type fake struct {
	tb   testing.TB
	name string // of the cache
	repo registry.Repository
	rng  *rand.Rand
	blob v1.Descriptor
	refs []string // base names of what was published
}

func newFake(tb testing.TB) *fake {
	tb.Helper()
	f := &fake{tb: tb, name: "oci:" + filepath.Join(tb.TempDir(), "cache"), rng: rand.New(rand.NewPCG(1, 2))}
	var err error
	if f.repo, err = registry.Open(f.name, registry.Options{Push: true}); err != nil {
		tb.Fatal(err)
	}
	if f.blob, err = f.repo.PutBlob(context.Background(), make([]byte, 8<<20)); err != nil {
		tb.Fatal(err)
	}
	return f
}

func (f *fake) random(n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, f.rng.Uint64())
	}
	return b[:n]
}

func (f *fake) entry(name string, refs ...string) format.Entry {
	size := int64(4096 + f.rng.IntN(100_000))
	e := format.Entry{
		Path:    storepath.Path{Dir: storepath.DefaultDir, HashPart: nixbase32.EncodeToString(f.random(20)), Name: name},
		NarHash: bincache.FormatHash(f.random(32)), NarSize: 3 * size, References: slices.Sorted(slices.Values(refs)),
		Signatures:  []string{"test-1:" + base64.StdEncoding.EncodeToString(f.random(64))},
		Compression: bincache.CompressionZstd, FileHash: bincache.FormatHash(f.random(32)),
		NAR: format.Location{Blob: f.blob.Digest, BlobSize: f.blob.Size, Offset: f.rng.Int64N(f.blob.Size - size), Size: size},
	}
	e.Deriver = nixbase32.EncodeToString(f.random(20)) + "-" + name + ".drv"
	f.refs = append(f.refs, e.Path.Base())
	return e
}

// publish adds entries at the time of a publication, and records it.
func (f *fake) publish(p format.Publication, entries ...format.Entry) {
	f.tb.Helper()
	c := index.Open(f.repo, index.Options{Settle: time.Nanosecond, Now: func() time.Time { return p.Time }})
	base, err := c.Sweep(context.Background())
	if err != nil {
		f.tb.Fatal(err)
	}
	w, err := c.NewWriter(base, index.WriterOptions{
		Config:     format.Config{PublicKeys: []string{testKey}},
		OnUpstream: func(string) bool { return true },
	})
	if err != nil {
		f.tb.Fatal(err)
	}
	for _, e := range entries {
		if err := w.Add(context.Background(), e); err != nil {
			f.tb.Fatal(err)
		}
	}
	if r, err := w.Close(context.Background(), &p); err != nil || r.Committed != len(entries) {
		f.tb.Fatalf("got %+v, %v", r, err)
	}
}

func (f *fake) snapshot() *index.Snapshot {
	f.tb.Helper()
	s, err := index.Open(f.repo, index.Options{}).Sweep(context.Background())
	if err != nil {
		f.tb.Fatal(err)
	}
	return s
}

func (f *fake) page(change ...func(*Options)) *Page {
	s := f.snapshot()
	o := Options{Snapshot: func() *index.Snapshot { return s }, Cache: f.name, Version: "v0-test", Now: func() time.Time { return now }}
	for _, c := range change {
		c(&o)
	}
	return New(o)
}

var packageNames = []string{"hello", "glibc", "openssl", "python3.12-numpy", "linux-firmware", "nixos-system-laptop", "rust-std", "gcc-wrapper", "source"}

// layered picks a reference as most packages have them: a few that everybody
// has, and few others.
func layered(f *fake) string {
	u := f.rng.Float64()
	return f.refs[int(float64(len(f.refs))*u*u*u*u*u*u)]
}

// tangled picks one of those published shortly before: everything refers to
// nearly everything that is older.
func tangled(f *fake) string {
	return f.refs[len(f.refs)-1-f.rng.IntN(min(len(f.refs), 2000))]
}

// large publishes n entries with up to six references each, in ten
// publications over 80 days.
func (f *fake) large(n int, pick func(*fake) string) {
	for part := range 10 {
		var entries []format.Entry
		for range n / 10 {
			var refs []string
			for range min(len(f.refs), f.rng.IntN(7)) {
				if r := pick(f); !slices.Contains(refs, r) {
					refs = append(refs, r)
				}
			}
			entries = append(entries, f.entry(fmt.Sprintf("%s-%d.%d", packageNames[f.rng.IntN(len(packageNames))], f.rng.IntN(20), f.rng.IntN(100)), refs...))
		}
		f.publish(format.Publication{
			Time: daysAgo(float64(80 - 8*part)), Ref: "refs/heads/main", Systems: []string{"x86_64-linux"}, Roots: []format.Root{{Attr: "packages.x86_64-linux.default", Path: f.refs[len(f.refs)-1]}},
		}, entries...)
	}
}

// small is a cache with something of everything.
func (f *fake) small() (app, lib format.Entry) {
	libc := f.entry("glibc-2.40")
	libc.References = []string{libc.Path.Base()}
	lib = f.entry("libfoo-1.2", libc.Path.Base())
	old := f.entry("app-1.0", lib.Path.Base())
	app = f.entry("app-1.1", lib.Path.Base(), libc.Path.Base(), "00000000000000000000000000000000-on-an-upstream-1.0")
	pr := f.entry("app-1.2-pre", lib.Path.Base())
	pinned := f.entry("release-1.0", old.Path.Base())
	orphan := f.entry("orphan-0.1")
	root := func(e format.Entry) []format.Root {
		return []format.Root{{Attr: "packages.x86_64-linux.app", Path: e.Path.Base()}}
	}
	f.publish(format.Publication{Time: daysAgo(70), Ref: "refs/heads/main", Flake: "github:acme/app", Revision: "0123456789abcdef0123456789abcdef01234567", RunURL: "https://ci.example.org/runs/1", Systems: []string{"x86_64-linux"}, Roots: root(old)}, libc, lib, old)
	f.publish(format.Publication{Time: daysAgo(60), Ref: "refs/tags/v1.0", Pin: "production", PinKeep: 1, Systems: []string{"x86_64-linux"}, Roots: root(pinned)}, pinned)
	f.publish(format.Publication{Time: daysAgo(50), Ref: "refs/heads/main", Systems: []string{"x86_64-linux"}, Roots: root(app)}, app)
	f.publish(format.Publication{Time: daysAgo(40), Ref: "refs/heads/x", Roots: nil}, orphan)
	f.publish(format.Publication{Time: daysAgo(20), Ref: "refs/pull/7/merge", Partial: true, Systems: []string{"x86_64-linux"}, Roots: root(pr)}, pr)
	return app, lib
}
