package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/atomicfile"
)

// disk is the copy of one cache's index in a local directory: entries blobs by
// digest, and the last state. The zero value keeps nothing.
type disk struct{ dir string }

// diskState is the file state.json.
type diskState struct {
	Root  v1.Hash              `json:"root,omitzero"`
	List  format.SegmentList   `json:"list"`
	Extra []format.SegmentInfo `json:"extra,omitempty"`
}

// unusedAge is how long a blob that no live segment names stays on disk, for
// the sake of other processes that are about to name it.
const unusedAge = 24 * time.Hour

func newDisk(dir, cache string) disk {
	if dir == "" {
		return disk{}
	}
	sum := sha256.Sum256([]byte(cache))
	return disk{filepath.Join(dir, "index", hex.EncodeToString(sum[:8]))}
}

func (d disk) blob(digest v1.Hash) string { return filepath.Join(d.dir, "entries-"+digest.Hex) }

// entries returns an entries blob, if it is here and intact.
func (d disk) entries(info format.SegmentInfo) ([]byte, bool) {
	if d.dir == "" {
		return nil, false
	}
	b, err := os.ReadFile(d.blob(info.Entries))
	if err != nil {
		return nil, false
	}
	got, _, err := v1.SHA256(bytes.NewReader(b))
	return b, err == nil && got == info.Entries
}

func (d disk) put(digest v1.Hash, b []byte) error {
	if d.dir == "" {
		return nil
	}
	return d.write(d.blob(digest), b)
}

func (d disk) write(name string, b []byte) error {
	if err := os.MkdirAll(d.dir, 0o755); err != nil { //nolint:gosec // a public cache's index
		return err
	}
	return atomicfile.Write(name, ".new-", b, 0o600, false)
}

func (d disk) save(s *Snapshot) error {
	if d.dir == "" || s.foreign || len(s.damage) > 0 { // not made of segments, or not whole
		return nil
	}
	b, err := json.Marshal(diskState{Root: s.digest, List: format.SegmentList{
		Version: format.Version, MinReader: format.Version,
		Segments: s.Segments(), Config: s.config,
	}, Extra: s.extra})
	if err != nil {
		return err
	}
	if err := d.write(filepath.Join(d.dir, "state.json"), b); err != nil {
		return err
	}
	return d.prune(s)
}

func (d disk) prune(s *Snapshot) error {
	live := map[string]bool{"state.json": true, keysFile: true}
	for _, seg := range s.segments {
		live[filepath.Base(d.blob(seg.Info.Entries))] = true
	}
	files, err := os.ReadDir(d.dir)
	for _, f := range files {
		if info, err := f.Info(); err == nil && !live[f.Name()] && time.Since(info.ModTime()) > unusedAge {
			_ = os.Remove(filepath.Join(d.dir, f.Name()))
		}
	}
	return err
}

func (d disk) state() (diskState, error) {
	var st diskState
	if d.dir == "" {
		return st, fs.ErrNotExist
	}
	b, err := os.ReadFile(filepath.Join(d.dir, "state.json"))
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return st, err
	}
	return st, errors.Join(format.CheckVersion(st.List.Version, st.List.MinReader), st.List.Config.Validate())
}
