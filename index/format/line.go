package format

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/storepath"
)

// An entry's line in an entries blob starts with three values at fixed
// positions, so that a reader can index a blob without decoding it:
//
//	{"k":"<hash part, 32>","n":"<NAR hash, 52>","f":"<file hash, 52>",…}
const (
	keyPos    = len(`{"k":"`)
	narPos    = keyPos + storepath.HashPartLen + len(`","n":"`)
	filePos   = narPos + bincache.HashLen + len(`","f":"`)
	prefixLen = filePos + bincache.HashLen + len(`",`)
)

// entryLine is the JSON form. The order of the fields is part of the format.
type entryLine struct {
	K      string    `json:"k"`
	N      string    `json:"n"`
	F      string    `json:"f"`
	Name   string    `json:"name"`
	NS     int64     `json:"narSize"`
	Refs   []string  `json:"refs,omitempty"`
	Drv    string    `json:"deriver,omitempty"`
	Sigs   []string  `json:"sigs,omitempty"`
	CA     string    `json:"ca,omitempty"`
	Comp   string    `json:"compression"`
	Blob   v1.Hash   `json:"blob"`
	BlobSz int64     `json:"blobSize"`
	Off    int64     `json:"offset,omitempty"`
	Size   int64     `json:"size,omitempty"` // left out for a whole blob
	Added  time.Time `json:"added"`

	LS    DocumentLocation `json:"ls,omitzero"`
	Log   DocumentLocation `json:"log,omitzero"`
	IDs   []string         `json:"buildIds,omitempty"`
	Reals []Realisation    `json:"realises,omitempty"`
}

// AppendLine appends e's line, with its newline, to b.
func AppendLine(b []byte, e *Entry) ([]byte, error) {
	if err := e.Validate(); err != nil {
		return b, err
	}
	l := entryLine{
		K: e.Path.HashPart, N: bincache.HashDigits(e.NarHash), F: bincache.HashDigits(e.FileHash),
		Name: e.Path.Name, NS: e.NarSize, Refs: e.References, Drv: e.Deriver, Sigs: e.Signatures, CA: e.CA,
		Comp: e.Compression, Blob: e.NAR.Blob, BlobSz: e.NAR.BlobSize, Off: e.NAR.Offset,
		Added: e.Added.UTC().Truncate(time.Second),
		LS:    DocumentLocation(e.Listing), Log: DocumentLocation(e.Log), IDs: e.BuildIDs, Reals: e.Realisations,
	}
	if e.NAR.Packed() {
		l.Size = e.NAR.Size
	}
	j, err := json.Marshal(l)
	if err != nil {
		return b, err
	}
	return append(append(b, j...), '\n'), nil
}

// DecodeLine decodes one line of an entries blob. storeDir becomes the
// entry's Path.Dir.
func DecodeLine(line []byte, storeDir string) (Entry, error) {
	var l entryLine
	if err := json.Unmarshal(line, &l); err != nil {
		return Entry{}, fmt.Errorf("decoding an entry: %w", err)
	}
	e := Entry{
		Path:    storepath.Path{Dir: storeDir, HashPart: l.K, Name: l.Name},
		NarHash: bincache.HashOf(l.N), NarSize: l.NS, References: l.Refs, Deriver: l.Drv, Signatures: bincache.Signatures(l.Sigs), CA: l.CA,
		Compression: l.Comp, FileHash: bincache.HashOf(l.F),
		NAR:   Location{Blob: l.Blob, BlobSize: l.BlobSz, Offset: l.Off, Size: l.Size},
		Added: l.Added,
	}
	if l.Size == 0 {
		e.NAR.Size = l.BlobSz
	}
	for i := range l.Reals {
		l.Reals[i].Signatures = bincache.Signatures(l.Reals[i].Signatures)
	}
	e.Extras = Extras{Listing: Location(l.LS), Log: Location(l.Log), BuildIDs: l.IDs, Realisations: l.Reals}
	if e.ValidateExtras() != nil {
		e.Extras = Extras{} // the path can be served without
	}
	return e, e.Validate()
}

// LineKeys checks the fixed part of a line and returns its three keys.
func LineKeys(line []byte) (hashPart, narHash, fileHash []byte, ok bool) {
	if len(line) <= prefixLen ||
		string(line[:keyPos]) != `{"k":"` ||
		string(line[narPos-len(`","n":"`):narPos]) != `","n":"` ||
		string(line[filePos-len(`","f":"`):filePos]) != `","f":"` ||
		string(line[prefixLen-2:prefixLen]) != `",` {
		return nil, nil, nil, false
	}
	return line[keyPos : keyPos+storepath.HashPartLen], line[narPos : narPos+bincache.HashLen], line[filePos : filePos+bincache.HashLen], true
}

// LineBlob returns the digest of a line's blob, in hexadecimal, and its size.
// It looks for them in the text, where they cannot be part of a value: quotes
// there are escaped. Decoding each line takes several times as long, which a
// large cache would feel in each publish.
func LineBlob(line []byte) (digest []byte, size int64, ok bool) {
	digest, okDigest := after(line, `"blob":"sha256:`, '"')
	text, okSize := after(line, `"blobSize":`, ',')
	size, err := strconv.ParseInt(string(text), 10, 64)
	if okDigest && okSize && err == nil {
		return digest, size, size > 0
	}
	// another writer may format it in another way
	var r struct {
		Blob   string `json:"blob"`
		BlobSz int64  `json:"blobSize"`
	}
	if json.Unmarshal(line, &r) != nil {
		return nil, 0, false
	}
	digest, ok = bytes.CutPrefix([]byte(r.Blob), []byte("sha256:"))
	return digest, r.BlobSz, ok && r.BlobSz > 0
}

// after returns what stands between name and the end of its value.
func after(line []byte, name string, end byte) ([]byte, bool) {
	_, rest, ok := bytes.Cut(line, []byte(name))
	value, _, ended := bytes.Cut(rest, []byte{end})
	return value, ok && ended
}
