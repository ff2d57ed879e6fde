package format

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/storepath"
)

// PinAfter is the age of an entry at which a publish that relies on it repeats
// it in a segment of its own. Collection never removes an entry younger than
// twice this, so an entry cannot vanish between the moment a publish has read
// the index and the moment its own segment is there.
const PinAfter = 12 * time.Hour

// MaxClockSkew is by how much clocks may differ. What is said to be later than
// that is from the future.
const MaxClockSkew = 24 * time.Hour

// Location says where the bytes of a compressed NAR are: a whole blob, or a
// part of one that it shares with others (a pack).
type Location struct {
	// Blob is the digest of the blob.
	Blob v1.Hash
	// BlobSize is the size of the whole blob in bytes.
	BlobSize int64
	// Offset is where the compressed NAR starts in the blob.
	Offset int64
	// Size is the length of the compressed NAR in bytes: the file size.
	Size int64
}

// Packed reports whether the blob holds other NARs as well.
func (l Location) Packed() bool { return l.Size != l.BlobSize }

// Entry is one store path in the cache: its narinfo and where its NAR is.
type Entry struct {
	// Path is the store path. Its Dir is not stored in an entry; it is the
	// cache's store directory.
	Path storepath.Path
	// NarHash is "sha256:" and 52 characters of Nix base32, over the
	// uncompressed NAR.
	NarHash string
	// NarSize is the size of the uncompressed NAR in bytes.
	NarSize int64
	// References are base names, sorted.
	References []string
	// Deriver is the base name of the .drv, or "".
	Deriver string
	// Signatures are "name:base64".
	Signatures []string
	// CA is the content address, or "".
	CA string
	// Compression is the narinfo's Compression.
	Compression string
	// FileHash is "sha256:" and 52 characters of Nix base32, over the
	// compressed NAR.
	FileHash string
	// NAR is where the compressed NAR is; NAR.Size is the narinfo's FileSize.
	NAR Location
	// Extras is what the cache has of the path besides its narinfo and NAR.
	Extras
	// Added is when the path was last known to be wanted: when it was
	// uploaded, or pinned by a later publish.
	Added time.Time
}

// File is the entry's NAR among the files of the cache.
func (e *Entry) File() bincache.File {
	c, _ := bincache.CompressionNamed(e.Compression)
	return bincache.File{Kind: bincache.NAR, Name: bincache.HashDigits(e.FileHash), Detail: c.Extension}
}

// URL is the entry's NAR relative to the cache: "nar/<file hash>.nar.zst".
func (e *Entry) URL() string {
	return e.File().Path()
}

// Narinfo is the entry in Nix's narinfo format.
func (e *Entry) Narinfo() string {
	var b strings.Builder
	b.Grow(512 + 64*len(e.References))
	line := func(key, value string) { bincache.WriteField(&b, key, value) }
	line("StorePath", e.Path.String())
	line("URL", e.URL())
	line("Compression", e.Compression)
	line("FileHash", e.FileHash)
	line("FileSize", strconv.FormatInt(e.NAR.Size, 10))
	line("NarHash", e.NarHash)
	line("NarSize", strconv.FormatInt(e.NarSize, 10))
	line("References", strings.Join(e.References, " "))
	if e.Deriver != "" {
		line("Deriver", e.Deriver)
	}
	for _, s := range e.Signatures {
		line("Sig", s)
	}
	if e.CA != "" {
		line("CA", e.CA)
	}
	return b.String()
}

// Fingerprint is the text that a signature covers:
// "1;<store path>;<NAR hash>;<NAR size>;<references>", the references as
// absolute paths, sorted, joined by commas.
func (e *Entry) Fingerprint() string {
	refs := make([]string, len(e.References))
	for i, r := range e.References {
		refs[i] = e.Path.Dir + "/" + r
	}
	slices.Sort(refs)
	return fmt.Sprintf("1;%s;%s;%d;%s", e.Path, e.NarHash, e.NarSize, strings.Join(refs, ","))
}

// Validate checks every field, so that an entry which passes makes a narinfo
// that every Nix version can read and that has no line but its own.
func (e *Entry) Validate() error {
	if _, err := storepath.ParseBase(e.Path.Base()); err != nil {
		return err
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%s: %s", e.Path.Base(), fmt.Sprintf(format, args...))
	}
	for what, h := range map[string]string{"NAR hash": e.NarHash, "file hash": e.FileHash} {
		if err := bincache.CheckHash(h); err != nil {
			return fail("%s %v", what, err)
		}
	}
	if e.NarSize <= 0 {
		return fail("NAR size %d", e.NarSize)
	}
	for _, r := range e.References {
		if _, err := storepath.ParseBase(r); err != nil {
			return fail("reference %v", err)
		}
	}
	if e.Deriver != "" {
		if _, err := storepath.ParseBase(e.Deriver); err != nil {
			return fail("deriver %v", err)
		}
	}
	if !slices.Equal(e.Signatures, bincache.Signatures(e.Signatures)) {
		return fail("signatures %q", e.Signatures)
	}
	if e.CA != "" {
		if err := bincache.CheckCA(e.CA); err != nil {
			return fail("%v", err)
		}
	}
	if _, ok := bincache.CompressionNamed(e.Compression); !ok {
		return fail("compression %q", e.Compression)
	}
	n := e.NAR
	if invalidDigest(n.Blob) {
		return fail("blob digest %q", n.Blob)
	}
	if !n.inBlob() {
		return fail("NAR at %d+%d in a blob of %d bytes", n.Offset, n.Size, n.BlobSize)
	}
	if err := e.ValidateExtras(); err != nil {
		return fail("%v", err)
	}
	return nil
}

// inBlob reports whether there is something at l, and all of it in the blob.
func (l Location) inBlob() bool {
	// written so that no sum can overflow
	return l.Size > 0 && l.Offset >= 0 && l.BlobSize >= l.Size && l.Offset <= l.BlobSize-l.Size
}
