package index

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/oranc"
	"github.com/org/nixoci-action/internal/registry"
)

// Options configures Open. The zero value works, without a disk copy.
type Options struct {
	// Dir keeps entries blobs and the last state of every cache between
	// runs; empty means nowhere. Processes may share it.
	Dir string
	// TrustedKeys are public keys, "name:base64", with which the chain of the
	// cache's keys begins. Empty means those that the cache named when it was
	// read for the first time, as Dir remembers them, or without it the Cache.
	TrustedKeys []string
	// Logger receives repairs and oddities; nil discards them.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Settle is how long a writer waits before it looks whether the root kept
	// its segments; 0 means 200 ms, jittered.
	Settle time.Duration
	// Reserve is asked before a part of the index is read, or unpacked, which
	// takes about so many bytes of memory. Its error ends the reading. It may
	// be called at the same time from several goroutines; nil means that there
	// is memory enough.
	Reserve func(bytes int64) error
	// Memory bounds what the index may take, in bytes. What does not fit is damage
	// of the Snapshot. 0 means DefaultMemory, or what
	// GOMEMLIMIT says if that is more.
	Memory int64
}

// Cache is the cache index of one repository. It is safe for concurrent use;
// reads of the registry are made one after the other.
type Cache struct {
	repo registry.Repository
	opts Options
	disk disk

	// prepared: the config is known to be in the repository
	prepared atomic.Bool
	// taken is 1 more than the form in which manifests are written, because the
	// registry has taken one; 0 if that is not known
	taken atomic.Int32
	// layers is how many blobs a segment may name; 0 if the registry has not
	// refused any for that
	layers atomic.Int32
	// spent is what was reserved in this reading, and held before
	spent atomic.Int64

	mu      sync.Mutex
	current *Snapshot                     // nil until something was read
	blobs   map[v1.Hash]*format.Segment   // by entries blob, for the next snapshot
	swept   map[string]format.SegmentInfo // segments that only the tag list shows
	own     map[string]time.Time          // tags that this process has written, and when: they count whatever the tag list says
	keys    keyMemory
	told    string // the last warning about keys
}

// lag is how far a tag list may be behind what was written. It is far less
// than a collection waits before it deletes a tag.
const lag = 6 * time.Hour

// owns reports whether a tag was written by this process, and so lately that a
// tag list without it says nothing.
func (c *Cache) owns(tag string) bool { return c.opts.Now().Sub(c.own[tag]) < lag }

// Open returns the cache index in repo. Nothing is read yet.
func Open(repo registry.Repository, o Options) *Cache {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Settle == 0 {
		o.Settle = 200 * time.Millisecond
	}
	return &Cache{repo: repo, opts: o, disk: newDisk(o.Dir, repo.String()), blobs: map[v1.Hash]*format.Segment{}, swept: map[string]format.SegmentInfo{}, own: map[string]time.Time{}}
}

// Repository returns the repository that the cache is in.
func (c *Cache) Repository() registry.Repository { return c.repo }

// Options returns how the cache was opened, with what is set by default.
func (c *Cache) Options() Options { return c.opts }

// Refresh reads what changed since the last read. If nothing did it costs one
// request and returns the same Snapshot. A repository without a cache index
// gives an empty Snapshot; any other failure is an error, and what was read
// before stays valid.
func (c *Cache) Refresh(ctx context.Context) (*Snapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.read(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("reading the cache index: %w", err)
	}
	return s, nil
}

// Sweep is Refresh with a look at the tag list, which shows segments that a
// lost race has kept out of the root.
func (c *Cache) Sweep(ctx context.Context) (*Snapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.read(ctx, true)
	if err != nil {
		return nil, fmt.Errorf("reading the cache index: %w", err)
	}
	return s, nil
}

// read reads the root, and the tag list if it is asked for or there is no
// root, and makes the current snapshot of both.
func (c *Cache) read(ctx context.Context, sweep bool) (*Snapshot, error) {
	var known v1.Hash
	if c.current != nil && !sweep && len(c.current.damage) == 0 {
		known = c.current.digest
	}
	c.spent.Store(c.held())
	tags := func() ([]string, error) { return c.repo.Tags(ctx) }
	if sweep { // at the same time: what came between the answers is asked for by itself
		asking, cancel := context.WithCancel(ctx)
		listed := make(chan struct{})
		var all []string
		var failed error
		go func() {
			defer close(listed)
			all, failed = c.repo.Tags(asking)
		}()
		tags = func() ([]string, error) { <-listed; return all, failed }
		defer func() { cancel(); <-listed }()
	}
	digest, list, err := readRoot(ctx, c.repo, known, sweep, c.reserve)
	var damage *DamageError
	switch {
	case errors.As(err, &damage):
		// the tags say what the root would
		sweep, list = true, rootState{retired: []format.Retired{}, damage: []*DamageError{damage}}
	case errors.Is(err, registry.ErrNotFound):
		sweep, list.retired = true, []format.Retired{}
	case err != nil:
		return nil, err
	case digest == known:
		return c.current, nil
	case list.foreign == nil:
		c.learn(list.form)
	default:
		// what we have written before it was overwritten shows in the tags only
		sweep = true
	}
	if len(list.skipped) > 0 {
		c.opts.Logger.Warn("nixcache-oci's index has entries that cannot be used", "entries", len(list.skipped))
	}
	if sweep {
		if err := c.sweep(ctx, &list, tags); err != nil {
			return nil, err
		}
	}
	for _, s := range list.Segments {
		delete(c.swept, s.Tag)
	}
	for _, r := range list.retired {
		delete(c.swept, r.Tag)
	}
	if c.current != nil && len(c.current.damage)+len(list.damage) == 0 && digest == c.current.digest && sameSegments(c.swept, c.current.extra) && slices.EqualFunc(list.Segments, c.current.listed, format.SegmentInfo.Same) {
		if c.current.retired == nil && list.retired != nil {
			// the same, but for what only a writer needs to know
			s := *c.current
			s.retired, s.oranc = list.retired, list.oranc
			c.current = &s
		}
		return c.current, nil
	}
	s, err := c.assemble(ctx, digest, list)
	if err != nil {
		return nil, err
	}
	c.remember(s)
	return s, nil
}

func sameSegments(a map[string]format.SegmentInfo, b []format.SegmentInfo) bool {
	return len(a) == len(b) && !slices.ContainsFunc(b, func(s format.SegmentInfo) bool { return a[s.Tag].Manifest != s.Manifest })
}

// remember makes s the current snapshot and keeps it on disk.
func (c *Cache) remember(s *Snapshot) {
	c.judgeKeys(s)
	c.current = s
	live := map[v1.Hash]*format.Segment{}
	for _, seg := range s.segments {
		live[seg.Info.Entries] = seg
	}
	c.blobs = live
	if err := c.disk.save(s); err != nil {
		c.opts.Logger.Warn("the index's copy on disk was not written", "error", err)
	}
}

// sweep finds the segments that have a tag and are not in list, and strikes out
// those in list that have none: an old root may have come back, and what it
// names been deleted.
func (c *Cache) sweep(ctx context.Context, list *rootState, listTags func() ([]string, error)) error {
	tags, err := listTags()
	if err != nil {
		return err
	}
	list.oranc = oranc.Paths(tags)
	known := map[string]bool{}
	for _, s := range list.Segments {
		known[s.Tag] = true
	}
	for _, r := range list.retired {
		known[r.Tag] = true
	}
	present := map[string]bool{}
	found := map[string]format.SegmentInfo{}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readJobs)
	for _, tag := range tags {
		present[tag] = true
		_, have := c.swept[tag]
		if !strings.HasPrefix(tag, format.SegmentTagPrefix) || known[tag] || have {
			continue
		}
		g.Go(func() error {
			info, err := c.segmentInfo(gctx, tag)
			if errors.Is(err, registry.ErrNotFound) {
				return nil // collected since the list was made
			}
			if errors.Is(err, errNoSegment) {
				c.opts.Logger.Warn("passing over a tag of another program", "tag", tag)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			if damage := (*DamageError)(nil); errors.As(err, &damage) {
				list.damage = append(list.damage, damage)
				return nil
			}
			if err != nil {
				return err
			}
			found[tag] = info
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	maps.DeleteFunc(c.own, func(tag string, _ time.Time) bool { return !c.owns(tag) })
	maps.Copy(c.swept, found)
	maps.DeleteFunc(c.swept, func(tag string, _ format.SegmentInfo) bool { return !present[tag] && !c.owns(tag) })
	unlisted := slices.DeleteFunc(slices.Clone(list.Segments), func(s format.SegmentInfo) bool { return present[s.Tag] || c.owns(s.Tag) })
	gone, err := c.Unanswered(ctx, unlisted) // lists of tags may lag
	if err != nil {
		return err
	}
	list.Segments = slices.DeleteFunc(list.Segments, func(s format.SegmentInfo) bool { return gone[s.Manifest] })
	return nil
}

// Unanswered asks the registry for the tags of segments. It returns those
// segments, by manifest, whose tags are gone or point to something else.
func (c *Cache) Unanswered(ctx context.Context, segments []format.SegmentInfo) (map[v1.Hash]bool, error) {
	gone := map[v1.Hash]bool{}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readJobs)
	for _, info := range segments {
		g.Go(func() error {
			digest, err := c.repo.Resolve(ctx, info.Tag)
			if err != nil && !errors.Is(err, registry.ErrNotFound) {
				return err
			}
			if digest != info.Manifest {
				mu.Lock()
				defer mu.Unlock()
				gone[info.Manifest] = true
			}
			return nil
		})
	}
	return gone, g.Wait()
}

// readJobs is how many index objects are read at once.
const readJobs = 16

// errNoSegment tells that a tag only looks like a segment's.
var errNoSegment = errors.New("not a segment of a cache index")

// segmentInfo learns from a segment's manifest what the root would say.
// Count and Created stay open until the entries blob is read.
func (c *Cache) segmentInfo(ctx context.Context, tag string) (format.SegmentInfo, error) {
	m, err := c.repo.Manifest(ctx, tag)
	if err != nil {
		return format.SegmentInfo{}, err
	}
	im, _, err := format.DecodeManifest(m.Raw)
	if err != nil {
		return format.SegmentInfo{}, damaged(tag, err)
	}
	if len(im.Layers) == 0 || im.Layers[0].MediaType != format.MediaEntries {
		return format.SegmentInfo{}, errNoSegment
	}
	if size := im.Layers[0].Size; size <= 0 || size > format.MaxEntriesBlob {
		return format.SegmentInfo{}, damaged(tag, fmt.Errorf("it says that its entries take %d bytes", size))
	}
	return format.SegmentInfo{Tag: tag, Manifest: m.Digest, Entries: im.Layers[0].Digest, EntriesSize: im.Layers[0].Size, Layers: len(im.Layers) - 1}, nil
}

// assemble loads the live segments of a root and of the sweeps.
func (c *Cache) assemble(ctx context.Context, digest v1.Hash, list rootState) (*Snapshot, error) {
	candidates := append(slices.Clone(list.Segments), slices.Collect(maps.Values(c.swept))...)
	loaded := make([]*format.Segment, len(candidates))
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readJobs)
	for i, info := range candidates {
		g.Go(func() (err error) {
			loaded[i], err = c.load(gctx, info)
			if damage := (*DamageError)(nil); errors.As(err, &damage) {
				mu.Lock()
				defer mu.Unlock()
				list.damage = append(list.damage, damage)
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	replaced := map[v1.Hash]time.Time{} // when, by the replacing segment
	for _, s := range loaded {
		if s != nil {
			for _, r := range s.Header.Replaces {
				if t, ok := replaced[r]; !ok || s.Header.Created.After(t) {
					replaced[r] = s.Header.Created
				}
			}
		}
	}
	loaded = slices.DeleteFunc(loaded, func(s *format.Segment) bool {
		if s == nil {
			return true
		}
		since, ok := replaced[s.Info.Manifest]
		if !ok {
			return false
		}
		// forgotten now, while what replaces it is here to say so: that may be
		// replaced in its turn
		delete(c.swept, s.Info.Tag)
		if list.retired != nil {
			list.retired = append(list.retired, format.Retired{Tag: s.Info.Tag, Manifest: s.Info.Manifest, Since: since})
		}
		return true
	})
	if list.foreign != nil {
		loaded = append(loaded, list.foreign)
	}
	var extra []format.SegmentInfo
	for _, s := range loaded {
		if _, ok := c.swept[s.Info.Tag]; ok {
			extra = append(extra, s.Info)
		}
	}
	slices.SortFunc(list.damage, func(a, b *DamageError) int { return strings.Compare(a.Tag, b.Tag) })
	for _, d := range list.damage {
		c.opts.Logger.Warn("a part of the cache index cannot be used; what only it says is not found", "tag", d.Tag, "error", d.Err)
	}
	return newSnapshot(c.opts.Now(), digest, list, loaded, extra), nil
}

// load returns a segment from memory, disk or the registry; nil if it has been
// collected.
func (c *Cache) load(ctx context.Context, info format.SegmentInfo) (*format.Segment, error) {
	if s, ok := c.blobs[info.Entries]; ok {
		return s, nil
	}
	blob, ok := c.disk.entries(info)
	if !ok {
		err := c.reserve(info.EntriesSize)
		if err != nil {
			return nil, damaged(info.Tag, err)
		}
		blob, err = registry.ReadBlob(ctx, c.repo, info.Entries, info.EntriesSize)
		if errors.Is(err, registry.ErrNotFound) {
			return nil, c.collected(ctx, info, err)
		}
		if err != nil {
			return nil, fmt.Errorf("reading segment %s: %w", info.Tag, err)
		}
	}
	s, err := format.ParseSegment(blob, c.reserve)
	if err == nil {
		err = s.Header.Config.Validate()
	}
	if err != nil {
		return nil, damaged(info.Tag, err)
	}
	info.Count, info.Created = s.Len(), s.Header.Created
	s.Info = info
	if !ok {
		if err := c.disk.put(info.Entries, blob); err != nil {
			c.opts.Logger.Warn("a segment's copy on disk was not written", "error", err)
		}
	}
	return s, nil
}

// collected tells a segment that gc has removed, while an older root still
// named it, from one that is damaged.
func (c *Cache) collected(ctx context.Context, info format.SegmentInfo, err error) error {
	_, tagErr := c.repo.Resolve(ctx, info.Tag)
	switch {
	case errors.Is(tagErr, registry.ErrNotFound):
		return nil
	case tagErr != nil:
		return tagErr
	}
	// the text, not the error: a damaged segment is not an absent cache
	return damaged(info.Tag, errors.New(err.Error()))
}

// Load returns the index as the disk copy has it, without any request. Its
// error wraps fs.ErrNotExist if there is no copy.
func (c *Cache) Load() (*Snapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st, err := c.disk.state()
	if err != nil {
		return nil, fmt.Errorf("reading the index's copy on disk: %w", err)
	}
	c.spent.Store(c.held())
	var loaded []*format.Segment
	for _, info := range st.List.Segments {
		blob, ok := c.disk.entries(info)
		if !ok {
			return nil, fmt.Errorf("reading the index's copy on disk: segment %s is missing or damaged", info.Tag)
		}
		s, err := format.ParseSegment(blob, c.reserve)
		if err != nil {
			return nil, fmt.Errorf("reading the index's copy on disk: segment %s: %w", info.Tag, err)
		}
		s.Info = info
		loaded = append(loaded, s)
	}
	for _, info := range st.Extra {
		c.swept[info.Tag] = info
	}
	s := newSnapshot(c.opts.Now(), st.Root, rootState{SegmentList: st.List}, loaded, st.Extra)
	c.judgeKeys(s)
	c.current = s
	for _, seg := range s.segments {
		c.blobs[seg.Info.Entries] = seg
	}
	return s, nil
}
