package upload

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/nar"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/secret"
)

// Every listing is what Nix writes into a binary cache.
func TestListingsAreNix(t *testing.T) {
	s := newStore(t)
	infos := s.build(t, append(derivations,
		`(drv { name = "unicode"; script = "mkdir -p \"$out/sp ace/ünï\" $out/empty; echo > \"$out/sp ace/ünï/é\\\"q\"; printf x > \"$out/$(printf 'new\\nline\\001\\t.')\""; })`,
		`(drv { name = "debug"; script = "mkdir -p $out/lib/debug/.build-id/ab $out/lib/debug/.build-id/cd; echo > $out/lib/debug/.build-id/ab/$(printf %038d 1).debug; echo > $out/lib/debug/.build-id/cd/other.debug"; })`,
	)...)
	cache := t.TempDir()
	for _, p := range infos {
		if name(p) != "names" { // no UTF-8: today's Nix fails
			s.Run(t, s.Dir, "nix", "--extra-experimental-features", "nix-command", "copy", "--no-check-sigs", "--to", "file://"+cache+"?write-nar-listing=1&compression=none", p.Path)
		}
	}
	var rec recorder
	rec.mustRun(t, newRepo(t), infos, Options{Dump: s.client.Dump, Listings: true})
	if len(rec.results) != len(infos) {
		t.Fatalf("got %d results for %d paths", len(rec.results), len(infos))
	}
	for _, res := range rec.results {
		if name(res.Info) == "names" {
			if res.Listing != nil {
				t.Errorf("names that are no UTF-8: got the listing %s", res.Listing)
			}
			continue
		}
		want, err := os.ReadFile(filepath.Join(cache, filepath.Base(res.Info.Path)[:32]+".ls"))
		if err != nil {
			t.Fatal(err)
		}
		var gotJSON, wantJSON any
		if err := json.Unmarshal(res.Listing, &gotJSON); err != nil {
			t.Errorf("%s: %v in %s", name(res.Info), err, res.Listing)
			continue
		}
		if err := json.Unmarshal(want, &wantJSON); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(gotJSON, wantJSON) {
			t.Errorf("%s: got %.2000s, want %.2000s", name(res.Info), res.Listing, want)
		}
		var ids []string
		if name(res.Info) == "debug" {
			ids = []string{"ab" + fmt.Sprintf("%038d", 1)}
		}
		if !slices.Equal(res.BuildIDs, ids) {
			t.Errorf("%s: got the build IDs %q, want %q", name(res.Info), res.BuildIDs, ids)
		}
	}
}

// TestListingIsExact has what Nix 2.26 and 2.34 wrote for a tree with the
// same contents, byte for byte.
func TestListingIsExact(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"bin/x": "a", "emptyfile": "", "sp ace/f": "hello\n", "new\nline": "1234567", "ünï/é\"\\q": "q", "\x01ctl\t": "x"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "empty"), 0o755),
		os.Chmod(filepath.Join(dir, "bin/x"), 0o755),
		os.Symlink("../x", filepath.Join(dir, "sp ace/ln")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	const want = `{"root":{"entries":{"\u0001ctl\t":{"narOffset":232,"size":1,"type":"regular"},"bin":{"entries":{"x":{"executable":true,"narOffset":592,"size":1,"type":"regular"}},"type":"directory"},"empty":{"entries":{},"type":"directory"},"emptyfile":{"narOffset":992,"size":0,"type":"regular"},"new\nline":{"narOffset":1176,"size":7,"type":"regular"},"sp ace":{"entries":{"f":{"narOffset":1504,"size":6,"type":"regular"},"ln":{"target":"../x","type":"symlink"}},"type":"directory"},"ünï":{"entries":{"é\"\\q":{"narOffset":2056,"size":1,"type":"regular"}},"type":"directory"}},"type":"directory"},"version":1}`
	var b bytes.Buffer
	if err := nar.DumpPath(&b, dir); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 7, 8, 1000, b.Len()} { // the pieces in which it comes
		l := newLister()
		for piece := range slices.Chunk(b.Bytes(), size) {
			_, _ = l.Write(piece)
		}
		if got := string(l.listing()); got != want {
			t.Errorf("in pieces of %d bytes: got %s\nwant %s", size, got, want)
		}
	}
}

func TestManyFilesHaveAListing(t *testing.T) {
	n := 100_000
	if raceEnabled || testing.Short() {
		n = 10_000
	}
	s := newStore(t)
	infos := s.build(t, fmt.Sprintf(`(drv { name = "many"; script = "mkdir $out; cd $out; seq 1 %d | split -l 1 -a 5 - f"; })`, n))
	var rec recorder
	rec.mustRun(t, newRepo(t), infos, Options{Listings: true})
	var doc struct {
		Root struct{ Entries map[string]any }
	}
	if err := json.Unmarshal(rec.results[0].Listing, &doc); err != nil || len(doc.Root.Entries) != n {
		t.Errorf("got %d files, %v", len(doc.Root.Entries), err)
	}
}

// A listing is of the bytes that are published: if our own reading of a path
// fails, it is of Nix's.
func TestListingOfTheSecondReading(t *testing.T) {
	s := newStore(t)
	infos := s.build(t, `(drv { name = "dots"; script = "mkdir $out; echo a > $out/..x; echo b > $out/a"; })`)
	dump := func(ctx context.Context, path string, w io.Writer) error { return s.client.Dump(ctx, path, w) }
	var rec recorder
	rec.mustRun(t, newRepo(t), infos, Options{Dump: dump, Listings: true})
	if got := string(rec.results[0].Listing); !strings.Contains(got, `{"..x":{"narOffset":`) || !json.Valid([]byte(got)) {
		t.Errorf("got %s", got)
	}
}

// Whatever comes, it is listed in JSON or not at all.
func FuzzLister(f *testing.F) {
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x"), []byte("contents"), 0o755); err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	if err := nar.DumpPath(&b, dir); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes(), 3)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		l := newLister()
		for piece := range slices.Chunk(data, max(1, size)) {
			if n, err := l.Write(piece); n != len(piece) || err != nil {
				t.Fatalf("got %d, %v", n, err)
			}
		}
		if got := l.listing(); got != nil && !json.Valid(got) {
			t.Errorf("%q is listed as %s", data, got)
		}
	})
}

// What a listing costs beside the rest of an upload.
func BenchmarkListings(b *testing.B) {
	s := newStore(b)
	infos := s.build(b,
		`(drv { name = "many"; script = "mkdir $out; cd $out; seq 1 5000 | split -l 1 -a 5 - f"; })`,
		`(drv { name = "text"; script = "seq 1 3000000 > $out"; })`,
	)
	for _, p := range infos {
		for _, listings := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/listings=%v", name(p), listings), func(b *testing.B) {
				codec, err := newCodec("", 0)
				if err != nil {
					b.Fatal(err)
				}
				r := &run{opts: Options{Progress: silent{}}, codec: codec}
				for b.Loop() {
					var list *lister
					if listings {
						list = newLister()
					}
					if _, err := r.compress(b.Context(), p, ownDump, io.Discard, list); err != nil || listings && list.listing() == nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// What it costs to look for secrets, beside the rest of an upload.
func BenchmarkSecrets(b *testing.B) {
	s := newStore(b)
	infos := s.build(b,
		`(drv { name = "noise"; script = "head -c 40000000 /dev/urandom > $out"; })`,
		`(drv { name = "text"; script = "seq 1 3000000 > $out"; })`,
	)
	secrets := &secret.Set{}
	secrets.AddKeys("cache-1:" + base64.StdEncoding.EncodeToString(content(1, 64)))
	for i := range uint32(5) {
		secrets.Add("a token", "ghs_"+base64.StdEncoding.EncodeToString(content(i, 27)))
	}
	for _, p := range infos {
		for _, compression := range []string{bincache.CompressionZstd, bincache.CompressionNone} {
			for _, set := range []*secret.Set{nil, secrets} {
				b.Run(fmt.Sprintf("%s/%s/secrets=%v", name(p), compression, set != nil), func(b *testing.B) {
					codec, err := newCodec(compression, 0)
					if err != nil {
						b.Fatal(err)
					}
					r := &run{opts: Options{Progress: silent{}, Secrets: set}, codec: codec}
					b.SetBytes(p.NarSize)
					for b.Loop() {
						if _, err := r.compress(b.Context(), p, ownDump, io.Discard, nil); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
