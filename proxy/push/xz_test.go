package push

import (
	"bytes"
	"testing"

	"github.com/ulikunitz/xz"

	"github.com/org/nixoci-action/bincache"
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
