package format

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/storepath"
)

// Version is what this package writes, and the newest it reads.
const Version = 1

// Limits of an entries blob.
const (
	MaxEntriesBlob = 64 << 20 // compressed, in bytes
	MaxEntries     = 1 << 30  // uncompressed, in bytes
)

// Header is the first line of an entries blob.
type Header struct {
	// Version is the format's version; MinReader the least version a reader
	// must know to read this.
	Version   int `json:"version"`
	MinReader int `json:"minReader"`
	// Nonce makes every segment unique.
	Nonce   string    `json:"nonce"`
	Created time.Time `json:"created"`
	// Replaces are the manifest digests of the segments that this one
	// supersedes.
	Replaces     []v1.Hash    `json:"replaces,omitempty"`
	Publications publications `json:"publications,omitempty"`
	// Unpinned are the names that pin nothing published until then.
	Unpinned []Unpin `json:"unpinned,omitempty"`
	// Removed are the entries that a collection has removed. They stay hidden
	// where a writer that did not know of it has copied them.
	Removed []Removal `json:"removed,omitempty"`
	// Config is what the writer contributed to the cache's configuration.
	Config Config `json:"config"`
}

// publications are decoded one by one, so that what is none ends it: in memory a
// publication takes a hundred times the text of an empty one.
type publications []Publication

// UnmarshalJSON refuses a publication without a time.
func (ps *publications) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t == nil {
		return err
	}
	for d.More() {
		var p Publication
		if err := d.Decode(&p); err != nil {
			return err
		}
		if p.Time.IsZero() {
			return errors.New("a publication without a time")
		}
		*ps = append(*ps, p)
	}
	return nil
}

// Segment is an entries blob in memory. Its lines stay encoded until one is
// asked for. It is immutable, but for what it remembers.
type Segment struct {
	Info   SegmentInfo
	Header Header
	// Generated is when nixcache-oci's index was made; zero for our segments.
	Generated time.Time
	data      []byte // uncompressed
	lines     []span // of the entries, without the newline
	// added is when the entry of each line was added, in Unix seconds, as far
	// as somebody has asked: each snapshot asks again for every line that
	// supersedes another, and decoding takes most of its time.
	added []atomic.Int64
}

const (
	addedUnknown = 0
	// AddedNever is what AddedAt says of a line that does not decode: any other
	// is newer.
	AddedNever = math.MinInt64
)

type span struct{ off, end int }

// Len is the number of entries.
func (s *Segment) Len() int { return len(s.lines) }

// Line is the line of an entry, without its newline, for who does not change it.
func (s *Segment) Line(i int) []byte { return s.data[s.lines[i].off:s.lines[i].end] }

// AddedAt returns when the entry of a line was added, in Unix seconds, or
// addedNever.
func (s *Segment) AddedAt(i int) int64 {
	at := s.added[i].Load()
	if at == addedUnknown {
		at = AddedNever
		if e, err := DecodeLine(s.Line(i), storepath.DefaultDir); err == nil {
			at = e.Added.Unix()
		}
		s.added[i].Store(at)
	}
	return at
}

// EncodeSegment makes an entries blob of a header and the lines of entries.
func EncodeSegment(h Header, lines []byte) ([]byte, error) {
	h.Version, h.MinReader = Version, Version
	head, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(head)+1+len(lines) > MaxEntries {
		return nil, fmt.Errorf("a segment of %d bytes is too large", len(head)+1+len(lines))
	}
	return compress(slices.Concat(head, []byte{'\n'}, lines)), nil
}

// Estimates of what a segment takes in memory, in bytes.
const (
	// headerCost is what a byte of the header takes at most when it is decoded:
	// an empty object of three bytes becomes a value with several fields.
	headerCost = 32
	// lineCost is what a line takes in tables, here and in a snapshot.
	lineCost = 224
)

// ParseSegment reads an entries blob. It checks the header and the fixed part
// of every line; the rest of a line is checked when it is looked up. Reserve is
// asked before memory is taken, of about so many bytes; its error ends the reading.
func ParseSegment(blob []byte, reserve func(bytes int64) error) (*Segment, error) {
	unpacked := UnpackedSize(blob, MaxEntries)
	// with its tables an index takes half as much again as its text
	if err := reserve(int64(unpacked) / 2 * 3); err != nil { //nolint:gosec // at most MaxEntries
		return nil, err
	}
	data, err := decompress(blob, unpacked)
	if err != nil {
		return nil, fmt.Errorf("decompressing a segment: %w", err)
	}
	head, rest, ok := bytes.Cut(data, []byte{'\n'})
	if !ok {
		return nil, fmt.Errorf("a segment without a header line")
	}
	lines := bytes.Count(rest, []byte{'\n'})
	// more than that, if the header is long or the lines are short
	if err := reserve(max(0, int64(len(head))*headerCost-1<<20) + max(0, int64(lines)*lineCost-int64(len(rest)/2))); err != nil {
		return nil, err
	}
	s := &Segment{data: data}
	if err := json.Unmarshal(head, &s.Header); err != nil {
		return nil, fmt.Errorf("decoding a segment's header: %w", err)
	}
	if err := CheckVersion(s.Header.Version, s.Header.MinReader); err != nil {
		return nil, err
	}
	if len(rest) > 0 && rest[len(rest)-1] != '\n' {
		return nil, fmt.Errorf("a segment's last line is cut off")
	}
	s.lines = make([]span, 0, lines)
	for off := len(head) + 1; off < len(data); {
		end := off + bytes.IndexByte(data[off:], '\n')
		if _, _, _, ok := LineKeys(data[off:end]); !ok {
			return nil, fmt.Errorf("line %d of a segment is no entry", len(s.lines)+2)
		}
		s.lines = append(s.lines, span{off, end})
		off = end + 1
	}
	s.added = make([]atomic.Int64, len(s.lines))
	return s, nil
}

// TooNewError tells that a cache needs a newer version of this program.
type TooNewError struct{ MinReader int }

func (e *TooNewError) Error() string {
	return fmt.Sprintf("the cache needs a reader of format version %d, this one knows version %d", e.MinReader, Version)
}

// CheckVersion is a *TooNewError if this program cannot read what says so of
// itself.
func CheckVersion(version, minReader int) error {
	if version <= 0 {
		return fmt.Errorf("the cache index has no version")
	}
	if minReader > Version {
		return &TooNewError{minReader}
	}
	return nil
}

// Memory estimates how many bytes of memory the segment takes.
func (s *Segment) Memory() int64 {
	const line = int64(unsafe.Sizeof(span{}) + 8)
	n := int64(unsafe.Sizeof(*s)) + int64(cap(s.data)) + int64(cap(s.lines))*line
	for _, p := range s.Header.Publications {
		n += int64(unsafe.Sizeof(p)) + 256 // its strings, roughly
		for _, r := range p.Roots {
			n += int64(unsafe.Sizeof(r)) + int64(len(r.Attr)+len(r.Path)+16)
		}
		for _, d := range p.BuildDeps {
			n += int64(unsafe.Sizeof(d)) + int64(len(d)+16)
		}
	}
	for _, r := range s.Header.Removed {
		n += int64(unsafe.Sizeof(r)) + int64(len(r.HashPart)+16)
	}
	return n + int64(len(s.Header.Replaces))*160
}
