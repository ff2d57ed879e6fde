package format_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

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
