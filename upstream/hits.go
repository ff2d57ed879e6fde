package upstream

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/atomicfile"
	"github.com/org/nixoci-action/internal/storepath"
)

const (
	// hitsMaxAge is how long an upstream cache is believed to keep a path.
	hitsMaxAge = 7 * 24 * time.Hour
	// maxHits bounds a file, to about 9 MB.
	maxHits      = 200_000
	maxHitsBytes = 16 << 20
	hitsMagic    = "nixoci-hits 1 "
)

// Hits are the paths that an upstream cache is known to have, kept in a file
// between runs:
//
//	nixoci-hits 1 <SHA-256 of all that follows, in hex>
//	<URL of the upstream cache>
//	<hash part> <when it was seen, in Unix seconds>
//	…
//
// Misses are not kept: they may be published at any time. The checksum is
// there because a damaged line could be read as a path nobody has. They are not
// for concurrent use.
type Hits struct {
	file  string
	url   string
	seen  map[string]int64
	dirty bool
}

// LoadHits reads the hits of the upstream cache at url. A file that is missing,
// damaged or another upstream's counts as empty.
func LoadHits(dir, upstream string, now time.Time) *Hits {
	h := &Hits{file: filepath.Join(dir, hitsName(upstream)), url: upstream, seen: map[string]int64{}}
	h.merge(now)
	return h
}

// hitsName is readable, and different for every URL.
func hitsName(upstream string) string {
	sum := sha256.Sum256([]byte(upstream))
	host := "upstream"
	if u, err := url.Parse(upstream); err == nil {
		host = u.Hostname()
	}
	host = strings.Map(func(r rune) rune {
		if r == '.' || r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' {
			return r
		}
		return '_'
	}, strings.ToLower(host))
	return host[:min(len(host), 64)] + "-" + hex.EncodeToString(sum[:8]) + ".hits"
}

// Has reports whether a path is among them.
func (h *Hits) Has(hashPart string) bool {
	_, ok := h.seen[hashPart]
	return ok
}

// Add adds a path that the cache has now.
func (h *Hits) Add(hashPart string, now time.Time) {
	h.seen[hashPart], h.dirty = now.Unix(), true
}

// merge adds what the file has and is not too old.
func (h *Hits) merge(now time.Time) {
	f, err := os.Open(h.file)
	if err != nil {
		return
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxHitsBytes+1))
	if err != nil || len(data) > maxHitsBytes {
		return
	}
	found, err := parseHits(data, h.url)
	if err != nil {
		return
	}
	oldest, newest := now.Add(-hitsMaxAge).Unix(), now.Add(time.Hour).Unix() // clocks differ a little
	for hashPart, at := range found {
		if oldest < at && at <= newest && h.seen[hashPart] < at {
			h.seen[hashPart] = at
		}
	}
}

// Save writes the file, if there is anything new, together with what other
// processes have written since it was read. If two write at the same moment,
// the hits of one are lost, which costs requests and nothing else.
func (h *Hits) Save(now time.Time) error {
	if !h.dirty {
		return nil
	}
	h.merge(now)
	if err := os.MkdirAll(filepath.Dir(h.file), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(h.file, ".hits-", h.format(), 0o600, false)
}

// format returns the file, with the newest hits if there are too many.
func (h *Hits) format() []byte {
	type hit struct {
		hashPart string
		at       int64
	}
	all := make([]hit, 0, len(h.seen))
	for hashPart, at := range h.seen {
		all = append(all, hit{hashPart, at})
	}
	slices.SortFunc(all, func(a, b hit) int {
		return cmp.Or(cmp.Compare(b.at, a.at), cmp.Compare(a.hashPart, b.hashPart))
	})
	body := []byte(h.url + "\n")
	for _, e := range all[:min(len(all), maxHits)] {
		body = append(append(body, e.hashPart...), ' ')
		body = append(strconv.AppendInt(body, e.at, 10), '\n')
	}
	sum := sha256.Sum256(body)
	return append([]byte(hitsMagic+hex.EncodeToString(sum[:])+"\n"), body...)
}

var errDamaged = errors.New("damaged")

func parseHits(data []byte, upstream string) (map[string]int64, error) {
	head, body, _ := bytes.Cut(data, []byte("\n"))
	sum := sha256.Sum256(body)
	if string(head) != hitsMagic+hex.EncodeToString(sum[:]) {
		return nil, fmt.Errorf("checksum: %w", errDamaged)
	}
	lines := strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")
	if lines[0] != upstream {
		return nil, fmt.Errorf("written for %q", lines[0])
	}
	seen := make(map[string]int64, len(lines))
	for _, line := range lines[1:] {
		hashPart, at, _ := strings.Cut(line, " ")
		seconds, err := strconv.ParseInt(at, 10, 64)
		if err != nil || !storepath.ValidHashPart(hashPart) {
			return nil, fmt.Errorf("line %q: %w", line, errDamaged)
		}
		seen[hashPart] = seconds
	}
	return seen, nil
}
