package index

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/internal/oranc"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/storepath"
)

// ImportOptions configures ImportOranc. The zero value works for a cache whose
// paths refer to nothing outside it.
type ImportOptions struct {
	// OnUpstream reports whether an upstream cache has the path with a hash
	// part; nil means that none has. It is called from several goroutines, once
	// for a path. Its errors end the import.
	OnUpstream func(ctx context.Context, hashPart string) (bool, error)
	// Config is merged into the cache's configuration, its public keys also where
	// there is no path to import any more. The store directory and
	// the priority, unless the cache has one, are oranc's.
	Config Config
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
	Total
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
	// Other is the number of files that are not imported at all, such as
	// realisations and build logs.
	Other int
	// Keys tells of each signing key, by its name, how many paths it has
	// signed; Unsigned is the number of paths without a signature.
	Keys     map[string]int
	Unsigned int
	// Segments are the segments that were written.
	Segments []SegmentInfo
}

// maxOrancNarinfo is the size in bytes up to which a narinfo is read.
const maxOrancNarinfo = 1 << 20

// afterwards is how long an import that was stopped may take to commit what it
// has read.
const afterwards = 30 * time.Second

// orancFiles are the keys in a repository that oranc has written, each with its
// tags, that of the newer encoding first.
type orancFiles map[string][]string

func newOrancFiles(tags []string) orancFiles {
	files := orancFiles{}
	for _, tag := range tags {
		if key, ok := oranc.Key(tag); ok {
			files[key] = append(files[key], tag)
			if len(files[key]) > 1 && tag == oranc.Tag(key) {
				slices.Reverse(files[key])
			}
		}
	}
	return files
}

// orancHashPart returns the hash part for which a key is the narinfo.
func orancHashPart(key string) (string, bool) {
	k, ok := strings.CutSuffix(key, ".narinfo")
	return k, ok && storepath.ValidHashPart(k)
}

// orancPaths returns the hash parts of the narinfos among the files that tags
// are for.
func orancPaths(tags []string) []string {
	var paths []string
	for _, tag := range tags {
		if key, ok := oranc.Key(tag); ok {
			if hashPart, ok := orancHashPart(key); ok {
				paths = append(paths, hashPart)
			}
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// Oranc returns the number of store paths that oranc has put into the
// repository, as far as the tag list was read for this snapshot, and how many
// of them the cache has, too.
func (s *Snapshot) Oranc() (paths, present int) {
	for _, hashPart := range s.oranc {
		if s.Has(hashPart) {
			present++
		}
	}
	return len(s.oranc), present
}

// importer is the state of an import.
type importer struct {
	cache *Cache
	opts  ImportOptions
	w     *Writer
	files orancFiles
	dir   string // the store directory
	todo  []string
	// newKeys: the configuration has public keys that the cache does not know
	newKeys bool
	// adding makes readers wait for a commit: else it would go on with what they
	// add meanwhile, in ever smaller segments.
	adding sync.Mutex

	mu       sync.Mutex
	claimed  map[string]bool  // hash parts that are read, or were
	added    map[string]Entry // of oranc's, by hash part
	upstream map[string]bool  // by hash part, as far as somebody has asked
	read     int
	result   Imported
}

// ImportOranc reads the cache index as Sweep does, and adds to it what oranc has
// put into the same repository and the index does not have. No NAR is sent:
// the segments name the blobs that oranc has stored. Its tags and manifests are
// left as they are.
//
// It can be stopped at any point and called again; what it has committed is not
// read again. If there is an error, Imported tells what was done until then. A
// cache of nixcache-oci must be adopted before.
func (c *Cache) ImportOranc(ctx context.Context, o ImportOptions) (*Snapshot, Imported, error) {
	base, err := c.Sweep(ctx)
	if err != nil {
		return nil, Imported{}, err
	}
	tags, err := c.repo.Tags(ctx)
	if err != nil {
		return nil, Imported{}, fmt.Errorf("looking for what oranc has stored: %w", err)
	}
	im := &importer{
		cache: c, opts: o, files: newOrancFiles(tags),
		claimed: map[string]bool{}, added: map[string]Entry{}, upstream: map[string]bool{},
		result: Imported{Keys: map[string]int{}},
	}
	im.sort(base)
	im.newKeys = im.result.Present+len(im.todo) > 0 &&
		slices.ContainsFunc(o.Config.PublicKeys, func(k string) bool { return !slices.Contains(base.config.PublicKeys, k) })
	if len(im.todo) == 0 && !im.newKeys {
		return base, im.result, nil
	}
	if err := im.prepare(ctx, base); err != nil {
		return nil, im.result, fmt.Errorf("importing what oranc has stored: %w", err)
	}
	err = im.readAll(ctx)
	err = errors.Join(err, im.commit(ctx, err))
	if err != nil {
		return nil, im.result, fmt.Errorf("importing what oranc has stored: %w", err)
	}
	return c.Current(), im.result, nil
}

// sort finds out which narinfos are to be read.
func (im *importer) sort(base *Snapshot) {
	for _, key := range slices.Sorted(maps.Keys(im.files)) {
		hashPart, ok := orancHashPart(key)
		switch {
		case ok:
			if _, ok := base.Lookup(hashPart); ok {
				im.result.Present++
			} else {
				im.todo = append(im.todo, hashPart)
			}
		case strings.HasPrefix(key, "realisations/"), strings.HasPrefix(key, "log/"), strings.HasPrefix(key, "debuginfo/"), strings.HasSuffix(key, ".ls"):
			im.result.Other++
		}
	}
}

// prepare learns what oranc says of the whole cache.
func (im *importer) prepare(ctx context.Context, base *Snapshot) error {
	info, err := im.cacheInfo(ctx)
	if err != nil {
		return err
	}
	conf := im.opts.Config
	if base.config.Priority == 0 && conf.Priority == 0 {
		conf.Priority, _ = strconv.Atoi(info["Priority"]) // none is 0, too
		conf.Priority = max(conf.Priority, 0)
	}
	if im.dir = info["StoreDir"]; im.dir == "" {
		if im.dir, err = im.firstStoreDir(ctx); err != nil {
			return err
		}
	}
	if im.dir != storepath.DefaultDir {
		conf.StoreDir = im.dir
	}
	im.w, err = im.cache.NewWriter(base, WriterOptions{
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
func (im *importer) cacheInfo(ctx context.Context) (map[string]string, error) {
	const key = "nix-cache-info"
	text, err := im.text(ctx, key)
	if err != nil && !errors.As(err, new(*unusableError)) {
		return nil, err
	}
	info := narinfoFields(text)
	if dir := info["StoreDir"]; dir != "" && !storepath.ValidDir(dir) {
		return nil, fmt.Errorf("oranc's %s names the store directory %q", key, dir)
	}
	return info, nil
}

// firstStoreDir is the store directory of the first narinfo that has one.
func (im *importer) firstStoreDir(ctx context.Context) (string, error) {
	for _, hashPart := range im.todo {
		text, err := im.text(ctx, hashPart+".narinfo")
		if err != nil && !errors.As(err, new(*unusableError)) {
			return "", err
		}
		if p, err := storepath.Parse(narinfoFields(text)["StorePath"]); err == nil {
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
	g.SetLimit(readJobs)
	for _, hashPart := range im.todo {
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
	if e, ok := im.w.base.Lookup(hashPart); ok {
		if im.w.opened.Sub(e.Added) < PinAfter {
			return nil, nil
		}
		return e.References, im.add(ctx, e) // or a collection might remove it
	}
	key := hashPart + ".narinfo"
	if im.files[key] != nil {
		e, err := im.entry(ctx, key)
		left := (*unusableError)(nil)
		if err != nil && !errors.As(err, &left) {
			return nil, err
		}
		im.mu.Lock()
		switch {
		case left == nil:
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
		im.cache.opts.Logger.Info("left out of what oranc has stored", "key", key, "error", left)
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

func (im *importer) add(ctx context.Context, e Entry) error {
	if !im.opts.DryRun {
		im.adding.Lock()
		defer im.adding.Unlock()
		return im.w.Add(ctx, e)
	}
	im.w.mu.Lock()
	defer im.w.mu.Unlock()
	im.w.pending[e.Path.HashPart] = e
	return nil
}

// commit writes what is left to write, also if reading has failed, and counts.
func (im *importer) commit(ctx context.Context, failed error) error {
	done := map[string]bool{}
	var err error
	if im.opts.DryRun {
		for _, e := range im.w.complete() {
			done[e.Path.HashPart] = true
		}
	} else {
		if failed != nil {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), afterwards)
			defer cancel()
		}
		var r Result
		r, err = im.w.Close(ctx, nil)
		if err == nil && im.newKeys && len(r.Segments) == 0 {
			r, err = im.sayKeys(ctx)
		}
		done, im.result.Segments = im.w.committed, r.Segments
		for _, e := range r.Lost {
			im.result.Lost = append(im.result.Lost, e.Path)
			delete(im.added, e.Path.HashPart)
		}
	}
	for _, hashPart := range slices.Sorted(maps.Keys(im.added)) {
		e := im.added[hashPart]
		if !done[hashPart] {
			if failed == nil && err == nil { // else it may have been complete later
				im.result.Incomplete = append(im.result.Incomplete, e.Path)
			}
			continue
		}
		im.result.count(e)
		if len(e.Signatures) == 0 {
			im.result.Unsigned++
		}
		for _, sig := range e.Signatures {
			name, _, _ := strings.Cut(sig, ":")
			im.result.Keys[name]++
		}
	}
	slices.SortFunc(im.result.Lost, func(a, b storepath.Path) int { return strings.Compare(a.HashPart, b.HashPart) })
	slices.Sort(im.result.Unusable)
	return err
}

// sayKeys writes a segment for the configuration alone: no path brings it.
func (im *importer) sayKeys(ctx context.Context) (Result, error) {
	im.w.committing.Lock()
	err := im.w.writeSegment(ctx, nil, nil)
	im.w.committing.Unlock()
	if err != nil {
		return Result{}, fmt.Errorf("recording the configuration: %w", err)
	}
	return im.w.Close(ctx, nil)
}

// unusableError tells why a file of oranc's is left out.
type unusableError struct {
	lost storepath.Path // if it is its NAR that is missing
	err  error
}

func (e *unusableError) Error() string { return e.err.Error() }
func (e *unusableError) Unwrap() error { return e.err }

// entry makes an entry of a narinfo and its NAR's blob.
func (im *importer) entry(ctx context.Context, key string) (Entry, error) {
	text, err := im.text(ctx, key)
	if err != nil {
		return Entry{}, err
	}
	e, url, err := parseOrancNarinfo(text)
	if err == nil && (e.Path.HashPart+".narinfo" != key || e.Path.Dir != im.dir) {
		err = fmt.Errorf("it is for %s", e.Path)
	}
	if err != nil {
		return Entry{}, &unusableError{err: err}
	}
	nar, err := im.file(ctx, url)
	if err == nil {
		err = im.checkBlob(ctx, nar)
	}
	if unusable := (*unusableError)(nil); errors.As(err, &unusable) {
		return Entry{}, &unusableError{lost: e.Path, err: fmt.Errorf("its NAR: %w", unusable.err)}
	}
	if err != nil {
		return Entry{}, err
	}
	// Two paths with the same contents share a NAR's key, and who came last may
	// have compressed it in another way. So its blob tells the file hash.
	e.NAR = Location{Blob: nar.Digest, BlobSize: nar.Size, Size: nar.Size}
	if e.FileHash, err = nixBase32(nar.Digest.String()); err == nil {
		err = e.Validate()
	}
	if err != nil {
		return Entry{}, &unusableError{err: err}
	}
	return e, nil
}

// parseOrancNarinfo is ParseNarinfo for what early versions of oranc wrote, too:
// all signatures in one line, and none as an empty one.
func parseOrancNarinfo(text string) (Entry, string, error) {
	e, url, err := ParseNarinfo(text)
	e.Signatures = strings.Fields(strings.Join(e.Signatures, " "))
	return e, url, err
}

// text reads a small file.
func (im *importer) text(ctx context.Context, key string) (string, error) {
	d, err := im.file(ctx, key)
	if err != nil {
		return "", err
	}
	if d.Size > maxOrancNarinfo {
		return "", &unusableError{err: fmt.Errorf("it has %d bytes", d.Size)}
	}
	b, err := registry.ReadBlob(ctx, im.cache.repo, d.Digest, d.Size)
	if errors.Is(err, registry.ErrNotFound) {
		return "", &unusableError{err: errors.New("the registry does not have its blob")}
	}
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", key, err)
	}
	return string(b), nil
}

// file finds the blob of a file, as oranc does: by its newer tag, then by its
// older one.
func (im *importer) file(ctx context.Context, key string) (v1.Descriptor, error) {
	for _, tag := range im.files[key] {
		m, err := im.cache.repo.Manifest(ctx, tag)
		if errors.Is(err, registry.ErrNotFound) {
			continue // deleted since the list was made
		}
		if err != nil {
			return v1.Descriptor{}, err
		}
		d, err := oranc.File(m.Raw, key)
		if err != nil {
			return d, &unusableError{err: fmt.Errorf("the manifest of tag %s: %w", tag, err)}
		}
		return d, nil
	}
	return v1.Descriptor{}, &unusableError{err: fmt.Errorf("no tag for the key %q", key)}
}

// checkBlob makes sure that a blob is there.
func (im *importer) checkBlob(ctx context.Context, d v1.Descriptor) error {
	size, err := im.cache.repo.BlobSize(ctx, d.Digest)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return &unusableError{err: errors.New("the registry does not have its blob")}
	case err == nil && size != d.Size:
		return &unusableError{err: fmt.Errorf("it has %d bytes, and its manifest says %d", size, d.Size)}
	}
	return err
}

// narinfoFields returns the fields of a narinfo or of nix-cache-info.
func narinfoFields(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields[key] = strings.TrimSpace(value)
	}
	return fields
}
