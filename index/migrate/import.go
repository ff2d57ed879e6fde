package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/oranc"
	"github.com/org/nixoci-action/internal/storepath"
)

// ImportOptions configures Oranc. The zero value works for a cache whose
// paths refer to nothing outside it.
type ImportOptions struct {
	// OnUpstream reports whether an upstream cache has the path with a hash
	// part; nil means that none has. It is called from several goroutines, once
	// for a path. Its errors end the import.
	OnUpstream func(ctx context.Context, hashPart string) (bool, error)
	// Config is merged into the cache's configuration, its public keys also where
	// there is no path to import any more. The store directory and
	// the priority, unless the cache has one, are oranc's.
	Config format.Config
	// CommitEvery is the number of paths after which a segment is committed,
	// and SegmentLayers the largest number of NAR blobs in one; if less than or
	// equal to 0, as in WriterOptions.
	CommitEvery, SegmentLayers int
	// DryRun reads and checks all the same, and writes nothing.
	DryRun bool
	// Progress is told how many paths of how many were read, never
	// concurrently; nil means nobody listens.
	Progress func(read, total int)
}

// Imported tells what was imported from oranc; in a dry run, what would be.
type Imported struct {
	index.Total
	// Present is the number of paths that the cache had already.
	Present int
	// Lost are paths that were left out because the registry does not have
	// their NAR.
	Lost []storepath.Path
	// Incomplete are paths that were left out because something that they refer
	// to is neither in the cache nor on an upstream.
	Incomplete []storepath.Path
	// Unusable are the keys of narinfos that were left out because no Nix could
	// use them.
	Unusable []string
	// Realisations is the number of realisations that paths of the cache got.
	Realisations int
	// Other is the number of files that are not imported at all: build logs,
	// listings, and realisations that no Nix could use or whose paths are not
	// there.
	Other int
	// Keys tells of each signing key, by its name, how many paths it has
	// signed; Unsigned is the number of paths without a signature.
	Keys     map[string]int
	Unsigned int
	// Segments are the segments that were written.
	Segments []format.SegmentInfo
}

// importJobs is how many paths are read at once.
const importJobs = 16

// afterwards is how long an import that was stopped may take to commit what it
// has read.
const afterwards = 30 * time.Second

// importer is the state of an import.
type importer struct {
	cache  *index.Cache
	opts   ImportOptions
	base   *index.Snapshot
	w      *index.Writer
	opened time.Time // when w was made
	files  orancFiles
	dir    string   // the store directory
	todo   []string // hash parts of narinfos
	again  []string // of entries that get realisations
	// realised are the realisations that the cache has not, by the base name of
	// their path
	realised map[string][]format.Realisation
	// newKeys: the configuration has public keys that the cache does not know
	newKeys bool
	// adding makes readers wait for a commit: else it would go on with what they
	// add meanwhile, in ever smaller segments.
	adding sync.Mutex

	mu       sync.Mutex
	claimed  map[string]bool         // hash parts that are read, or were
	added    map[string]format.Entry // of oranc's, by hash part
	waiting  map[string]format.Entry // what a dry run would add, by hash part
	upstream map[string]bool         // by hash part, as far as somebody has asked
	read     int
	result   Imported
}

// Oranc reads the cache index as Sweep does, and adds to it what oranc has
// put into the same repository and the index does not have. No NAR is sent:
// the segments name the blobs that oranc has stored. Its tags and manifests are
// left as they are.
//
// It can be stopped at any point and called again; what it has committed is not
// read again. If there is an error, Imported tells what was done until then. A
// cache of nixcache-oci must be adopted before.
func Oranc(ctx context.Context, c *index.Cache, o ImportOptions) (*index.Snapshot, Imported, error) {
	base, err := c.Sweep(ctx)
	if err != nil {
		return nil, Imported{}, err
	}
	tags, err := c.Repository().Tags(ctx)
	if err != nil {
		return nil, Imported{}, fmt.Errorf("looking for what oranc has stored: %w", err)
	}
	im := &importer{
		cache: c, opts: o, base: base, files: newOrancFiles(tags),
		realised: map[string][]format.Realisation{}, claimed: map[string]bool{}, added: map[string]format.Entry{}, waiting: map[string]format.Entry{}, upstream: map[string]bool{},
		result: Imported{Keys: map[string]int{}},
	}
	if err := im.readRealisations(ctx, im.sort()); err != nil {
		return nil, im.result, fmt.Errorf("importing what oranc has stored: %w", err)
	}
	im.newKeys = im.result.Present+len(im.todo) > 0 &&
		slices.ContainsFunc(o.Config.PublicKeys, func(k string) bool { return !slices.Contains(base.Config().PublicKeys, k) })
	if len(im.todo)+len(im.again) == 0 && !im.newKeys {
		return base, im.result, nil
	}
	if err := im.prepare(ctx); err != nil {
		return nil, im.result, fmt.Errorf("importing what oranc has stored: %w", err)
	}
	err = im.readAll(ctx)
	err = errors.Join(err, im.commit(ctx, err))
	if err != nil {
		return nil, im.result, fmt.Errorf("importing what oranc has stored: %w", err)
	}
	return c.Current(), im.result, nil
}

// sort finds out which narinfos are to be read. It returns the realisations that
// the cache does not have.
func (im *importer) sort() (realisations []bincache.File) {
	for _, key := range slices.Sorted(maps.Keys(im.files)) {
		hashPart, ok := oranc.HashPart(key)
		switch file := bincache.Parse(key); {
		case ok:
			if _, ok := im.base.Lookup(hashPart); ok {
				im.result.Present++
			} else {
				im.todo = append(im.todo, hashPart)
			}
		case file.Kind == bincache.Realisation || file.Kind == bincache.BuildTrace:
			if !im.base.Realises(format.RealisationOf(file)) {
				realisations = append(realisations, file)
			}
		case file.Kind != 0 && file.Kind != bincache.Narinfo && file.Kind != bincache.NAR && file.Kind != bincache.CacheInfo:
			im.result.Other++
		}
	}
	return realisations
}

// readRealisations reads the files of realisations. The paths of the cache that
// they are about are written again.
func (im *importer) readRealisations(ctx context.Context, files []bincache.File) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(importJobs)
	for _, file := range files {
		g.Go(func() error {
			var r format.Realisation
			var path string
			text, err := im.text(gctx, file.Path())
			if err == nil {
				r, path, err = format.ParseRealisation(file, []byte(text))
			} else if !errors.As(err, new(*unusableError)) {
				return err
			}
			im.mu.Lock()
			defer im.mu.Unlock()
			if err != nil {
				im.cache.Options().Logger.Info("left out of what oranc has stored", "key", file.Path(), "error", err)
				im.result.Other++
				return nil
			}
			im.realised[path] = append(im.realised[path], r)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for path := range im.realised {
		if e, ok := im.base.Lookup(path[:storepath.HashPartLen]); ok && e.Path.Base() == path {
			im.again = append(im.again, e.Path.HashPart)
		}
	}
	return nil
}

// prepare learns what oranc says of the whole cache.
func (im *importer) prepare(ctx context.Context) error {
	info, err := im.cacheInfo(ctx)
	if err != nil {
		return err
	}
	conf := im.opts.Config
	if im.base.Config().Priority == 0 && conf.Priority == 0 {
		conf.Priority = max(info.Priority, 0)
	}
	if im.dir = info.StoreDir; im.dir == "" {
		if im.dir, err = im.firstStoreDir(ctx); err != nil {
			return err
		}
	}
	if im.dir != storepath.DefaultDir {
		conf.StoreDir = im.dir
	}
	im.opened = im.cache.Options().Now()
	im.w, err = im.cache.NewWriter(im.base, index.WriterOptions{
		CommitEvery: im.opts.CommitEvery, SegmentLayers: im.opts.SegmentLayers, Config: conf,
		OnUpstream: func(hashPart string) bool {
			im.mu.Lock()
			defer im.mu.Unlock()
			return im.upstream[hashPart]
		},
	})
	return err
}

// cacheInfo reads nix-cache-info, which need not be there.
func (im *importer) cacheInfo(ctx context.Context) (bincache.Info, error) {
	key := bincache.File{Kind: bincache.CacheInfo}.Path()
	text, err := im.text(ctx, key)
	if err != nil && !errors.As(err, new(*unusableError)) {
		return bincache.Info{}, err
	}
	info := bincache.ParseInfo(text)
	if dir := info.StoreDir; dir != "" && !storepath.ValidDir(dir) {
		return info, fmt.Errorf("oranc's %s names the store directory %q", key, dir)
	}
	return info, nil
}

// firstStoreDir is the store directory of the first narinfo that has one.
func (im *importer) firstStoreDir(ctx context.Context) (string, error) {
	for _, hashPart := range im.todo {
		text, err := im.text(ctx, narinfoKey(hashPart))
		if err != nil && !errors.As(err, new(*unusableError)) {
			return "", err
		}
		fields, _ := bincache.ParseNarinfo(text)
		if p, err := storepath.Parse(fields.Get("StorePath")); err == nil {
			return p.Dir, nil
		}
	}
	return storepath.DefaultDir, nil
}

// readAll reads all that is to be read. Every path is followed by what it
// refers to, so that closures are complete early, and can be committed: an
// import that is stopped has not read in vain.
func (im *importer) readAll(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(importJobs)
	for _, hashPart := range slices.Concat(im.todo, im.again) {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			for stack := []string{hashPart}; len(stack) > 0; {
				k := stack[len(stack)-1]
				stack = stack[:len(stack)-1]
				if !im.claim(k) {
					continue
				}
				refs, err := im.load(gctx, k)
				if err != nil {
					return err
				}
				for _, r := range refs {
					stack = append(stack, r[:storepath.HashPartLen])
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

func (im *importer) claim(hashPart string) bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	defer func() { im.claimed[hashPart] = true }()
	return !im.claimed[hashPart]
}

// load finds out where a path is to be had, and adds it if that is oranc's. It
// returns what the path refers to, unless that is available anyway.
func (im *importer) load(ctx context.Context, hashPart string) ([]string, error) {
	if e, ok := im.base.Lookup(hashPart); ok {
		if !e.Realise(im.realised[e.Path.Base()]...) && im.opened.Sub(e.Added) < format.PinAfter {
			return nil, nil
		}
		return e.References, im.add(ctx, e) // or a collection might remove it
	}
	key := narinfoKey(hashPart)
	if im.files[key] != nil {
		e, err := im.entry(ctx, key)
		left := (*unusableError)(nil)
		if err != nil && !errors.As(err, &left) {
			return nil, err
		}
		im.mu.Lock()
		switch {
		case left == nil:
			e.Realise(im.realised[e.Path.Base()]...)
			im.added[hashPart] = e
		case left.lost != (storepath.Path{}):
			im.result.Lost = append(im.result.Lost, left.lost)
		default:
			im.result.Unusable = append(im.result.Unusable, key)
		}
		im.read++
		if im.opts.Progress != nil {
			im.opts.Progress(im.read, len(im.todo))
		}
		im.mu.Unlock()
		if left == nil {
			return e.References, im.add(ctx, e)
		}
		im.cache.Options().Logger.Info("left out of what oranc has stored", "key", key, "error", left)
	}
	if im.opts.OnUpstream == nil {
		return nil, nil
	}
	has, err := im.opts.OnUpstream(ctx, hashPart)
	if err != nil {
		return nil, err
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.upstream[hashPart] = has
	return nil, nil
}

func (im *importer) add(ctx context.Context, e format.Entry) error {
	if !im.opts.DryRun {
		im.adding.Lock()
		defer im.adding.Unlock()
		return im.w.Add(ctx, e)
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.waiting[e.Path.HashPart] = e
	return nil
}

// commit writes what is left to write, also if reading has failed, and counts.
func (im *importer) commit(ctx context.Context, failed error) error {
	left := map[string]bool{} // out, or for another import
	var err error
	if im.opts.DryRun {
		for hashPart := range im.waiting {
			left[hashPart] = true
		}
		for _, e := range index.Closed(im.waiting, im.w.Available) {
			delete(left, e.Path.HashPart)
		}
	} else {
		if failed != nil {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), afterwards)
			defer cancel()
		}
		var r index.Result
		r, err = im.w.Close(ctx, nil)
		for _, e := range r.Incomplete {
			left[e.Path.HashPart] = true
		}
		for _, e := range r.Lost {
			im.result.Lost = append(im.result.Lost, e.Path)
			delete(im.added, e.Path.HashPart)
		}
		if err == nil && im.newKeys && len(r.Segments) == 0 {
			r, err = im.sayKeys(ctx)
		}
		im.result.Segments = r.Segments
	}
	for _, hashPart := range slices.Sorted(maps.Keys(im.added)) {
		e := im.added[hashPart]
		if left[hashPart] {
			if failed == nil && err == nil { // else it may have been complete later
				im.result.Incomplete = append(im.result.Incomplete, e.Path)
			}
			continue
		}
		im.result.Add(e.NarSize, e.NAR.Size)
		if len(e.Signatures) == 0 {
			im.result.Unsigned++
		}
		for _, sig := range e.Signatures {
			name, _, _ := strings.Cut(sig, ":")
			im.result.Keys[name]++
		}
	}
	for path, rs := range im.realised {
		hashPart := path[:storepath.HashPartLen]
		_, added := im.added[hashPart]
		if _, present := im.base.Lookup(hashPart); (added || present) && !left[hashPart] {
			im.result.Realisations += len(rs)
		} else {
			im.result.Other += len(rs)
		}
	}
	slices.SortFunc(im.result.Lost, func(a, b storepath.Path) int { return strings.Compare(a.HashPart, b.HashPart) })
	slices.Sort(im.result.Unusable)
	return err
}

// sayKeys writes a segment for the configuration alone: no path brings it.
func (im *importer) sayKeys(ctx context.Context) (index.Result, error) {
	if err := im.w.RecordConfig(ctx); err != nil {
		return index.Result{}, err
	}
	return im.w.Close(ctx, nil)
}
