package page

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/internal/storepath"
)

// catalogue is a snapshot in a form that is quick to search. It is immutable
// once made. Paths are meant by their numbers, which are in the order of names.
type catalogue struct {
	snapshot *index.Snapshot
	day      string // the verdicts are of this day
	key      string // changes with everything that is in here

	paths     []collect.CataloguePath
	referrers [][]int32
	// closures and the order by them are there when summed is closed; nil if
	// there are too many paths.
	closures  []index.Total
	byClosure []int32
	summed    chan struct{}
	orders    map[string][]int32
	total     index.Total
	stored    int64 // bytes in the registry
	kept      index.Total

	// inOrder has the numbers themselves.
	inOrder []int32
	// names are all names in lower case, each with a newline behind it;
	// nameAt is where each begins.
	names  string
	nameAt []int32
	hashes []int32 // numbers by hash part

	publications []*publication // newest first
	byID         map[string]*publication
	growth       []growth
}

// newCatalogue reads a snapshot. At 100,000 paths it takes about a second.
func newCatalogue(snap *index.Snapshot, now time.Time) *catalogue {
	list := collect.NewCatalogue(snap, collect.PlanOptions{Now: now, Retention: collect.DefaultRetention(), Delay: collect.DefaultDelay})
	c := &catalogue{snapshot: snap, day: day(now), paths: list.Paths, key: key(snap, now), stored: snap.Stored(), summed: make(chan struct{})}
	if snap.Foreign() && len(snap.Segments()) == 0 {
		for i := range c.paths { // no collection of ours touches it
			c.paths[i].Keep, c.paths[i].Reason = true, "nixcache-oci, in records of its own"
		}
	}
	var names strings.Builder
	c.nameAt = make([]int32, len(c.paths))
	c.hashes = make([]int32, len(c.paths))
	c.inOrder = make([]int32, len(c.paths))
	for i := range c.paths {
		p := &c.paths[i]
		c.nameAt[i] = int32(names.Len()) //nolint:gosec // bounded by the index's size
		names.WriteString(strings.ToLower(p.Name))
		names.WriteByte('\n')
		c.hashes[i], c.inOrder[i] = number(i), number(i)
		t := index.Total{Paths: 1, NarSize: p.NarSize, FileSize: p.FileSize}
		add(&c.total, t)
		if p.Keep {
			add(&c.kept, t)
		}
	}
	c.names = names.String()
	slices.SortFunc(c.hashes, func(a, b int32) int { return strings.Compare(c.paths[a].HashPart, c.paths[b].HashPart) })
	c.refer()
	c.sort()
	c.publish(list.Verdicts)
	// the first page does not need it
	go func() {
		defer close(c.summed)
		if c.closures = closures(c.paths); c.closures != nil {
			c.byClosure = c.by(func(i int32) int64 { return c.closures[i].NarSize })
		}
	}()
	return c
}

// number is the number of a path at a position.
func number(i int) int32 { return int32(i) } //nolint:gosec // an index has less than 2^31 entries

func add(t *index.Total, u index.Total) {
	t.Paths += u.Paths
	t.NarSize += u.NarSize
	t.FileSize += u.FileSize
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// key tells apart what snapshots show: the root does not name what only a look
// at the tags has found.
func key(snap *index.Snapshot, now time.Time) string {
	h := sha256.New()
	h.Write([]byte(snap.Digest() + " " + day(now)))
	for _, s := range snap.Segments() {
		h.Write([]byte("\n" + s.Manifest.String()))
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// refer turns the references around. The lists share one array.
func (c *catalogue) refer() {
	count := make([]int32, len(c.paths))
	edges := 0
	for i := range c.paths {
		for _, r := range c.paths[i].References {
			count[r]++
			edges++
		}
	}
	all := make([]int32, edges)
	c.referrers = make([][]int32, len(c.paths))
	for i, n := range count {
		c.referrers[i], all = all[:0:n], all[n:]
	}
	for i := range c.paths {
		for _, r := range c.paths[i].References {
			c.referrers[r] = append(c.referrers[r], number(i))
		}
	}
}

// Orders of a list of paths.
const (
	byName    = "name"
	byNarSize = "nar"
	bySize    = "file"
	byClosure = "closure"
	byAdded   = "added"
)

// sort makes the orders: sizes with the largest first, times with the newest.
func (c *catalogue) sort() {
	c.orders = map[string][]int32{
		byNarSize: c.by(func(i int32) int64 { return c.paths[i].NarSize }),
		bySize:    c.by(func(i int32) int64 { return c.paths[i].FileSize }),
		byAdded:   c.by(func(i int32) int64 { return c.paths[i].Added }),
	}
}

func (c *catalogue) by(value func(i int32) int64) []int32 {
	order := make([]int32, len(c.paths))
	for i := range order {
		order[i] = number(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Or(cmp.Compare(value(b), value(a)), cmp.Compare(a, b)) })
	return order
}

// order returns the order of a name, nil if there is none. It waits for the
// closures if they are asked for.
func (c *catalogue) order(name string) []int32 {
	switch name {
	case byName:
		return c.inOrder
	case byClosure:
		<-c.summed
		return c.byClosure
	}
	return c.orders[name]
}

// lookup finds a path by its hash part.
func (c *catalogue) lookup(hashPart string) (int32, bool) {
	i, ok := slices.BinarySearchFunc(c.hashes, hashPart, func(n int32, h string) int { return strings.Compare(c.paths[n].HashPart, h) })
	if !ok {
		return 0, false
	}
	return c.hashes[i], true
}

// base finds a path by its base name.
func (c *catalogue) base(name string) (int32, bool) {
	if len(name) < storepath.HashPartLen {
		return 0, false
	}
	return c.lookup(name[:storepath.HashPartLen])
}

// search marks the paths whose names have every word of a query, in upper or
// lower case, or whose hash parts begin with it. Nil means all.
func (c *catalogue) search(query string) []bool {
	query = strings.ToLower(strings.TrimPrefix(query, c.storeDir()+"/"))
	words := strings.Fields(query)
	if len(words) == 0 {
		return nil
	}
	found := make([]bool, len(c.paths))
	// the longest word is the rarest, most often
	slices.SortFunc(words, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	for from := 0; ; {
		at := strings.Index(c.names[from:], words[0])
		if at < 0 {
			break
		}
		n, exact := slices.BinarySearch(c.nameAt, int32(from+at)) //nolint:gosec // as where they are made
		if !exact {
			n--
		}
		end := len(c.names)
		if n+1 < len(c.nameAt) {
			end = int(c.nameAt[n+1])
		}
		name := c.names[c.nameAt[n]:end]
		found[n] = !slices.ContainsFunc(words[1:], func(w string) bool { return !strings.Contains(name, w) })
		from = end
	}
	if len(words) == 1 {
		c.searchHash(words[0], found)
	}
	return found
}

// searchHash marks what a hash part, its beginning or a base name names. A
// shorter one would be in the way of names.
func (c *catalogue) searchHash(word string, found []bool) {
	const shortest = 6
	prefix, name, isBase := strings.Cut(word, "-")
	if len(prefix) < shortest || isBase && len(prefix) != storepath.HashPartLen {
		return
	}
	first, _ := slices.BinarySearchFunc(c.hashes, prefix, func(n int32, h string) int { return strings.Compare(c.paths[n].HashPart, h) })
	for _, n := range c.hashes[first:] {
		if !strings.HasPrefix(c.paths[n].HashPart, prefix) {
			return
		}
		if !isBase || strings.Contains(strings.ToLower(c.paths[n].Name), name) {
			found[n] = true
		}
	}
}

func (c *catalogue) storeDir() string {
	return cmp.Or(c.snapshot.Config().StoreDir, storepath.DefaultDir)
}

// list returns the paths from the given position of an order, at most n of
// them, and how many there are. Only marked ones count, if there are marks.
func (c *catalogue) list(order []int32, marked []bool, from, n int) (numbers []int32, count int) {
	if marked == nil {
		from = min(from, len(order))
		return order[from:min(from+n, len(order))], len(order)
	}
	for _, i := range order {
		if !marked[i] {
			continue
		}
		if count >= from && len(numbers) < n {
			numbers = append(numbers, i)
		}
		count++
	}
	return numbers, count
}
