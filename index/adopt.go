package index

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/storepath"
)

// AdoptOptions configures Adopt. The zero value works.
type AdoptOptions struct {
	// SegmentLayers is the largest number of NAR blobs in one segment; if
	// less than or equal to 0, 2,000. It is fewer where the registry says so.
	SegmentLayers int
	// Config is merged into the cache's configuration. Of a cache that has no
	// segments yet the compat index is on, unless Config says otherwise; of
	// others it stays as it is.
	Config format.Config
	// Progress is told how many NARs of how many have been looked for, never
	// concurrently; nil means nobody listens.
	Progress func(checked, total int)
}

// Adopted tells what was taken over from nixcache-oci.
type Adopted struct {
	Total
	// Lost are entries that were left out because the registry does not have
	// their NAR, or has another one.
	Lost []format.Entry
	// Incomplete are entries that were left out because they refer to one
	// that is Lost, or that cannot be used.
	Incomplete []format.Entry
	// Segments are the segments that were written.
	Segments []format.SegmentInfo
}

// adoption is the state of taking over.
type adoption struct {
	Adopted
	progress func(checked, total int)
	left     map[entryKey]bool // Lost and Incomplete
}

// entryKey is a store path in one compressed form.
type entryKey struct{ hashPart, fileHash string }

func keyOf(e *format.Entry) entryKey { return entryKey{e.Path.HashPart, e.FileHash} }

// Adopt reads the cache index as Sweep does, and takes over what nixcache-oci
// has written into the root: it writes segments with the entries that no
// segment has yet, oldest references first, and then the root. No NAR is sent.
// It can be interrupted at any point and called again; until the root is
// written, readers see nixcache-oci's index and the segments. The snapshot it
// returns is not Foreign. If there is an error, Adopted tells what was done
// until then.
//
// An entry whose NAR is certainly absent is left out, with those that refer to
// it. References that nixcache-oci's index does not have are taken to be on an
// upstream cache: its publisher leaves out nothing else.
func (c *Cache) Adopt(ctx context.Context, o AdoptOptions) (*Snapshot, Adopted, error) {
	s, err := c.Sweep(ctx)
	if err != nil || !s.foreign {
		return s, Adopted{}, err
	}
	if err := s.Damage(); err != nil {
		return nil, Adopted{}, err
	}
	if err := o.Config.Validate(); err != nil {
		return nil, Adopted{}, err
	}
	if len(s.Segments()) > 0 {
		o.Config.CompatIndex = format.CompatIndex{}
	}
	w := c.newWriter(s, WriterOptions{SegmentLayers: o.SegmentLayers, Config: o.Config})
	w.adoption.progress = o.Progress
	w.committing.Lock()
	defer w.committing.Unlock()
	if err := w.writeRoot(ctx); err != nil {
		return nil, w.adoption.Adopted, fmt.Errorf("taking over the cache of nixcache-oci: %w", err)
	}
	return c.Current(), w.adoption.Adopted, nil
}

// Foreign reports whether the cache's root is that of nixcache-oci. Such a
// cache can be read; before it can be written to, Adopt must take it over.
func (s *Snapshot) Foreign() bool { return s.foreign }

// Adoptable counts the paths that Adopt would take over, as far as the registry
// has their NARs.
func (s *Snapshot) Adoptable() Total {
	var t Total
	for _, e := range s.unadopted() {
		t.Add(e.NarSize, e.NAR.Size)
	}
	return t
}

// unadopted returns the entries of nixcache-oci's index that count and that no
// segment has, or none that says how young they are: a path that its publisher
// has sent again is wanted, as if one of ours had repeated it.
func (s *Snapshot) unadopted() []format.Entry {
	if !s.foreign {
		return nil
	}
	theirs := s.theirs()
	ours := map[entryKey]format.Entry{} // the youngest
	var todo []format.Entry
	s.each(func(p Position, line []byte) {
		k, _, _, _ := format.LineKeys(line)
		if winner, ok := s.entries[[storepath.HashPartLen]byte(k)]; !ok || int(winner.Segment) != theirs {
			return // superseded, or collected
		}
		e, ok := s.at(p, true)
		switch {
		case !ok:
		case int(p.Segment) == theirs:
			todo = append(todo, e)
		case !e.Added.Before(ours[keyOf(&e)].Added):
			ours[keyOf(&e)] = e
		}
	})
	todo = slices.DeleteFunc(todo, func(e format.Entry) bool {
		own, ok := ours[keyOf(&e)]
		return ok && e.Added.Sub(own.Added) < format.PinAfter
	})
	for i := range todo {
		if own, ok := ours[keyOf(&todo[i])]; ok {
			todo[i].Inherit(&own)
		}
	}
	return todo
}

// theirs is the position of nixcache-oci's index in a snapshot that is Foreign.
func (s *Snapshot) theirs() int {
	return slices.IndexFunc(s.segments, func(seg *format.Segment) bool { return seg.Info.Tag == "" })
}

// ours is a snapshot that is Foreign without nixcache-oci's index.
func (s *Snapshot) ours() *Snapshot {
	i := s.theirs()
	return newSnapshot(s.now, s.digest, rootState{retired: s.retired}, slices.Delete(slices.Clone(s.segments), i, i+1), nil)
}

// errOverwritten tells that the root has something that the one to be written
// would not have.
var errOverwritten = errors.New("others have written the cache index meanwhile")

// toAdopt returns what is missing before the root of nixcache-oci that s shows
// may be overwritten, and whether anything is.
func (w *Writer) toAdopt(s *Snapshot) ([]format.Entry, bool) {
	todo := slices.DeleteFunc(s.unadopted(), func(e format.Entry) bool { return w.adoption.left[keyOf(&e)] })
	// a cache without any path has a configuration, too
	return todo, len(todo) > 0 || len(s.Segments()) == 0
}

// adopt writes segments with what only nixcache-oci's index has.
func (w *Writer) adopt(ctx context.Context, s *Snapshot) error {
	todo, _ := w.toAdopt(s)
	lost, err := w.lostBlobs(ctx, todo)
	if err != nil {
		return err
	}
	h := format.Header{Config: w.adoptedConfig(s)}
	for {
		batches := divide(w.adoptable(s, todo, lost), w.layers())
		if len(batches) == 0 && len(s.Segments())+len(w.written) == 0 {
			batches = [][]format.Entry{nil}
		}
		todo, err = w.adoptBatches(ctx, h, batches)
		if errors.Is(err, ErrTooManyLayers) {
			continue
		}
		var missing *registry.MissingBlobsError
		if !errors.As(err, &missing) {
			return err
		}
		known := len(lost)
		for _, e := range todo {
			if slices.Contains(missing.Digests, e.NAR.Blob) { // gone since we looked
				lost[e.NAR] = true
			}
		}
		if len(lost) == known {
			return err
		}
	}
}

// adoptBatches writes a segment for each batch. It returns the entries of those
// that are not written.
func (w *Writer) adoptBatches(ctx context.Context, h format.Header, batches [][]format.Entry) ([]format.Entry, error) {
	now := w.cache.opts.Now()
	for i, batch := range batches {
		for j := range batch { // no publication says yet which of them are wanted
			if batch[j].Added.Before(now) {
				batch[j].Added = now
			}
		}
		c, err := format.NewContent(batch)
		if err != nil {
			return nil, err
		}
		info, err := w.putSegment(ctx, h, c)
		if err != nil {
			return slices.Concat(batches[i:]...), err
		}
		for _, e := range batch {
			w.adoption.Add(e.NarSize, e.NAR.Size)
		}
		w.adoption.Segments = append(w.adoption.Segments, info)
		w.cache.opts.Logger.Info("adopted", "segment", info.Tag, "entries", len(batch))
	}
	return nil, nil
}

// adoptedConfig is what the segments of an adoption say.
func (w *Writer) adoptedConfig(s *Snapshot) format.Config {
	c := s.segments[s.theirs()].Header.Config.Merge(w.opts.Config)
	if len(s.Segments()) == 0 && !c.CompatIndex.Said() {
		c.CompatIndex = format.CompatIndex{On: true, Time: w.cache.opts.Now().UTC()}
	}
	return c
}

// adoptable returns the entries that can be adopted, references first, and
// records the others.
func (w *Writer) adoptable(s *Snapshot, todo []format.Entry, lost map[format.Location]bool) []format.Entry {
	gone := map[string]bool{} // hash parts in the index that cannot be had
	for _, k := range s.skipped {
		gone[k] = true
	}
	theirs := s.segments[s.theirs()]
	for i := range theirs.Len() {
		if k, _, _, _ := format.LineKeys(theirs.Line(i)); !s.Has(string(k)) { // collected
			gone[string(k)] = true
		}
	}
	if w.adoption.left == nil {
		w.adoption.left = map[entryKey]bool{}
	}
	for k := range w.adoption.left {
		gone[k.hashPart] = true
	}
	rest := map[string]format.Entry{}
	for _, e := range todo {
		if lost[e.NAR] {
			gone[e.Path.HashPart], w.adoption.left[keyOf(&e)] = true, true
			w.adoption.Lost = append(w.adoption.Lost, e)
			continue
		}
		rest[e.Path.HashPart] = e
	}
	own := s.ours()
	order := Closed(rest, func(hashPart string) bool { return !gone[hashPart] || own.Has(hashPart) })
	for _, e := range order {
		delete(rest, e.Path.HashPart)
	}
	for _, k := range slices.Sorted(maps.Keys(rest)) {
		e := rest[k]
		w.adoption.left[keyOf(&e)] = true
		w.adoption.Incomplete = append(w.adoption.Incomplete, e)
	}
	return order
}

// lostBlobs asks the registry for the NARs of entries. It returns those that
// are certainly not there, or have another size; if it could not be told of
// one, an error.
func (w *Writer) lostBlobs(ctx context.Context, entries []format.Entry) (map[format.Location]bool, error) {
	nars := map[format.Location]bool{}
	for _, e := range entries {
		nars[e.NAR] = true
	}
	lost := map[format.Location]bool{}
	checked := 0
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readJobs)
	for nar := range nars {
		g.Go(func() error {
			size, err := w.cache.repo.BlobSize(gctx, nar.Blob)
			if err != nil && !errors.Is(err, registry.ErrNotFound) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil || size != nar.BlobSize {
				lost[nar] = true
			}
			checked++
			if w.adoption.progress != nil {
				w.adoption.progress(checked, len(nars))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil || len(lost) == 0 {
		return lost, err
	}
	// A registry that denies what it has would have us throw everything away.
	if err := w.putConfig(ctx); err != nil {
		return nil, err
	}
	config, _ := w.cache.form().Config()
	if _, err := w.cache.repo.BlobSize(ctx, config.Digest); err != nil {
		// the text, not the error: the blob is there
		return nil, fmt.Errorf("the registry denies a blob that it has just taken: %v", err) //nolint:errorlint // see above
	}
	return lost, nil
}
