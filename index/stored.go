package index

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// Stored returns the size in bytes, compressed, of all NARs in the cache: of
// each blob that an entry names, once.
func (s *Snapshot) Stored() int64 {
	type key [64]byte // hex
	seen := make(map[key]bool, len(s.entries))
	size := int64(0)
	for _, p := range s.entries {
		blob, n, ok := lineBlob(s.segments[p.segment].line(int(p.line)))
		if !ok || len(blob) != len(key{}) || seen[key(blob)] {
			continue
		}
		seen[key(blob)] = true
		size += n
	}
	return size
}

// lineBlob returns the digest of a line's blob, in hexadecimal, and its size.
// It looks for them in the text, where they cannot be part of a value: quotes
// there are escaped. Decoding each line takes several times as long, which a
// large cache would feel in each publish.
func lineBlob(line []byte) (digest []byte, size int64, ok bool) {
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
