package bincache

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// narAsBzip2 is what bzip2 makes of the nar in TestCompressions.
const narAsBzip2 = "425a6839314159265359a44b0c2b00000459804802400220002a639d4020009029931320c8c13552868c830d4ed8d30bc71b" +
	"5483028319d6e74a906f520ce6a41bf1d66a41ce2a41f6a41faa41e6a41d6b520f82838daa9066fe2ee48a70a12148961856"

// Each compression is known by its bytes, and read, and no two by the same.
func TestCompressions(t *testing.T) {
	nar := []byte(NARMagic + strings.Repeat("some contents ", 1000))
	compress := map[string]func(w io.Writer) io.WriteCloser{
		CompressionZstd: func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z },
		CompressionXZ:   func(w io.Writer) io.WriteCloser { x, _ := xz.NewWriter(w); return x },
		CompressionGzip: func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
	}
	extensions := map[string]bool{}
	for _, c := range compressions {
		var b bytes.Buffer
		switch c.Name {
		case CompressionNone:
			b.Write(nar)
		case CompressionBzip2: // Go has no encoder
			text, err := hex.DecodeString(narAsBzip2)
			if err != nil {
				t.Fatal(err)
			}
			b.Write(text)
		default:
			w := compress[c.Name](&b)
			if _, err := w.Write(nar); err != nil || w.Close() != nil {
				t.Fatalf("%s: %v", c.Name, err)
			}
		}
		if got, ok := CompressionOf(b.Bytes()[:len(NARMagic)]); !ok || got != c {
			t.Errorf("%s: got %+v by its first bytes", c.Name, got)
		}
		if got, ok := CompressionNamed(c.Name); !ok || got != c || extensions[c.Extension] {
			t.Errorf("%s: got %+v by its name", c.Name, got)
		}
		extensions[c.Extension] = true
		r, done, err := Decompress(&b, c.Name)
		if err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, nar) {
			t.Errorf("%s: got %d bytes, %v", c.Name, len(got), err)
		}
		done()
	}
	if c, ok := CompressionOf([]byte("PK\x03\x04")); ok {
		t.Errorf("got %+v", c)
	}
	if c, ok := CompressionNamed("br"); ok {
		t.Errorf("got %+v", c)
	}
	if _, done, err := Decompress(strings.NewReader(""), "br"); err == nil || done == nil {
		t.Errorf("got %v", err)
	}
}

// The hash of nothing, in all notations.
func TestHash(t *testing.T) {
	const (
		want = "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"
		hex  = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	)
	for _, s := range []string{want, "sha256:" + hex, "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="} {
		got, err := ParseHash(s)
		if err != nil || got != want || CheckHash(got) != nil || HashOf(HashDigits(got)) != want || !ValidDigits(HashDigits(got)) {
			t.Errorf("%s: got %s, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "sha256:", hex, "sha256:" + hex, "sha1:" + want[7:], want + "0", want[:len(want)-1], strings.Replace(want, "0", "e", 1), want + "\n"} {
		if CheckHash(s) == nil || ValidDigits(strings.TrimPrefix(s, "sha256:")) && strings.HasPrefix(s, "sha256:") {
			t.Errorf("%q is taken", s)
		}
	}
	for _, s := range []string{"", "x", "md5:1B2M2Y8AsgTpgAmY7PhCfg=="} {
		if got, err := ParseHash(s); err == nil {
			t.Errorf("%q: got %q", s, got)
		}
	}
}

func TestInfo(t *testing.T) {
	for text, want := range map[string]Info{
		"":                              {},
		"StoreDir: /s\nPriority: 25\n":  {"/s", 25},
		"StoreDir:/s\r\nPriority: x\n ": {"/s", 0},
	} {
		if got := ParseInfo(text); got != want {
			t.Errorf("%q: got %+v, want %+v", text, got, want)
		}
	}
	const text = "StoreDir: /s\nWantMassQuery: 1\nPriority: 30\n"
	if got := (Info{StoreDir: "/s"}).String(); got != text {
		t.Errorf("got %q, want %q", got, text)
	}
}

func TestSubstituter(t *testing.T) {
	s := Substituter{URL: "http://h:1"}
	if got, err := s.Lines(); err != nil || got != "extra-substituters = http://h:1?trusted=1\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if got := s.NixOS(); got != "nix.settings = {\n  extra-substituters = [ \"http://h:1?trusted=1\" ];\n};\n" {
		t.Errorf("got %q", got)
	}
	s.PublicKeys = []string{"a:1", "${b}:\"2"}
	if got, err := s.Lines(); err != nil || got != "extra-substituters = http://h:1\nextra-trusted-public-keys = a:1 ${b}:\"2\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if got := s.NixOS(); got != "nix.settings = {\n  extra-substituters = [ \"http://h:1\" ];\n  extra-trusted-public-keys = [ \"a:1\" \"\\${b}:\\\"2\" ];\n};\n" {
		t.Errorf("got %q", got)
	}
	for _, bad := range []Substituter{
		{URL: "http://h/a b"}, {URL: "http://h\nbuilders = x"}, {URL: "http://h/#x"}, {URL: "http://h/é"}, {URL: "http://h", PublicKeys: []string{"a:1\nb"}}, {URL: "http://h", PublicKeys: []string{""}},
	} {
		if got, err := bad.Lines(); err == nil {
			t.Errorf("%+v: got %q", bad, got)
		}
		if shown := bad.Shown(); !strings.HasPrefix(shown, "# ") || strings.Count(shown, "\n") != 1 {
			t.Errorf("%+v: got %q", bad, shown)
		}
	}
}
