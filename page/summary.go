package page

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/storepath"
)

// Summary is what the first page shows, for programs. Sizes are in bytes. The
// field names are an interface.
type Summary struct {
	Cache      string   `json:"cache"`
	PublicKeys []string `json:"publicKeys"`
	// RetiredKeys were public keys of the cache. UnvouchedKeys are named by it,
	// and no key that is trusted vouches for them.
	RetiredKeys   []string `json:"retiredKeys,omitempty"`
	UnvouchedKeys []string `json:"unvouchedKeys,omitempty"`
	// Paths counts all store paths; Stored is the size of all blobs, each once.
	Paths  index.Total `json:"paths"`
	Stored int64       `json:"stored"`
	// Removable is what a collection with the default retention would remove.
	Removable index.Total `json:"removable"`
	// Publications are the records, newest first.
	Publications []PublicationSummary `json:"publications"`
	// Largest are the store paths with the largest compressed NARs.
	Largest []PathSummary `json:"largest"`
}

// PublicationSummary is the record of a publish.
type PublicationSummary struct {
	Time     time.Time `json:"time"`
	From     string    `json:"from"` // branch, tag, pull request or flake, for people
	Origin   string    `json:"origin,omitempty"`
	Flake    string    `json:"flake,omitempty"`
	Ref      string    `json:"ref,omitempty"`
	Revision string    `json:"revision,omitempty"`
	RunURL   string    `json:"runUrl,omitempty"`
	Systems  []string  `json:"systems,omitempty"`
	Pin      string    `json:"pin,omitempty"`
	Partial  bool      `json:"partial,omitempty"`
	Outputs  int       `json:"outputs"`
	// Reaches is all that its outputs need and the cache has.
	Reaches index.Total `json:"reaches"`
	Keep    bool        `json:"keep"`
	Reason  string      `json:"reason"`
	// Until is when it stops to be kept, or stopped; absent if never.
	Until time.Time `json:"until,omitzero"`
}

// PathSummary is a store path in a list.
type PathSummary struct {
	Path     string    `json:"path"`
	NarSize  int64     `json:"narSize"`
	FileSize int64     `json:"fileSize"`
	Added    time.Time `json:"added"`
	Keep     bool      `json:"keep"`
	Reason   string    `json:"reason"`
}

// PathReport is all that is known of a store path.
type PathReport struct {
	PathSummary
	Closure     index.Total `json:"closure"` // what the cache has of it
	NarHash     string      `json:"narHash"`
	FileHash    string      `json:"fileHash"`
	Compression string      `json:"compression"`
	Deriver     string      `json:"deriver,omitempty"`
	CA          string      `json:"ca,omitempty"`
	Signatures  []string    `json:"signatures"`
	References  []string    `json:"references"`
	Referrers   []string    `json:"referrers"`
	// Publications are those that need the path, newest first.
	Publications []PublicationSummary `json:"publications"`
}

const (
	largestListed = 10
	maxFound      = 100
)

var errUnread = errors.New("the cache was not read")

// Summary tells what the cache holds.
func (p *Page) Summary(ctx context.Context) (Summary, error) {
	c := p.current(ctx)
	if c == nil {
		return Summary{}, errUnread
	}
	keys := c.snapshot.Keys()
	s := Summary{
		Cache: p.opts.Cache, PublicKeys: append([]string{}, keys.Trusted...), RetiredKeys: keys.Retired, UnvouchedKeys: keys.Unvouched, Paths: c.total, Stored: c.stored, Removable: c.removable(),
		Publications: []PublicationSummary{}, Largest: []PathSummary{},
	}
	for _, pub := range c.publications {
		s.Publications = append(s.Publications, pub.summary())
	}
	order := c.orders[bySize]
	for _, i := range order[:min(len(order), largestListed)] {
		s.Largest = append(s.Largest, c.summary(i))
	}
	return s, nil
}

// Find returns the store paths that a query means: a store path or a hash part
// means one, a name all of that name or, if there are none, all that have its
// words in their names. At most the first 100 are returned, and how many there
// are.
func (p *Page) Find(ctx context.Context, query string) ([]PathSummary, int, error) {
	c := p.current(ctx)
	if c == nil {
		return nil, 0, errUnread
	}
	base := strings.TrimPrefix(query, c.storeDir()+"/")
	if i, ok := c.base(base); ok && (len(base) == storepath.HashPartLen || base == c.paths[i].HashPart+"-"+c.paths[i].Name) {
		return []PathSummary{c.summary(i)}, 1, nil
	}
	exact := make([]bool, len(c.paths))
	for i := range c.paths {
		exact[i] = c.paths[i].Name == query
	}
	numbers, count := c.list(c.inOrder, exact, 0, maxFound)
	if count == 0 && strings.TrimSpace(query) != "" {
		numbers, count = c.list(c.inOrder, c.search(query), 0, maxFound)
	}
	found := make([]PathSummary, len(numbers))
	for i, n := range numbers {
		found[i] = c.summary(n)
	}
	return found, count, nil
}

// Path returns all that is known of a store path that Find has found.
func (p *Page) Path(ctx context.Context, path PathSummary) (PathReport, error) {
	c := p.current(ctx)
	if c == nil {
		return PathReport{}, errUnread
	}
	i, ok := c.base(strings.TrimPrefix(path.Path, c.storeDir()+"/"))
	if !ok {
		return PathReport{}, errors.New(path.Path + " is not in the cache")
	}
	e, ok := c.snapshot.Lookup(c.paths[i].HashPart)
	if !ok {
		return PathReport{}, errors.New("the entry of " + path.Path + " is damaged, so no client gets it")
	}
	r := PathReport{
		PathSummary: c.summary(i), Closure: c.closureOf(i), NarHash: e.NarHash, FileHash: e.FileHash, Compression: e.Compression,
		Deriver: e.Deriver, CA: e.CA, Signatures: append([]string{}, e.Signatures...), References: append([]string{}, e.References...),
		Referrers: []string{}, Publications: []PublicationSummary{},
	}
	for _, u := range c.referrers[i] {
		r.Referrers = append(r.Referrers, c.paths[u].HashPart+"-"+c.paths[u].Name)
	}
	for _, pub := range c.keepers(i) {
		r.Publications = append(r.Publications, pub.summary())
	}
	return r, nil
}

func (c *catalogue) summary(i int32) PathSummary {
	p := &c.paths[i]
	return PathSummary{
		Path: c.storeDir() + "/" + p.HashPart + "-" + p.Name, NarSize: p.NarSize, FileSize: p.FileSize,
		Added: time.Unix(p.Added, 0).UTC(), Keep: p.Keep, Reason: p.Reason,
	}
}

func (p *publication) summary() PublicationSummary {
	q := p.Publication
	return PublicationSummary{
		Time: p.Time(), From: p.From, Origin: q.Origin, Flake: q.Flake, Ref: q.Ref, Revision: q.Revision, RunURL: q.RunURL, Systems: q.Systems, Pin: q.Pin,
		Partial: q.Partial, Outputs: len(q.Roots), Reaches: p.Reached(), Keep: p.Keep, Reason: p.Reason, Until: p.Until,
	}
}

// removable is what the next collection would remove.
func (c *catalogue) removable() index.Total {
	return index.Total{Paths: c.total.Paths - c.kept.Paths, NarSize: c.total.NarSize - c.kept.NarSize, FileSize: c.total.FileSize - c.kept.FileSize}
}
