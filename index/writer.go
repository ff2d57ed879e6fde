package index

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/storepath"
)

// WriterOptions configures a Writer. The zero value works for a cache whose
// entries refer to nothing outside it.
type WriterOptions struct {
	// CommitEvery is the number of added entries after which a segment is
	// committed; if less than or equal to 0, 500.
	CommitEvery int
	// SegmentLayers is the largest number of NAR blobs in one segment; if
	// less than or equal to 0, 2,000. It is fewer where the registry says so.
	SegmentLayers int
	// OnUpstream reports whether a hash part is available on an upstream
	// cache; nil means none is. It is called from several goroutines.
	OnUpstream func(hashPart string) bool
	// Config is merged into the cache's configuration.
	Config format.Config
	// Committed is called after each segment has become durable, never
	// concurrently; nil means nobody listens.
	Committed func(tag string, entries int)
}

// DefaultSegmentLayers is the largest number of NAR blobs in a segment, unless
// another one is chosen.
const DefaultSegmentLayers = 2000

// Writer adds entries to a cache index. Add and Checkpoint may be called
// concurrently; Close once, after the last of them has returned.
type Writer struct {
	cache *Cache
	opts  WriterOptions
	base  *Snapshot
	// opened is when the writer was made, after base was read.
	opened time.Time

	mu        sync.Mutex
	pending   map[string]format.Entry // by hash part: uploaded, not yet in a segment
	committed map[string]bool         // by hash part: in a segment of this writer
	added     int                     // since the last commit
	documents documents               // of pending entries, not yet in the registry
	lost      []format.Entry          // whose blobs the registry has lost
	wrote     map[string]format.Entry // by hash part: committed, as it stands in the segment; nil if nobody asks

	committing sync.Mutex
	written    []format.SegmentInfo
	unsettled  []format.SegmentInfo // those written that a root may still lack
	root       v1.Hash              // the last root this writer wrote
	deleted    map[v1.Hash]bool     // manifests that a root need not list as retired any more
	adoption   adoption
	warned     bool // of what the compat index leaves out
	configDone bool // the config blob is known to be there
}

// NewWriter returns a Writer that adds to what base shows. Other writers may
// add to the cache meanwhile, and collections remove from it: an entry that is
// older than PinAfter counts as there only once it has been added again.
func (c *Cache) NewWriter(base *Snapshot, o WriterOptions) (*Writer, error) {
	if err := o.Config.Validate(); err != nil {
		return nil, err
	}
	if base.foreign {
		return nil, format.ErrForeign
	}
	if err := base.Damage(); err != nil {
		return nil, err
	}
	if len(base.segments) > 0 && o.Config.Dir() != base.config.Dir() {
		return nil, fmt.Errorf("the cache is for the store directory %s, not %s", base.config.Dir(), o.Config.Dir())
	}
	o.Config.CompatIndex = o.Config.CompatIndex.After(base.config.CompatIndex)
	return c.newWriter(base, o), nil
}

func (c *Cache) newWriter(base *Snapshot, o WriterOptions) *Writer {
	if o.CommitEvery <= 0 {
		o.CommitEvery = 500
	}
	if o.SegmentLayers <= 0 {
		o.SegmentLayers = DefaultSegmentLayers
	}
	if o.OnUpstream == nil {
		o.OnUpstream = func(string) bool { return false }
	}
	return &Writer{
		cache: c, opts: o, base: base, opened: c.opts.Now(),
		pending: map[string]format.Entry{}, committed: map[string]bool{},
		configDone: c.prepared.Load() || len(base.segments) > 0 && !base.foreign,
	}
}

// Add takes an entry whose NAR is in the repository. It commits a segment when
// one is due. An entry becomes visible only when everything it refers to is in
// the cache or on an upstream; until then it waits. It keeps the extras of an
// older entry for the same contents.
func (w *Writer) Add(ctx context.Context, e format.Entry) error { return w.add(ctx, e, nil) }

func (w *Writer) add(ctx context.Context, e format.Entry, d *encoded) error {
	if err := e.Validate(); err != nil {
		return err
	}
	e.Added = w.cache.opts.Now()
	w.mu.Lock()
	if old, ok := w.pending[e.Path.HashPart]; ok {
		e.Inherit(&old)
	} else if old, ok := w.base.Lookup(e.Path.HashPart); ok {
		e.Inherit(&old)
		e.Added = later(e.Added, old.Added)
	}
	w.pending[e.Path.HashPart] = e
	w.documents.put(e.Path.HashPart, d)
	w.added++
	full := w.documents.size >= format.ExtrasSize
	due := w.added >= w.opts.CommitEvery
	w.mu.Unlock()
	switch {
	case due && w.committing.TryLock(): // else the commit under way, or the next Add after it, will do
		defer w.committing.Unlock()
		w.mu.Lock()
		w.added = 0
		w.mu.Unlock()
		return w.writeSegments(ctx, nil) // the root can wait for Checkpoint and Close
	case full:
		return w.store(ctx)
	}
	return nil
}

// track makes the writer remember what it commits, and takes for committed what
// others have committed since its snapshot was read.
func (w *Writer) track(others map[string]format.Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrote = map[string]format.Entry{}
	for hashPart := range others {
		w.committed[hashPart] = true
	}
}

// take makes the root show segments of others, as if this writer had written
// them.
func (w *Writer) take(segments []format.SegmentInfo) {
	w.committing.Lock()
	defer w.committing.Unlock()
	w.unsettled = append(w.unsettled, segments...)
}

// waiting returns the entry of a path that waits for the next segment, and the
// documents that have to be stored before.
func (w *Writer) waiting(hashPart string) (format.Entry, *encoded, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.pending[hashPart]
	return e, w.documents.of[hashPart], ok
}

// place makes an entry wait for the next segment, with its documents, and with
// nothing of what there is of its path. Unlike Add it commits nothing.
func (w *Writer) place(e format.Entry, d *encoded) {
	w.mu.Lock()
	defer w.mu.Unlock()
	hashPart := e.Path.HashPart
	w.documents.drop(hashPart)
	w.documents.put(hashPart, d)
	w.pending[hashPart] = e
	delete(w.committed, hashPart) // it may be there already, and is to be replaced
}

// holds reports whether a path is committed, or waits for that.
func (w *Writer) holds(hashPart string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, waits := w.pending[hashPart]
	return waits || w.committed[hashPart]
}

// tracked returns the entry of a path as it stands in a segment, if the path is
// committed and nothing newer waits. The entry is zero if others committed it.
func (w *Writer) tracked(hashPart string) (format.Entry, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, waits := w.pending[hashPart]
	return w.wrote[hashPart], !waits && w.committed[hashPart]
}

// outcome returns what was committed since track, by hash part, what was lost,
// and how many entries still wait.
func (w *Writer) outcome() (committed map[string]format.Entry, lost []format.Entry, waiting int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.wrote), slices.Clone(w.lost), len(w.pending)
}

// Result tells what a Writer did.
type Result struct {
	// Committed is the number of entries that are durable and visible.
	Committed int
	// Incomplete are entries that were left out because something they refer
	// to is neither in the cache nor on an upstream.
	Incomplete []format.Entry
	// Lost are entries whose blobs the registry no longer had. Their NARs must
	// be uploaded again.
	Lost []format.Entry
	// Segments are the segments that were written.
	Segments []format.SegmentInfo
	// Adopted is what was taken over because nixcache-oci had written the
	// root meanwhile.
	Adopted Adopted
}

// Close commits what is complete, with the publication if one is given, and
// makes sure that the root shows it. It may be called again after more Adds,
// to bring back what was Lost; as long as something is, the publication is not
// recorded.
func (w *Writer) Close(ctx context.Context, p *format.Publication) (Result, error) {
	_, err := w.commit(ctx, p)
	if err == nil {
		err = w.say(ctx)
	}
	if err == nil && len(w.written) > 0 {
		err = w.finish(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	r := Result{Committed: len(w.committed), Lost: w.lost, Segments: slices.Clone(w.written), Adopted: w.adoption.Adopted}
	for _, e := range w.pending {
		r.Incomplete = append(r.Incomplete, e)
	}
	w.lost = nil
	return r, err
}

// Checkpoint commits what is complete, and merges small segments where they have
// piled up, while more entries are added. Without anything new it makes no
// request.
func (w *Writer) Checkpoint(ctx context.Context) error {
	w.mu.Lock()
	w.added = 0
	w.mu.Unlock()
	written, err := w.commit(ctx, nil)
	if err == nil && written {
		w.tidy(ctx)
	}
	return err
}

// tidy merges small segments where they have piled up.
func (w *Writer) tidy(ctx context.Context) {
	if err := w.compact(ctx); err != nil {
		w.cache.opts.Logger.Warn("small segments were not merged; the next publish will try again", "error", err)
	}
}

// finish merges small segments where they have piled up, and makes sure that
// the root shows what was written.
func (w *Writer) finish(ctx context.Context) error {
	w.tidy(ctx)
	return w.Settle(ctx)
}

// commit writes segments with all complete pending entries, then the root, if
// that lacks any. It reports whether the root lacked any.
func (w *Writer) commit(ctx context.Context, p *format.Publication) (bool, error) {
	_, err := w.write(ctx, p)
	if err != nil || !w.unshown() {
		return false, err
	}
	// From here on everything is durable; the root is a hint. A failure that
	// stays is met again in settle.
	if err := w.WriteRoot(ctx, nil); err != nil {
		w.cache.opts.Logger.Warn("the root was not written yet", "error", err)
	}
	return true, nil
}

// unshown reports whether segments were written since the root was.
func (w *Writer) unshown() bool {
	w.committing.Lock()
	defer w.committing.Unlock()
	return len(w.written) > 0 && w.root == (v1.Hash{})
}

// write writes segments with all complete pending entries, the last with the
// publication. It returns those that are there, also if there is an error.
func (w *Writer) write(ctx context.Context, p *format.Publication) ([]format.SegmentInfo, error) {
	w.committing.Lock()
	defer w.committing.Unlock()
	before := len(w.written)
	err := w.writeSegments(ctx, p)
	return slices.Clone(w.written[before:]), err
}

// writeSegments writes segments with all complete pending entries, the last
// with the publication.
func (w *Writer) writeSegments(ctx context.Context, p *format.Publication) error {
	if err := w.store(ctx); err != nil {
		return fmt.Errorf("storing documents: %w", err)
	}
	for {
		batches := w.batches()
		if len(batches) == 0 {
			break
		}
		// the publication belongs to the last segment: it speaks for all
		var pub *format.Publication
		if len(batches) == 1 && !w.losing() {
			pub = p
		}
		err := w.writeSegment(ctx, batches[0], w.visible(pub, batches[0]))
		var missing *registry.MissingBlobsError
		if errors.As(err, &missing) && w.forget(missing.Digests) || errors.Is(err, ErrTooManyLayers) {
			continue
		}
		if err != nil {
			return fmt.Errorf("committing a segment: %w", err)
		}
		if pub != nil {
			p = nil
		}
	}
	if p = w.visible(p, nil); p != nil && !w.losing() {
		if err := w.writeSegment(ctx, nil, p); err != nil {
			return fmt.Errorf("recording the publication: %w", err)
		}
	}
	return nil
}

// say writes a segment for a change of the configuration alone: a word that
// stood only in the root could be lost with it.
func (w *Writer) say(ctx context.Context) error {
	if len(w.written) > 0 || !w.opts.Config.CompatIndex.Said() {
		return nil
	}
	return w.RecordConfig(ctx)
}

// RecordConfig writes a segment for the configuration alone, which no entry may
// bring. Close makes the root show it.
func (w *Writer) RecordConfig(ctx context.Context) error {
	w.committing.Lock()
	defer w.committing.Unlock()
	if err := w.writeSegment(ctx, nil, nil); err != nil {
		return fmt.Errorf("recording the configuration: %w", err)
	}
	return nil
}

// losing reports whether entries have to be added again. The publication is
// recorded when they are there: half of it would look like a newer one.
func (w *Writer) losing() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.lost) > 0
}

// visible returns p with only those roots that clients can get once batch is
// committed; nil if none are left.
func (w *Writer) visible(p *format.Publication, batch []format.Entry) *format.Publication {
	if p == nil {
		return nil
	}
	inBatch := map[string]bool{}
	for _, e := range batch {
		inBatch[e.Path.HashPart] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	q := *p
	q.Roots = slices.DeleteFunc(slices.Clone(p.Roots), func(r format.Root) bool {
		path, err := storepath.ParseBase(r.Path)
		return err != nil || !inBatch[path.HashPart] && !w.available(path.HashPart)
	})
	if len(q.Roots) == 0 && len(p.Roots) > 0 {
		return nil
	}
	return &q
}

// Available reports whether clients can get a path without what is added to
// this writer and not yet committed, and will when it is done.
func (w *Writer) Available(hashPart string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.available(hashPart)
}

// available reports whether clients can get a path, and will when this writer
// is done. An entry that is old must have been repeated for that: a collection
// that does not know of this writer may remove it any moment.
func (w *Writer) available(hashPart string) bool {
	if w.committed[hashPart] || w.opts.OnUpstream(hashPart) {
		return true
	}
	e, ok := w.base.Lookup(hashPart)
	return ok && w.opened.Sub(e.Added) < format.PinAfter
}

// batches returns the complete pending entries, references first, cut so that
// each batch fits a segment.
func (w *Writer) batches() [][]format.Entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	return divide(w.complete(), w.layers())
}

// layers is how many blobs the next segment may name.
func (w *Writer) layers() int { return min(w.opts.SegmentLayers, w.cache.SegmentLayers()) }

// divide cuts entries into batches of at most so many blobs, but of one entry
// at least.
func divide(order []format.Entry, maxLayers int) [][]format.Entry {
	var out [][]format.Entry
	blobs := map[v1.Hash]bool{}
	start := 0
	for i := range order {
		more := 0
		for _, b := range order[i].Blobs() {
			if !blobs[b] {
				more++
			}
		}
		if i > start && more > 0 && len(blobs)+more > maxLayers {
			out = append(out, order[start:i])
			start, blobs = i, map[v1.Hash]bool{}
		}
		for _, b := range order[i].Blobs() {
			blobs[b] = true
		}
	}
	if start < len(order) {
		out = append(out, order[start:])
	}
	return out
}

// complete returns the pending entries whose closure is available, references
// first.
func (w *Writer) complete() []format.Entry {
	ready := w.pending
	if len(w.documents.of) > 0 { // their entries wait for them
		ready = maps.Clone(ready)
		maps.DeleteFunc(ready, func(k string, _ format.Entry) bool { return w.documents.of[k] != nil })
	}
	return Closed(ready, w.available)
}

// Closed returns those of the entries, by hash part, whose references are among
// them, closed as well, or available; references first.
func Closed(entries map[string]format.Entry, available func(hashPart string) bool) []format.Entry {
	const visiting, yes, no = 1, 2, 3
	state := make(map[string]int, len(entries))
	var order []format.Entry
	var visit func(hashPart string) bool
	visit = func(hashPart string) bool {
		e, ok := entries[hashPart]
		if !ok {
			return available(hashPart)
		}
		switch state[hashPart] {
		case yes, visiting: // a reference to itself
			return true
		case no:
			return false
		}
		state[hashPart] = visiting
		for _, r := range e.References {
			if !visit(r[:len(e.Path.HashPart)]) {
				state[hashPart] = no
				return false
			}
		}
		state[hashPart] = yes
		order = append(order, e)
		return true
	}
	for k := range entries {
		visit(k)
	}
	return order
}

// forget drops the entries that use lost blobs, and the documents in them. It
// reports whether there were any.
func (w *Writer) forget(blobs []v1.Hash) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := false
	for k, e := range w.pending {
		if slices.Contains(blobs, e.NAR.Blob) {
			w.lost = append(w.lost, e)
			delete(w.pending, k)
			w.documents.drop(k)
			found = true
			continue
		}
		if e.DropDocuments(blobs) {
			w.pending[k], found = e, true
		}
	}
	return found
}

// writeSegment makes entries durable.
func (w *Writer) writeSegment(ctx context.Context, entries []format.Entry, p *format.Publication) error {
	h := format.Header{Config: w.opts.Config}
	if p != nil {
		h.Publications = []format.Publication{*p}
	}
	c, err := format.NewContent(entries)
	if err != nil {
		return err
	}
	info, err := w.putSegment(ctx, h, c)
	if err != nil {
		return err
	}
	w.mu.Lock()
	for _, e := range entries {
		// an entry that was added again meanwhile stays for the next segment
		if cur, ok := w.pending[e.Path.HashPart]; ok && cur.NAR == e.NAR && cur.Added.Equal(e.Added) {
			delete(w.pending, e.Path.HashPart)
		}
		w.committed[e.Path.HashPart] = true
		if w.wrote != nil {
			w.wrote[e.Path.HashPart] = e
		}
	}
	w.mu.Unlock()
	if w.opts.Committed != nil {
		w.opts.Committed(info.Tag, len(entries))
	}
	return nil
}

// Put writes a segment as it is given, without a look at what its entries refer
// to, and sets the header's Nonce and Created. From then on it is durable, and
// WriteRoot makes it visible. It is for who knows what the cache has, like a
// collection: Add is for all others. Its error may be ErrTooManyLayers.
func (w *Writer) Put(ctx context.Context, h format.Header, c format.Content) (format.SegmentInfo, error) {
	w.committing.Lock()
	defer w.committing.Unlock()
	return w.putSegment(ctx, h, c)
}

// putSegment writes a segment: the entries blob, then the manifest under a tag
// of its own. From then on it is durable.
func (w *Writer) putSegment(ctx context.Context, h format.Header, c format.Content) (format.SegmentInfo, error) {
	nonce := make([]byte, 8)
	_, _ = rand.Read(nonce)
	h.Nonce, h.Created = hex.EncodeToString(nonce), w.cache.opts.Now().UTC()
	blob, err := format.EncodeSegment(h, c.Lines)
	if err != nil {
		return format.SegmentInfo{}, err
	}
	if len(blob) > format.MaxEntriesBlob {
		return format.SegmentInfo{}, fmt.Errorf("the entries of %d paths take %d bytes", c.Count, len(blob))
	}
	info := format.SegmentInfo{
		// in small letters: Gitea's and Forgejo's lists of tags have no others
		Tag:   format.SegmentTagPrefix + h.Created.Format("20060102t150405z") + "-" + h.Nonce,
		Count: c.Count, Layers: len(c.Layers), Created: h.Created,
	}
	for try := 1; ; try++ {
		err := w.putSegmentManifest(ctx, &info, blob, c.Layers)
		if err == nil {
			break
		}
		// a registry's collector may run between the blob and the manifest
		if try == putTries || !w.ownMissing(err, info.Entries) {
			return format.SegmentInfo{}, w.cache.tooMany(err, len(c.Layers))
		}
	}
	w.written = append(w.written, info)
	w.unsettled = append(w.unsettled, info)
	w.root = v1.Hash{} // it lacks this one
	if err := w.cache.disk.put(info.Entries, blob); err != nil {
		w.cache.opts.Logger.Warn("a segment's copy on disk was not written", "error", err)
	}
	return info, nil
}

// putTries is how often a manifest is written whose own blobs a collector
// takes.
const putTries = 5

// putSegmentManifest writes a segment's blobs and its manifest, and completes
// info with their digests.
func (w *Writer) putSegmentManifest(ctx context.Context, info *format.SegmentInfo, entries []byte, layers []v1.Descriptor) error {
	if err := w.putConfig(ctx); err != nil {
		return err
	}
	desc, err := w.cache.repo.PutBlob(ctx, entries)
	if err != nil {
		return err
	}
	desc.MediaType = format.MediaEntries
	info.Entries, info.EntriesSize = desc.Digest, desc.Size
	info.Manifest, err = w.cache.putManifest(ctx, info.Tag, format.MediaSegment, append([]v1.Descriptor{desc}, layers...), info.Created)
	return err
}

// ownMissing reports whether err says that only blobs are missing which are
// written together with a manifest. Of a registry that does not say which, it
// may be these.
func (w *Writer) ownMissing(err error, entries v1.Hash) bool {
	var missing *registry.MissingBlobsError
	if !errors.As(err, &missing) {
		return false
	}
	if len(missing.Digests) == 0 || slices.ContainsFunc(missing.Digests, format.IsConfig) {
		w.configDone = false
	}
	return !slices.ContainsFunc(missing.Digests, func(h v1.Hash) bool { return h != entries && !format.IsConfig(h) })
}

func (w *Writer) putConfig(ctx context.Context) error {
	if w.configDone {
		return nil
	}
	_, config := w.cache.form().Config()
	_, err := w.cache.repo.PutBlob(ctx, config)
	w.configDone = err == nil
	return err
}
