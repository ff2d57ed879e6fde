package format_test

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
)

// What decodes is valid, makes a narinfo of one line a field, and encodes to
// something that decodes to the same.
func FuzzEntryLine(f *testing.F) {
	f.Add(bytes.TrimSpace(indextest.SampleLine(f)))
	f.Add([]byte(`{"k":"`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := format.DecodeLine(line, "/nix/store")
		if err != nil {
			return
		}
		for l := range strings.Lines(e.Narinfo()) {
			if key, _, ok := strings.Cut(l, ": "); !ok || !strings.Contains("StorePath URL Compression FileHash FileSize NarHash NarSize References Deriver Sig CA", key) {
				t.Errorf("narinfo line %q", l)
			}
		}
		again, err := format.AppendLine(nil, &e)
		if err != nil {
			t.Fatalf("valid, but not encoded: %v", err)
		}
		if _, _, _, ok := format.LineKeys(bytes.TrimSpace(again)); !ok {
			t.Fatalf("written without its fixed part: %s", again)
		}
		e2, err := format.DecodeLine(bytes.TrimSpace(again), "/nix/store")
		if err != nil || e2.Narinfo() != e.Narinfo() || e2.NAR != e.NAR {
			t.Errorf("got %+v, %v, want %+v", e2, err, e)
		}
	})
}

// Whatever somebody sends as a narinfo, an entry that is valid makes a narinfo
// that says the same.
func FuzzParseNarinfo(f *testing.F) {
	e := indextest.EntryFor("hello-1.0", v1.Descriptor{Digest: format.EmptyConfig.Digest, Size: 2}, "00000000000000000000000000000000-dep")
	e.Deriver, e.CA = "00000000000000000000000000000000-hello-1.0.drv", "fixed:r:sha256:"+strings.Repeat("0", 52)
	e.Signatures = []string{"k-1:" + strings.Repeat("A", 86) + "=="}
	f.Add(e.Narinfo())
	f.Add("StorePath: /nix/store/00000000000000000000000000000000-x\r\nNarHash: sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\nNarSize: 1\nDeriver: unknown-deriver\nNew: 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		e, _, err := format.ParseNarinfo(text)
		if err != nil {
			return
		}
		e.FileHash = e.NarHash
		e.NAR = format.Location{Blob: format.EmptyConfig.Digest, BlobSize: 2, Size: 2}
		if e.Validate() != nil {
			return
		}
		again, url, err := format.ParseNarinfo(e.Narinfo())
		if err != nil || url != e.URL() {
			t.Fatalf("got %q, %v", url, err)
		}
		again.FileHash, again.NAR = e.FileHash, e.NAR
		if again.Narinfo() != e.Narinfo() {
			t.Errorf("got\n%s\nwant\n%s", again.Narinfo(), e.Narinfo())
		}
	})
}

// What a registry sends as a document is decompressed or refused, and never
// more than it says.
func FuzzOpenDocument(f *testing.F) {
	for _, n := range []int{1, 100, 1000, 2 << 20} {
		b, err := format.EncodeDocument(bytes.Repeat([]byte("x"), n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, size, err := format.OpenDocument(b)
		if err != nil {
			return
		}
		defer r.Close()
		n, err := io.Copy(io.Discard, io.LimitReader(r, format.MaxDocument+1))
		if size <= 0 || size > format.MaxDocument || err == nil && n < size {
			t.Errorf("got %d bytes of %d, %v", n, size, err)
		}
	})
}

// doi is the file of a realisation with a name below its folder.
func doi(name string) bincache.File {
	if strings.Contains(name, "/") {
		return bincache.Parse("build-trace-v2/" + name)
	}
	return bincache.Parse("realisations/" + name)
}

// A realisation that is accepted can be served.
func FuzzParseRealisation(f *testing.F) {
	f.Add("sha256:8ba7b5dfbe204d0fc46cb255e0293afdc9ef63db7912b6035e67d63e17d53c8f!out.doi",
		[]byte(`{"dependentRealisations":{},"id":"sha256:8ba7b5dfbe204d0fc46cb255e0293afdc9ef63db7912b6035e67d63e17d53c8f!out","outPath":"4cggaifbp1fc8zhsdrk9pzi45ifqk6i6-ca-top","signatures":[]}`))
	f.Add("xmw07xh4mqksjwr80326z007d3v3sh7p-ca-top.drv/out.doi", []byte(`{"outPath":"4cggaifbp1fc8zhsdrk9pzi45ifqk6i6-ca-top","signatures":[{"keyName":"k","sig":"AA=="}]}`))
	f.Fuzz(func(t *testing.T, name string, doc []byte) {
		r, out, err := format.ParseRealisation(doi(name), doc)
		if err != nil {
			return
		}
		again, out2, err := format.ParseRealisation(doi(name), []byte(r.JSON(out)))
		if err != nil || out2 != out || !again.Equal(r) {
			t.Errorf("%q %q: got %+v of %s, %v", name, doc, again, out2, err)
		}
	})
}

// A segment list that is accepted can be written again.
func FuzzSegmentList(f *testing.F) {
	f.Add([]byte(`{"version":1,"minReader":1,"segments":[{"tag":"segment-x","manifest":"` + digest("0") + `","entries":"` + digest("1") + `","entriesSize":3,"count":1,"created":"2026-01-01T00:00:00Z"}],"config":{"publicKeys":["a:` + strings.Repeat("A", 43) + `="]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := format.ParseSegmentList(indextest.Frame(raw))
		if err != nil {
			return
		}
		b, err := format.EncodeSegmentList(l)
		if err != nil {
			t.Fatal(err)
		}
		again, err := format.ParseSegmentList(b)
		if err != nil || len(again.Segments) != len(l.Segments) || fmt.Sprint(again.Config) != fmt.Sprint(l.Config) {
			t.Errorf("got %+v, %v, want %+v", again, err, l)
		}
	})
}

func digest(digit string) string { return "sha256:" + strings.Repeat(digit, 64) }

// What was replaced can be written again as it was read.
func FuzzParseRetired(f *testing.F) {
	f.Add([]byte(`[{"tag":"segment-x","manifest":"` + digest("0") + `","since":"2026-01-01T00:00:00Z"},{"manifest":"` + digest("1") + `","since":"2026-01-01T00:00:00+01:00"}]`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		rs, err := format.ParseRetired(indextest.Frame(raw))
		if err != nil || len(rs) == 0 {
			return
		}
		_, blobs, err := format.NewRoot(nil, format.SegmentList{}, rs)
		if err != nil {
			t.Fatal(err)
		}
		again, err := format.ParseRetired(blobs[2])
		if err != nil || !slices.EqualFunc(again, rs, func(a, b format.Retired) bool {
			return a.Tag == b.Tag && a.Manifest == b.Manifest && a.Since.Equal(b.Since)
		}) {
			t.Errorf("got %+v, %v, want %+v", again, err, rs)
		}
	})
}

// A manifest that is written again in the form that it has says the same.
func FuzzManifest(f *testing.F) {
	layers, _, err := format.NewRoot([]byte("{}"), format.SegmentList{}, []format.Retired{{Manifest: format.EmptyConfig.Digest}})
	if err != nil {
		f.Fatal(err)
	}
	for _, form := range []format.Form{format.FormFull, format.FormUntyped, format.FormImage} {
		m, err := form.Manifest(format.MediaRoot, layers, time.Unix(0, 0), "https://example.org")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.Raw)
	}
	f.Add([]byte(`{"layers":[{"digest":"` + digest("0") + `"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, form, err := format.DecodeManifest(raw)
		if err != nil || slices.ContainsFunc(m.Layers, func(d v1.Descriptor) bool { return d.Digest == v1.Hash{} }) {
			return
		}
		again, err := form.Manifest(m.ArtifactType, m.Layers, time.Unix(0, 0), "https://example.org")
		if err != nil {
			t.Fatal(err)
		}
		m2, form2, err := format.DecodeManifest(again.Raw)
		if err != nil || form2 != form || m2.ArtifactType != m.ArtifactType || len(m2.Layers) != len(m.Layers) {
			t.Fatalf("got %+v in form %d, %v, want %+v in form %d", m2, form2, err, m, form)
		}
		if form == format.FormImage && (m.ArtifactType != format.MediaRoot || len(m.Layers) > len(layers)) {
			return // the types of other layers are not kept
		}
		root, err := format.ParseRoot(raw)
		root2, err2 := format.ParseRoot(again.Raw)
		digests := func(r format.RootManifest) [4]v1.Hash {
			return [4]v1.Hash{r.Stub, r.Segments.Digest, r.Retired.Digest, r.Foreign.Digest}
		}
		if (err == nil) != (err2 == nil) || digests(root) != digests(root2) {
			t.Errorf("got the root %+v, %v, want %+v, %v", root2, err2, root, err)
		}
	})
}
