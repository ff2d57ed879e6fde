package push

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"
	"testing/iotest"

	"github.com/ulikunitz/xz"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/proxytest"
)

// What xz makes is walked through to its end: blocks with and without sizes in
// their headers, chunks that are compressed and that are not.
func TestCheckXZ(t *testing.T) {
	data := append(bytes.Repeat([]byte("easy "), 100_000), proxytest.RandomBytes(1, 300_000)...)
	for _, c := range []xz.WriterConfig{{}, {BlockSize: 50_000}, {CheckSum: xz.SHA256, BlockSize: 70_001}, {NoCheckSum: true}, {DictCap: maxDict}} {
		var b bytes.Buffer
		w, err := c.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(data)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := checkXZ(bytes.NewReader(b.Bytes())); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		// the last block, that the decoder would read
		x := bytes.Clone(b.Bytes())
		dict := byte(22) // 8 MiB
		if c.DictCap > 0 {
			dict = 28
		}
		x[bytes.LastIndex(x, []byte{0x21, 0x01, dict, 0})+2] = 40
		if err := checkXZ(bytes.NewReader(x)); err == nil {
			t.Errorf("%+v: a dictionary of 4 GiB in its last block was not seen", c)
		}
		if err := checkXZ(bytes.NewReader(b.Bytes()[:b.Len()/2])); err == nil {
			t.Errorf("%+v: half of it was taken for all", c)
		}
	}
}

func FuzzCheckXZ(f *testing.F) {
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		f.Fatal(err)
	}
	_, _ = w.Write([]byte(bincache.NARMagic))
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(_ *testing.T, b []byte) { _ = checkXZ(bytes.NewReader(b)) })
}

// What is pushed is decompressed or refused, and the same however it comes.
func FuzzDecompress(f *testing.F) {
	f.Add([]byte(bincache.NARMagic))
	f.Add(indextest.Frame([]byte(bincache.NARMagic)))
	f.Add([]byte("BZh9"))
	for _, writer := range []func(io.Writer) io.WriteCloser{
		func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		func(w io.Writer) io.WriteCloser { x, _ := xz.NewWriter(w); return x },
	} {
		var b bytes.Buffer
		w := writer(&b)
		if _, err := w.Write([]byte(bincache.NARMagic)); err != nil || w.Close() != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		compression, err := compressionOf(bytes.NewReader(b))
		if err != nil || compression == bincache.CompressionXZ && checkXZ(bytes.NewReader(b)) != nil {
			return
		}
		read := func(r io.Reader) (string, bool) {
			d, done, err := bincache.Decompress(r, compression)
			if err != nil {
				return "", false
			}
			defer done()
			text, err := io.ReadAll(io.LimitReader(d, 64<<10))
			return string(text), err == nil
		}
		whole, ok := read(bytes.NewReader(b))
		if pieces, ok2 := read(iotest.HalfReader(bytes.NewReader(b))); ok2 != ok || ok && pieces != whole {
			t.Errorf("%s: got %d bytes, %v; in pieces %d bytes, %v", compression, len(whole), ok, len(pieces), ok2)
		}
	})
}
