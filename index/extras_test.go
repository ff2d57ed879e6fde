package index

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/registry"
)

const testBuildID = "0123456789abcdef0123456789abcdef01234567"

var testSig = "k-1:" + strings.Repeat("A", 86) + "=="

// document reads one that an entry names.
func readDocument(t *testing.T, repo registry.Repository, l Location) string {
	t.Helper()
	blob, err := registry.ReadBlob(context.Background(), repo, l.Blob, l.BlobSize)
	if err != nil {
		t.Fatal(err)
	}
	r, size, err := OpenDocument(blob[l.Offset : l.Offset+l.Size])
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil || int64(len(b)) != size {
		t.Fatalf("got %d bytes of %d, %v", len(b), size, err)
	}
	return string(b)
}

// publishWith publishes entries with documents made of their names.
func publishWith(t *testing.T, repo registry.Repository, days float64, ref string, entries ...Entry) Result {
	t.Helper()
	ctx := context.Background()
	c := Open(repo, at(days))
	base, err := c.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := Publication{Time: c.opts.Now(), Ref: ref}
	for _, e := range entries {
		p.Roots = append(p.Roots, Root{Path: e.Path.Base()})
		if err := w.AddWith(ctx, e, documentsFor(&e)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := w.Close(ctx, &p)
	if err != nil || len(r.Incomplete)+len(r.Lost) > 0 {
		t.Fatalf("got %+v, %v", r, err)
	}
	return r
}

func documentsFor(e *Entry) Documents {
	d := Documents{Listing: []byte("listing of " + e.Path.Name)}
	if e.Deriver != "" {
		d.Log = []byte("log of " + e.Deriver)
	}
	return d
}

// documented makes sure that entries are there with what belongs to them.
func documented(t *testing.T, repo registry.Repository, s *Snapshot, entries ...Entry) {
	t.Helper()
	for _, want := range entries {
		e, ok := s.Lookup(want.Path.HashPart)
		if !ok || e.Listing.Size == 0 || (e.Log.Size == 0) != (want.Deriver == "") {
			t.Errorf("%s: got %+v, %v", want.Path.Name, e.Extras, ok)
			continue
		}
		if got := readDocument(t, repo, e.Listing); got != "listing of "+want.Path.Name {
			t.Errorf("%s has the listing %q", want.Path.Name, got)
		}
		if want.Deriver == "" {
			continue
		}
		of, ok := s.LookupLog(want.Deriver)
		if !ok || of.Deriver != want.Deriver {
			t.Errorf("no log of %s", want.Deriver)
			continue
		}
		if got := readDocument(t, repo, of.Log); got != "log of "+want.Deriver {
			t.Errorf("%s has the log %q", want.Deriver, got)
		}
	}
}

func drvOf(name string) string { return entryFor(name+".drv", v1.Descriptor{}).Path.Base() }

func TestExtras(t *testing.T) {
	backends(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		a, b := newEntry(t, repo, "a"), newEntry(t, repo, "a-dev")
		a.Deriver, b.Deriver = drvOf("a"), drvOf("a")
		a.BuildIDs = []string{testBuildID}
		id := Realisation{ID: "sha256:" + strings.Repeat("ab", 32) + "!out", Signatures: []string{testSig}}
		trace := Realisation{Drv: drvOf("a"), Output: "out"}
		a.Realisations = []Realisation{id, trace}
		publishWith(t, repo, 2, "refs/heads/main", a, b, newEntry(t, repo, "c"))
		s := sweep(t, open())
		documented(t, repo, s, a, b, entryFor("c", v1.Descriptor{}))
		ea, _ := s.Lookup(a.Path.HashPart)
		eb, _ := s.Lookup(b.Path.HashPart)
		if ea.Log != eb.Log || ea.Log.Blob != ea.Listing.Blob {
			t.Errorf("one build's outputs have the logs %+v and %+v, the listing %+v", ea.Log, eb.Log, ea.Listing)
		}
		if e, ok := s.LookupBuildID(testBuildID); !ok || e.Path != a.Path {
			t.Errorf("got %+v, %v", e.Path, ok)
		}
		if r, e, ok := s.LookupRealisation(id.ID); !ok || e.Path != a.Path || !r.equal(id) {
			t.Errorf("got %+v of %s, %v", r, e.Path, ok)
		}
		if r, e, ok := s.LookupBuildTrace(trace.Drv, "out"); !ok || e.Path != a.Path || !r.equal(trace) {
			t.Errorf("got %+v of %s, %v", r, e.Path, ok)
		}
		for _, no := range []string{"", "x", a.Path.Base(), drvOf("b")} {
			if _, ok := s.LookupLog(no); ok {
				t.Errorf("there is a log of %q", no)
			}
			if _, _, ok := s.LookupBuildTrace(no, "out"); ok {
				t.Errorf("there is a build trace of %q", no)
			}
		}

		if es := s.Derived(drvOf("a")); len(es) != 2 {
			t.Errorf("got %d outputs of the derivation", len(es))
		}
		if es := slices.Concat(s.Derived(""), s.Derived(drvOf("b")), s.Derived(a.Path.Base())); len(es) != 0 {
			t.Errorf("got %+v", es)
		}

		// who repeats an entry without its extras, as one that does not know
		// them, keeps them; and can add to them
		plain := a
		plain.Extras = Extras{Realisations: []Realisation{{ID: strings.Replace(id.ID, "ab", "cd", 1)}}}
		publishAt(t, repo, 0, "refs/heads/main", plain)
		s = sweep(t, open())
		documented(t, repo, s, a)
		if e, _ := s.Lookup(a.Path.HashPart); len(e.Realisations) != 3 || len(e.BuildIDs) != 1 {
			t.Errorf("repeated: got %+v", e.Extras)
		}
		// but another build of the path has nothing of the old one's contents
		other := newEntry(t, repo, "other contents")
		other.Path, other.Deriver = a.Path, a.Deriver
		publishAt(t, repo, -1, "refs/heads/main", other)
		if e, _ := sweep(t, open()).Lookup(a.Path.HashPart); e.Listing.Size != 0 || e.Log.Size != 0 || e.Realisations != nil {
			t.Errorf("other contents: got %+v", e.Extras)
		}
	})
}

// Many documents take few blobs, and none is too large for its reader.
func TestDocumentsShareBlobs(t *testing.T) {
	repo := newMemory()
	var entries []Entry
	for i := range 600 {
		e := newEntry(t, repo, fmt.Sprint("p", i))
		e.Deriver = drvOf(e.Path.Name)
		entries = append(entries, e)
	}
	publishWith(t, repo, 0, "refs/heads/main", entries...)
	s := sweep(t, repo)
	documented(t, repo, s, entries...)
	blobs := map[v1.Hash]bool{}
	s.All(func(e Entry) bool {
		for _, l := range e.locations() {
			blobs[l.Blob] = true
		}
		return true
	})
	if len(blobs) != 2 { // one for each segment
		t.Errorf("the documents of 600 paths are in %d blobs", len(blobs))
	}

	random := make([]byte, 9<<20)
	for i := range random {
		random[i] = byte((i * i * 31) >> 7 * 13)
	}
	docs := map[string]*encoded{}
	for i := range 10 {
		docs[fmt.Sprint(i)] = &encoded{listing: random[i<<10 : 1<<20], log: random[i<<12 : 1<<20]}
	}
	docs["large"] = &encoded{listing: random, log: random[1:]}
	for _, p := range packDocuments(docs) {
		if len(p.blob) > MaxExtrasBlob || len(p.blob) > extrasSize && len(p.parts) > 1 {
			t.Errorf("a blob of %d bytes with %d documents", len(p.blob), len(p.parts))
		}
		for _, part := range p.parts {
			want := docs[part.hashPart].listing
			if part.log {
				want = docs[part.hashPart].log
			}
			if !bytes.Equal(p.blob[part.offset:part.offset+part.size], want) {
				t.Errorf("%+v is something else", part)
			}
		}
	}
}

// refusingBlobs takes no blob that looks like documents.
type refusingBlobs struct{ *memory }

func (r refusingBlobs) PutBlob(ctx context.Context, b []byte) (v1.Descriptor, error) {
	if r, _, err := OpenDocument(b); err == nil {
		defer r.Close()
		if text, _ := io.ReadAll(r); bytes.HasPrefix(text, []byte("listing of ")) {
			return v1.Descriptor{}, errors.New("no room")
		}
	}
	return r.memory.PutBlob(ctx, b)
}

// A publish does not fail for documents that cannot be stored.
func TestDocumentsAreNotEssential(t *testing.T) {
	repo := refusingBlobs{newMemory()}
	a := newEntry(t, repo, "a")
	publishWith(t, repo, 0, "refs/heads/main", a)
	s := sweep(t, repo)
	has(t, s, a)
	if e, _ := s.Lookup(a.Path.HashPart); e.Listing.Size != 0 {
		t.Errorf("got %+v", e.Listing)
	}
	large := newEntry(t, repo.memory, "large")
	c := Open(repo.memory, quick())
	base, err := c.Sweep(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AddWith(context.Background(), large, Documents{Listing: make([]byte, MaxDocument+1), Log: []byte("short")}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if e, ok := sweep(t, repo).Lookup(large.Path.HashPart); !ok || e.Listing.Size != 0 || e.Log.Size == 0 {
		t.Errorf("a listing that is too large: got %+v, %v", e.Extras, ok)
	}
}

// What a collector has taken between the documents and their segment is left
// out of that.
func TestDocumentsLostBeforeTheirSegment(t *testing.T) {
	ctx := context.Background()
	repo := newMemory()
	a := newEntry(t, repo, "a")
	publishWith(t, repo, 1, "refs/heads/main", newEntry(t, repo, "x"))
	c := Open(repo, at(0))
	base, err := c.Sweep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AddWith(ctx, a, documentsFor(&a)); err != nil {
		t.Fatal(err)
	}
	if err := w.store(ctx); err != nil {
		t.Fatal(err)
	}
	delete(repo.blobs, w.pending[a.Path.HashPart].Listing.Blob)
	r, err := w.Close(ctx, nil)
	if err != nil || r.Committed != 1 || len(r.Lost) > 0 {
		t.Errorf("got %+v, %v", r, err)
	}
	if e, ok := sweep(t, repo).Lookup(a.Path.HashPart); !ok || e.Listing.Size != 0 {
		t.Errorf("got %+v, %v", e.Listing, ok)
	}
}

// Compaction and collection take over documents where they are, leave out what
// is lost, and copy what is mostly waste.
func TestCollectDocuments(t *testing.T) {
	backends(t, func(t *testing.T, open func() registry.Repository) {
		repo := open()
		var old, keep []Entry
		for i := range 6 {
			e := newEntry(t, repo, fmt.Sprint("p", i))
			e.Deriver = drvOf(e.Path.Name)
			old = append(old, e)
		}
		publishWith(t, repo, 90, "refs/pull/1/merge", old...)
		keep = old[4:]
		publishAt(t, repo, 50, "refs/heads/main", keep...)
		documented(t, repo, sweep(t, open()), old...)
		before, _ := sweep(t, open()).Lookup(keep[0].Path.HashPart)
		_, done := mustCollect(t, repo, 0, defaults)
		s := sweep(t, open())
		documented(t, repo, s, keep...)
		lacks(t, s, old[:4]...)
		after, _ := s.Lookup(keep[0].Path.HashPart)
		if after.Listing.Blob == before.Listing.Blob || done.Repacked < after.Listing.BlobSize {
			t.Errorf("a third of the documents is needed: they moved from %+v to %+v, %d bytes copied", before.Listing, after.Listing, done.Repacked)
		}
		mustCollect(t, repo, -2, defaults)
		documented(t, repo, sweep(t, open()), keep...)
		if size, err := repo.BlobSize(context.Background(), before.Listing.Blob); err == nil && strings.HasPrefix(repo.String(), "oci:") {
			t.Errorf("the old blob of %d bytes is still there", size)
		}
		// small segments that are merged keep theirs
		for i := range fanIn {
			e := newEntry(t, repo, fmt.Sprint("q", i))
			keep = append(keep, e)
			publishWith(t, repo, -3, "refs/heads/main", e)
		}
		s = sweep(t, open())
		if len(s.Segments()) > fanIn {
			t.Errorf("%d segments: nothing was merged", len(s.Segments()))
		}
		documented(t, repo, s, keep...)
	})
}

// A program that does not know documents may copy a line that names some, and
// not name their blob. Once the registry has taken it, they are forgotten.
func TestDocumentsThatOthersLost(t *testing.T) {
	lose := func(t *testing.T, repo *memory) (a, b Entry) {
		a, b = newEntry(t, repo, "a"), newEntry(t, repo, "b")
		publishWith(t, repo, 90, "refs/pull/1/merge", a, b)
		e, _ := sweep(t, repo).Lookup(a.Path.HashPart)
		delete(repo.blobs, e.Listing.Blob)
		return a, b
	}
	forgotten := func(t *testing.T, repo *memory, a Entry) {
		t.Helper()
		s := sweep(t, repo)
		has(t, s, a)
		if e, _ := s.Lookup(a.Path.HashPart); e.Listing.Size != 0 {
			t.Errorf("got %+v", e.Listing)
		}
	}
	t.Run("collection", func(t *testing.T) {
		repo := newMemory()
		a, b := lose(t, repo)
		o := defaults
		o.Keep = []Keep{{Reason: "the test", Paths: []string{a.Path.Base()}}}
		_, done := mustCollect(t, repo, 0, o)
		forgotten(t, repo, a)
		lacks(t, sweep(t, repo), b)
		if len(done.Lost) > 0 {
			t.Errorf("got %d paths lost", len(done.Lost))
		}
	})
	t.Run("compaction", func(t *testing.T) {
		repo := newMemory()
		a, _ := lose(t, repo)
		for i := range fanIn {
			publishAt(t, repo, -1, "refs/heads/main", newEntry(t, repo, fmt.Sprint("q", i)))
		}
		forgotten(t, repo, a)
	})
	t.Run("repeat", func(t *testing.T) {
		repo := newMemory()
		a, _ := lose(t, repo)
		e, _ := sweep(t, repo).Lookup(a.Path.HashPart)
		publishAt(t, repo, -1, "refs/heads/main", e)
		forgotten(t, repo, a)
	})
}

// What this version does not understand in an entry's extras costs these, not
// the path.
func TestStrangeExtras(t *testing.T) {
	a := entryFor("a", v1.Descriptor{Digest: emptyConfig.Digest, Size: 2})
	a.Listing = Location{Blob: emptyConfig.Digest, BlobSize: 100, Offset: 10, Size: 20}
	line, err := appendLine(nil, &a)
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(line) || len(line) > 600 {
		t.Errorf("got %s", line)
	}
	if e, err := decodeLine(line, "/nix/store"); err != nil || e.Listing != a.Listing {
		t.Errorf("got %+v, %v", e.Listing, err)
	}
	good := string(line[bytes.Index(line, []byte(`["`)) : bytes.LastIndex(line, []byte(`]`))+1])
	for _, bad := range []string{
		`null`, `{}`, `[]`, `"x"`, `7`, `{"blob":"x","more":[1,2]}`, strings.Replace(good, `,10,`, `,-10,`, 1), strings.Replace(good, `,20]`, `,200]`, 1),
		strings.Replace(good, `,20]`, `,0]`, 1), strings.Replace(good, `,20]`, `,9223372036854775807]`, 1), strings.Replace(good, "44136f", "44136F", 1), strings.Replace(good, `,100,`, `,99999999999,`, 1),
	} {
		strange := strings.Replace(string(line), good, bad, 1)
		e, err := decodeLine([]byte(strange), "/nix/store")
		if err != nil || e.Listing.Size != 0 || e.Path != a.Path {
			t.Errorf("%s: got %+v, %v", bad, e.Extras, err)
		}
		var r row
		if _, ok := r.decode([]byte(strange), &[]blob{}); !ok || len(r.extras) > 0 {
			t.Errorf("%s: a collection reads %+v, %v", bad, r.extras, ok)
		}
	}
	for name, spoil := range map[string]func(*Entry){
		"document past the blob": func(e *Entry) { e.Log = Location{Blob: emptyConfig.Digest, BlobSize: 2, Offset: 1, Size: 2} },
		"document too large": func(e *Entry) {
			e.Log = Location{Blob: emptyConfig.Digest, BlobSize: MaxExtrasBlob + 1, Size: 2}
		},
		"build ID":       func(e *Entry) { e.BuildIDs = []string{"../../etc/passwd"} },
		"realisation":    func(e *Entry) { e.Realisations = []Realisation{{ID: "sha256:x!out"}} },
		"no realisation": func(e *Entry) { e.Realisations = []Realisation{{}} },
		"two in one":     func(e *Entry) { e.Realisations = []Realisation{{ID: modelRealisation("x").ID, Drv: drvOf("x")}} },
		"output":         func(e *Entry) { e.Realisations = []Realisation{{Drv: drvOf("x"), Output: `o"ut`}} },
		"signature": func(e *Entry) {
			e.Realisations = []Realisation{{ID: modelRealisation("x").ID, Signatures: []string{"x"}}}
		},
	} {
		e := a
		spoil(&e)
		if _, err := newContent([]Entry{e}); err == nil {
			t.Errorf("%s: written all the same", name)
		}
	}
}

// A realisation that Nix writes is read and served as Nix does, in both forms.
func TestRealisationFormats(t *testing.T) {
	const (
		out = "4cggaifbp1fc8zhsdrk9pzi45ifqk6i6-ca-top"
		id  = "sha256:8ba7b5dfbe204d0fc46cb255e0293afdc9ef63db7912b6035e67d63e17d53c8f!out"
		drv = "xmw07xh4mqksjwr80326z007d3v3sh7p-ca-top.drv"
	)
	sig := strings.Repeat("A", 86) + "=="
	old := `{"dependentRealisations":{},"id":"` + id + `","outPath":"` + out + `","signatures":["k-1:` + sig + `"]}`
	r, path, err := ParseRealisation(id+".doi", []byte(old))
	if err != nil || path != out || r.JSON(path) != old {
		t.Errorf("got %+v of %q, %v: %s", r, path, err, r.JSON(path))
	}
	if want := strings.Replace(old, `,"signatures":["k-1:`+sig+`"]`, "", 1); r.Fingerprint(out) != want {
		t.Errorf("got the fingerprint %s, want %s", r.Fingerprint(out), want)
	}
	// what it depends on is left out, and the signature covers that
	depends := strings.Replace(old, `{}`, `{"`+id+`":"`+out+`"}`, 1)
	if r, _, err := ParseRealisation(id+".doi", []byte(depends)); err != nil || r.Signatures != nil {
		t.Errorf("got %+v, %v", r, err)
	}
	unsigned := Realisation{ID: id}
	if got := unsigned.JSON(out); !strings.HasSuffix(got, `,"signatures":[]}`) {
		t.Errorf("unsigned: got %s", got)
	}

	trace := `{"outPath":"` + out + `","signatures":[{"keyName":"k-1","sig":"` + sig + `"}]}`
	r, path, err = ParseRealisation(drv+"/out.doi", []byte(trace))
	if err != nil || path != out || r.JSON(path) != trace || !slices.Equal(r.Signatures, []string{"k-1:" + sig}) {
		t.Errorf("got %+v of %q, %v: %s", r, path, err, r.JSON(path))
	}
	if want := `{"key":{"drvPath":"` + drv + `","outputName":"out"},"value":{"outPath":"` + out + `"}}`; r.Fingerprint(out) != want {
		t.Errorf("got the fingerprint %s, want %s", r.Fingerprint(out), want)
	}

	for _, bad := range [][2]string{
		{id, old}, {strings.Replace(id, "!out", "!dev", 1) + ".doi", old}, {"x.doi", old}, {id + ".doi", "{}"}, {id + ".doi", "[]"}, {id + ".doi", ""},
		{id + ".doi", strings.Replace(old, out, "../"+out, 1)}, {id + ".doi", strings.Replace(old, "k-1:", "", 1)},
		{drv + "/../out.doi", trace}, {drv + "/.doi", trace}, {out + "/out.doi", trace}, {"/out.doi", trace},
	} {
		if r, path, err := ParseRealisation(bad[0], []byte(bad[1])); err == nil {
			t.Errorf("%q: got %+v of %q", bad, r, path)
		}
	}
}

func TestCheckListing(t *testing.T) {
	file := `{"narOffset":1,"size":1,"type":"regular"}`
	tree := func(inner string) string {
		return `{"root":{"entries":{"lib":{"entries":{"debug":{"entries":{".build-id":{"entries":{` + inner + `},"type":"directory"}},"type":"directory"}},"type":"directory"}},"type":"directory"},"version":1}`
	}
	for doc, want := range map[string][]string{
		`{"version":1,"root":` + file + `}`: nil,
		tree(`"01":{"entries":{"` + testBuildID[2:] + `.debug":` + file + `,"x.debug":` + file + `},"type":"directory"},"zz":` + file): {testBuildID},
		tree(`"01":{"entries":{"` + testBuildID[2:] + `.debug":{"target":"x","type":"symlink"}},"type":"directory"}`):                  nil,
		tree(`"01":null`): nil,
		strings.Replace(tree(""), `{"entries":{".build-id"`, `null,"x":{"entries":{".build-id"`, 1): nil,
	} {
		if got, err := CheckListing([]byte(doc)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %q, %v, want %q", doc, got, err, want)
		}
	}
	for _, bad := range []string{``, `[]`, `{}`, `{"version":1}`, `{"version":2,"root":` + file + `}`, `{"version":1,"root":7}`} {
		if got, err := CheckListing([]byte(bad)); err == nil {
			t.Errorf("%s: got %q", bad, got)
		}
	}
}
