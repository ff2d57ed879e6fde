package index

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/storepath"
)

// GroupOptions configures NewGroup. Base is required; the zero value of
// everything else works.
type GroupOptions struct {
	// Base returns the index as it was read at most half of PinAfter ago.
	Base func(ctx context.Context) (*Snapshot, error)
	// Gather is how long the first entry waits for company; if less than or
	// equal to 0, 10 ms. While a segment is being written all others wait for
	// the next one anyway.
	Gather time.Duration
	// Timeout bounds the writing of the segments of one group; if less than
	// or equal to 0, five minutes.
	Timeout time.Duration
	// SegmentLayers is as in WriterOptions.
	SegmentLayers int
	// Config is merged into the cache's configuration. The store directory is
	// that of the cache.
	Config format.Config
}

// Addition is what Group.Add makes durable.
type Addition struct {
	// Entry is the path. Its Added counts for nothing.
	Entry format.Entry
	// Data is the compressed NAR, if it is not in the repository yet: it is
	// stored in a blob with others, and Entry.NAR counts for nothing.
	Data []byte
	// Upstream are the hash parts of those references that are on an upstream
	// cache.
	Upstream []string
	// Listing is the NAR's listing, as EncodeDocument makes it; nil if there is
	// none. It may get lost: Add makes the path durable.
	Listing []byte
}

// Group makes entries durable one by one, as they come; those that come at the
// same time share a segment. Unlike a Writer it lives as long as its process.
// It is safe for concurrent use.
//
// An entry is durable, and Lookup shows it, when Add has returned. The root
// shows it when Settle has.
type Group struct {
	cache *Cache
	opts  GroupOptions

	settling sync.Mutex

	mu        sync.Mutex
	queue     []*addition
	busy      bool                    // somebody writes segments
	recent    map[string]format.Entry // by hash part: durable, and perhaps in no snapshot yet
	files     map[string]string       // hash part by file hash, of recent
	unsettled []format.SegmentInfo    // that a root may lack
	written   int                     // segments, ever
	sure      map[string]bool         // by hash part: in the cache, with all it refers to, and young
	sureSince time.Time               // of the oldest of them
}

type addition struct {
	Addition
	attached *Attachment // to what there is; nil if the path is new
	failed   error       // why it was left out
	done     chan error
}

// IncompleteError tells that a path was not added because it refers to paths
// that are neither in the cache nor on an upstream cache.
type IncompleteError struct {
	Path storepath.Path
	// Missing are base names.
	Missing []string
}

func (e *IncompleteError) Error() string {
	return fmt.Sprintf("%s refers to %s, which the cache does not have", e.Path, strings.Join(e.Missing, ", "))
}

// LostError tells that a path was not added because the registry no longer has
// its NAR, or that of one it refers to.
type LostError struct {
	Path storepath.Path
	// FileHash is that of the NAR that was lost.
	FileHash string
}

func (e *LostError) Error() string {
	return fmt.Sprintf("the registry has lost the NAR of %s", e.Path)
}

// NewGroup returns a Group, which has nothing to do yet.
func (c *Cache) NewGroup(o GroupOptions) *Group {
	if o.Gather <= 0 {
		o.Gather = 10 * time.Millisecond
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Minute
	}
	return &Group{cache: c, opts: o, recent: map[string]format.Entry{}, files: map[string]string{}, sure: map[string]bool{}}
}

// Add returns when the entry is durable, or cannot be. What it refers to must
// be in the cache, on an upstream, or be added at the same time. Its errors are
// *IncompleteError, *LostError, those of NewWriter, and those of the registry.
// If ctx ends first the entry may become durable all the same. Of a path that
// is there with the same contents its signatures and its extras stay.
func (g *Group) Add(ctx context.Context, a Addition) error {
	if a.Data != nil {
		a.Entry.NAR = whole(a.Data)
	}
	return g.enter(ctx, &addition{Addition: a})
}

// enter waits until an addition's turn has come.
func (g *Group) enter(ctx context.Context, w *addition) error {
	if err := w.Entry.Validate(); err != nil {
		return err
	}
	w.done = make(chan error, 1)
	g.mu.Lock()
	g.queue = append(g.queue, w)
	if !g.busy {
		g.busy = true
		go g.work() //nolint:gosec // it works for all requests, and ends with none of them
	}
	g.mu.Unlock()
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func whole(data []byte) format.Location {
	return format.Location{Blob: format.DigestOf(data), BlobSize: int64(len(data)), Size: int64(len(data))}
}

// work writes one segment after the other until nobody waits.
func (g *Group) work() {
	for {
		time.Sleep(g.opts.Gather)
		g.mu.Lock()
		batch := g.queue
		g.queue = nil
		if len(batch) == 0 {
			g.busy = false
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		// for all of them, so it does not end with the request of one
		ctx, cancel := context.WithTimeoutCause(context.Background(), g.opts.Timeout, fmt.Errorf("the registry did not take a segment within %s", g.opts.Timeout))
		g.commit(ctx, batch)
		cancel()
	}
}

// commit makes a batch durable and tells everybody in it.
func (g *Group) commit(ctx context.Context, batch []*addition) {
	w, err := g.write(ctx, batch)
	for _, a := range batch {
		a.done <- g.outcome(w, a, err)
	}
}

// outcome tells what became of an addition. err is what ended the writing.
func (g *Group) outcome(w *Writer, a *addition, err error) error {
	hashPart := a.Entry.Path.HashPart
	if w == nil {
		return err
	}
	if a.failed != nil {
		return a.failed
	}
	if e, ok := w.tracked(hashPart); ok {
		return a.taken(e)
	}
	if err != nil {
		return err
	}
	_, lost, _ := w.outcome()
	for _, e := range lost {
		if e.Path.HashPart == hashPart || slices.Contains(a.Entry.References, e.Path.Base()) {
			return &LostError{e.Path, e.FileHash}
		}
	}
	var missing []string // perhaps because it waits for something in its turn
	for _, r := range a.Entry.References {
		if r != a.Entry.Path.Base() && !w.Available(r[:storepath.HashPartLen]) {
			missing = append(missing, r)
		}
	}
	return &IncompleteError{a.Entry.Path, missing}
}

// write writes the segments of a batch. The Writer, which is nil if there was
// none to write with, tells what is committed.
func (g *Group) write(ctx context.Context, batch []*addition) (*Writer, error) {
	base, err := g.opts.Base(ctx)
	if err != nil {
		return nil, err
	}
	if err := g.store(ctx, base, batch); err != nil {
		return nil, err
	}
	upstream := map[string]bool{}
	w, err := g.writer(base, func(hashPart string) bool { return upstream[hashPart] })
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	w.track(g.recent)
	if g.cache.opts.Now().Sub(g.sureSince) > sureFor {
		clear(g.sure)
		g.sureSince = g.cache.opts.Now()
	}
	g.mu.Unlock()
	g.place(w, batch, upstream)
	looked := map[string]bool{}
	for _, a := range batch {
		if a.failed == nil {
			g.repeat(w, a.Entry.References, looked, upstream)
		}
	}
	written, err := w.write(ctx, nil)
	g.remember(w, written, looked)
	return w, err
}

// writer returns a Writer for whatever store directory the cache is for.
func (g *Group) writer(base *Snapshot, onUpstream func(string) bool) (*Writer, error) {
	conf := g.opts.Config
	conf.StoreDir = base.config.StoreDir
	return g.cache.NewWriter(base, WriterOptions{SegmentLayers: g.opts.SegmentLayers, Config: conf, OnUpstream: onUpstream})
}

// sureFor is how long it is not looked again whether a path is young. Together
// with PinAfter it is far less than the delay of a collection.
const sureFor = time.Hour

// repeat adds what the references rely on and what is so old that a collection
// may be removing it.
func (g *Group) repeat(w *Writer, references []string, looked, upstream map[string]bool) {
	for _, r := range references {
		hashPart := r[:storepath.HashPartLen]
		if looked[hashPart] || g.sure[hashPart] || w.holds(hashPart) {
			continue
		}
		e, ok := w.base.Lookup(hashPart)
		if !ok {
			continue
		}
		looked[hashPart] = true
		if w.opened.Sub(e.Added) >= format.PinAfter {
			e.Added = g.cache.opts.Now()
			w.place(e, nil)
		}
		for _, ref := range e.References {
			// what an entry refers to is in the cache or on an upstream (rule 4)
			if h := ref[:storepath.HashPartLen]; !w.base.Has(h) {
				upstream[h] = true
			}
		}
		g.repeat(w, e.References, looked, upstream)
	}
}

// remember keeps what the segments have made durable.
func (g *Group) remember(w *Writer, written []format.SegmentInfo, looked map[string]bool) {
	committed, lost, waiting := w.outcome()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unsettled = append(g.unsettled, written...)
	g.written += len(written)
	for hashPart, e := range committed {
		g.recent[hashPart] = e
		g.files[e.FileHash] = hashPart
	}
	if waiting == 0 && len(lost) == 0 {
		for hashPart := range looked {
			g.sure[hashPart] = true
		}
	}
}

// packSize is the size of a blob with many NARs, in bytes.
const packSize = 8 << 20

// store writes the NARs that are not in the repository, many to a blob, unless
// nixcache-oci's readers are to find them.
func (g *Group) store(ctx context.Context, base *Snapshot, batch []*addition) error {
	limit := packSize
	if base.config.CompatIndex.On {
		limit = 0
	}
	var pack []byte
	var offsets []int
	var inside []*addition
	at := map[string]*addition{} // by file hash
	flush := func() error {
		if len(inside) == 0 {
			return nil
		}
		desc, err := g.cache.repo.PutBlob(ctx, pack)
		for i, a := range inside {
			a.Entry.NAR = format.Location{Blob: desc.Digest, BlobSize: desc.Size, Offset: int64(offsets[i]), Size: int64(len(a.Data))}
		}
		pack, offsets, inside = nil, nil, nil
		return err
	}
	todo := slices.DeleteFunc(slices.Clone(batch), func(a *addition) bool { return a.Data == nil })
	// a pack's media type names one compression
	slices.SortStableFunc(todo, func(a, b *addition) int { return strings.Compare(a.Entry.Compression, b.Entry.Compression) })
	for _, a := range todo {
		if at[a.Entry.FileHash] != nil {
			continue
		}
		if sum := sha256.Sum256(a.Data); bincache.FormatHash(sum[:]) != a.Entry.FileHash {
			return fmt.Errorf("the NAR of %s does not have its file hash", a.Entry.Path) // never asked for
		}
		at[a.Entry.FileHash] = a
		if len(pack)+len(a.Data) > limit || len(inside) > 0 && inside[0].Entry.Compression != a.Entry.Compression {
			if err := flush(); err != nil {
				return err
			}
		}
		offsets, inside, pack = append(offsets, len(pack)), append(inside, a), append(pack, a.Data...)
	}
	if err := flush(); err != nil {
		return err
	}
	for _, a := range todo {
		a.Entry.NAR = at[a.Entry.FileHash].Entry.NAR
	}
	return nil
}

// Lookup returns the entry for a hash part, if it was added lately.
func (g *Group) Lookup(hashPart string) (format.Entry, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e, ok := g.recent[hashPart]
	return e, ok
}

// LookupNAR returns an entry that was added lately and whose compressed NAR has
// the given file hash: the 52 characters that stand in its URL.
func (g *Group) LookupNAR(fileHash string) (format.Entry, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e, ok := g.recent[g.files[bincache.HashOf(fileHash)]]
	return e, ok
}

// Find returns an entry that was added lately and that match wants. It looks at
// all of them.
func (g *Group) Find(match func(*format.Entry) bool) (format.Entry, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.recent {
		if match(&e) {
			return e, true
		}
	}
	return format.Entry{}, false
}

// Derived is Snapshot.Derived for what was added lately.
func (g *Group) Derived(drv string) (es []format.Entry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.recent {
		if e.Deriver == drv {
			es = append(es, e)
		}
	}
	return es
}

// recentFor is how long an entry is remembered that no snapshot shows, though
// all that was written is settled.
const recentFor = time.Hour

// Seen makes the group forget what s shows.
func (g *Group) Seen(s *Snapshot) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.cache.opts.Now()
	for hashPart, e := range g.recent {
		shown, ok := s.Lookup(hashPart)
		if ok && shown.Added.Unix() >= e.Added.Unix() || len(g.unsettled) == 0 && now.Sub(e.Added) > recentFor {
			delete(g.recent, hashPart)
			if g.files[e.FileHash] == hashPart {
				delete(g.files, e.FileHash)
			}
		}
	}
}

// Unsettled reports whether a root may lack something that was added.
func (g *Group) Unsettled() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.unsettled) > 0
}

// Written returns the number of segments that have been written.
func (g *Group) Written() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.written
}

// Settle makes the root show what was added, and merges small segments where
// they have piled up. With a publication it records that first, with those of
// its roots that the cache has; recorded tells whether it did. Nothing is lost
// where it fails: it may be called again, and other writers do its work, too.
func (g *Group) Settle(ctx context.Context, p *format.Publication) (recorded bool, err error) {
	g.settling.Lock()
	defer g.settling.Unlock()
	base, err := g.opts.Base(ctx)
	if err != nil {
		return false, err
	}
	w, err := g.writer(base, nil)
	if err != nil {
		return false, err
	}
	g.mu.Lock()
	todo := slices.Clone(g.unsettled)
	w.track(g.recent)
	g.mu.Unlock()
	w.take(todo)
	if p != nil {
		written, err := w.write(ctx, p)
		if err != nil {
			return false, err
		}
		recorded = len(written) > 0
		g.mu.Lock()
		g.unsettled = append(g.unsettled, written...)
		g.written += len(written)
		g.mu.Unlock()
		todo = append(todo, written...)
	}
	if len(todo) == 0 {
		return recorded, nil
	}
	if err := w.WriteRoot(ctx, nil); err != nil {
		return recorded, err
	}
	if err := w.finish(ctx); err != nil {
		return recorded, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unsettled = slices.DeleteFunc(g.unsettled, func(s format.SegmentInfo) bool { return slices.ContainsFunc(todo, s.Same) })
	return recorded, nil
}
