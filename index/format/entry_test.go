package format_test

import (
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/nix-community/go-nix/pkg/narinfo"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
)

func TestNarinfoIsWhatNixWrites(t *testing.T) {
	e := indextest.EntryFor("hello-1.0", v1.Descriptor{Digest: format.EmptyConfig.Digest, Size: 2}, "00000000000000000000000000000000-dep")
	e.Deriver = "00000000000000000000000000000000-hello.drv"
	n, err := narinfo.Parse(strings.NewReader(e.Narinfo()))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Check(); err != nil {
		t.Error(err)
	}
	if n.Fingerprint() != e.Fingerprint() {
		t.Errorf("fingerprint: got %s, want %s", e.Fingerprint(), n.Fingerprint())
	}
}

// An entry must not be able to write lines of its own into a narinfo.
func TestValidateRefusesInjection(t *testing.T) {
	good := indextest.EntryFor("x", v1.Descriptor{Digest: format.EmptyConfig.Digest, Size: 2})
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*format.Entry){
		"name":          func(e *format.Entry) { e.Path.Name = "x\nSig: evil" },
		"hash part":     func(e *format.Entry) { e.Path.HashPart = strings.Repeat("e", 32) },
		"reference":     func(e *format.Entry) { e.References = []string{"../x"} },
		"deriver":       func(e *format.Entry) { e.Deriver = "/nix/store/x.drv" },
		"signature":     func(e *format.Entry) { e.Signatures = []string{"a:AAAA\nURL: x"} },
		"CA":            func(e *format.Entry) { e.CA = "fixed:\nSig: x" },
		"unknown CA":    func(e *format.Entry) { e.CA = "garbage" },
		"compression":   func(e *format.Entry) { e.Compression = "zstd\nSig: x" },
		"NAR hash":      func(e *format.Entry) { e.NarHash = "sha256:x" },
		"NAR size":      func(e *format.Entry) { e.NarSize = 0 },
		"blob":          func(e *format.Entry) { e.NAR.Blob.Hex = "../../etc" },
		"past the blob": func(e *format.Entry) { e.NAR.Offset = 1 },
		"overflow":      func(e *format.Entry) { e.NAR.Offset, e.NAR.BlobSize = 1<<63-1, 1<<63-1 },
	} {
		e := good
		spoil(&e)
		if e.Validate() == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := format.NewContent([]format.Entry{e}); err == nil {
			t.Errorf("%s: written all the same", name)
		}
	}
}

// A signature that nobody can verify costs neither the path nor the others.
func TestDecodeLineLeavesOutUnreadableSignatures(t *testing.T) {
	e := indextest.EntryFor("x", v1.Descriptor{Digest: format.EmptyConfig.Digest, Size: 2})
	sig := "k-1:" + strings.Repeat("A", 86) + "=="
	e.Signatures = []string{sig}
	e.Realisations = []format.Realisation{{ID: "sha256:" + strings.Repeat("0", 64) + "!out", Signatures: []string{sig}}}
	line, err := format.AppendLine(nil, &e)
	if err != nil {
		t.Fatal(err)
	}
	spoilt := strings.ReplaceAll(string(line), `["`+sig+`"]`, `["nonsense","k-1:AAAA",":","`+sig+`"]`)
	got, err := format.DecodeLine([]byte(spoilt), e.Path.Dir)
	if err != nil || !slices.Equal(got.Signatures, e.Signatures) || len(got.Realisations) != 1 || !got.Realisations[0].Equal(e.Realisations[0]) {
		t.Errorf("got %+v, %v", got, err)
	}
}
