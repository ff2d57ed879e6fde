// Package upload turns store paths into compressed NARs in a repository.
//
// It reads the store, and checks what it read against the store's own record.
// It compresses and uploads many paths at a time, in bounded memory. It knows
// neither flakes nor the cache index.
package upload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/secret"
)

// Options configures Run. The zero value compresses with zstd and packs small
// NARs.
type Options struct {
	// Compression is bincache.CompressionZstd, bincache.CompressionXZ or bincache.CompressionNone; empty
	// means zstd.
	Compression string
	// Level is zstd's compression level, 1 to 22; if less than or equal to 0,
	// 3. Other compressions have no levels.
	Level int
	// Jobs is the number of paths that are read and compressed at once; if less
	// than or equal to 0, twice the number of processors, at least 4. As many
	// again may wait for the registry meanwhile. Each takes about 15 MB.
	Jobs int
	// PackBelow is the size in bytes under which compressed NARs share a
	// blob. 0 means 256 KiB; a negative number gives each NAR its own.
	PackBelow int
	// Background tells whether other work goes first now: paths that are begun
	// meanwhile are read and compressed with a low priority, where the system has
	// that for a thread. nil means that nothing goes first.
	Background func() bool
	// PackWait is how long a small NAR waits for others to share a blob with,
	// while more paths may arrive; if less than or equal to 0, 5 s.
	PackWait time.Duration
	// MaxBlobSize is the largest blob the registry takes, in bytes; 0 means
	// any. A path with a larger NAR fails before anything of it is sent.
	MaxBlobSize int64
	// Dump writes the NAR of a store path as Nix does, for the paths that our
	// own writer cannot read; nil means there is no such way.
	Dump func(ctx context.Context, path string, w io.Writer) error
	// Listings asks for the listings of NARs in the results.
	Listings bool
	// Secrets must not be in what is uploaded: a path that has one in its
	// contents or its name fails with a *SecretError. nil means there are none.
	Secrets *secret.Set
	// Progress is told what happens; nil means nobody.
	Progress Progress
	// Logger receives oddities; nil discards them.
	Logger *slog.Logger
}

// Progress follows a Run. Its methods are called concurrently, and must be
// cheap.
type Progress interface {
	// Add counts bytes of uncompressed NARs as they are read. It is negative
	// when a path has to be read again.
	Add(narBytes int64)
	// Done reports one path in the repository. Sizes are in bytes; a path
	// that shares its NAR with another has fileSize 0.
	Done(name string, narSize, fileSize int64, took time.Duration)
}

// Result is one path whose NAR is in the repository.
type Result struct {
	Info        nix.PathInfo
	Compression string
	// FileHash is the SHA-256 of the compressed NAR.
	FileHash [32]byte
	// FileSize is the size of the compressed NAR in bytes.
	FileSize int64
	// Blob is the blob that holds it, at Offset. A pack holds others too.
	Blob   v1.Descriptor
	Offset int64
	// Sent is the number of bytes sent for this path: 0 if its NAR is the
	// same as that of another path in the run.
	Sent int64

	// Listing is the listing of the NAR's files in Nix's JSON. It is nil if
	// Options did not ask for it, or if there is none: for more than 64 MiB of
	// it, or names that are no UTF-8.
	Listing []byte
	// BuildIDs are the ELF build IDs, 40 hex digits each, for which the path
	// has debug symbols; known if Listing is.
	BuildIDs []string
}

// Failure is a path that was not uploaded.
type Failure struct {
	Path string
	Err  error
}

// CorruptedError tells that a store path is not what the store's database says
// it is. Nothing of it is published.
type CorruptedError struct {
	Path      string
	Want, Got string // NAR hash and size, for people
}

func (e *CorruptedError) Error() string {
	return fmt.Sprintf("local store: %s is corrupted: its contents have %s, the store's record says %s", e.Path, e.Got, e.Want)
}

// SecretError tells that a store path has a secret in it. Nothing of it is
// published.
type SecretError struct {
	Path string // if the secret is in the name, *** stands for it
	Kind string // what it is, for people
}

func (e *SecretError) Error() string {
	return fmt.Sprintf("local store: %s is not published: it contains %s", e.Path, e.Kind)
}

const secretHint = "a flake that is a plain folder is copied into the store with all that is in it: keep secrets elsewhere, and in a Git repository do not add them; " +
	"every user of this machine can read the store, so make a new secret"

func secretFound(path, kind string) error {
	return hint.Wrap(&SecretError{path, kind}, secretHint)
}

// registryFailures in a row end a run: the registry is gone, and each further
// path would wait through its retries too.
const registryFailures = 3

// run is one Run.
type run struct {
	repo  registry.Repository
	opts  Options
	codec *codec
	done  func(context.Context, Result) error
	packs *packer
	turns chan struct{} // one for each path that is being compressed

	mu       sync.Mutex
	failures []Failure
	inRow    int  // registry failures since the last success
	ending   bool // no more paths arrive
	later    []refused
}

// refused are paths with the same contents that the registry has not taken.
type refused struct {
	same []nix.PathInfo
	err  error
}

// Run uploads paths as they arrive and calls done, concurrently, for each one
// that is in the repository. A path that cannot be read or uploaded is reported
// and does not stop the others; one that the registry has not taken is tried once
// more when all have arrived. The error is for what stops all: a cancelled
// context, a registry that refuses access or no longer answers, an error from
// done. It ends when the channel is closed, or at such an error: whoever sends
// must not wait for ever then.
func Run(ctx context.Context, repo registry.Repository, arriving <-chan []nix.PathInfo, o Options, done func(context.Context, Result) error) ([]Failure, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Jobs <= 0 {
		o.Jobs = max(4, 2*runtime.GOMAXPROCS(0))
	}
	if o.PackBelow == 0 {
		o.PackBelow = 256 << 10
	}
	if o.PackWait <= 0 {
		o.PackWait = 5 * time.Second
	}
	if o.Progress == nil {
		o.Progress = silent{}
	}
	codec, err := newCodec(o.Compression, o.Level)
	if err != nil {
		return nil, err
	}
	r := &run{repo: repo, opts: o, codec: codec, done: done, turns: make(chan struct{}, o.Jobs)}
	r.packs = &packer{run: r}
	parent := ctx
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * o.Jobs) // who waits for the registry keeps no processor busy
	r.receive(ctx, g, arriving)
	err = g.Wait()
	switch {
	case err != nil:
	case parent.Err() != nil: // perhaps before anybody could notice
		err = context.Cause(parent)
	default:
		// the group's context has ended with the group
		err = r.packs.flush(parent, 0)
	}
	var stop *stopError
	if errors.As(err, &stop) {
		err = stop.error
	}
	for _, l := range r.later { // an error has come in between
		r.fail(l.same, l.err)
	}
	slices.SortFunc(r.failures, func(a, b Failure) int { return strings.Compare(a.Path, b.Path) })
	return r.failures, err
}

// receive has paths uploaded until there are no more, or ctx is done.
func (r *run) receive(ctx context.Context, g *errgroup.Group, arriving <-chan []nix.PathInfo) {
	tick := time.NewTicker(max(r.opts.PackWait/3, time.Millisecond))
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case paths, more := <-arriving:
			groups := schedule(r.named(paths))
			if !more {
				groups = r.end()
			}
			for _, same := range groups {
				if ctx.Err() != nil {
					return
				}
				g.Go(func() error {
					if r.opts.Background != nil && r.opts.Background() {
						stepBack()
					}
					return r.group(ctx, same)
				})
			}
			if !more {
				return
			}
		case <-tick.C:
			g.Go(func() error { return r.packs.flush(ctx, r.opts.PackWait) })
		case <-ctx.Done():
		}
	}
}

// end takes in that no more paths arrive, and returns those that are to be tried
// once more.
func (r *run) end() (again [][]nix.PathInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.later {
		again = append(again, l.same)
	}
	r.ending, r.later = true, nil
	return again
}

// named returns the paths whose names may be published. Contents are looked at
// when they are read.
func (r *run) named(paths []nix.PathInfo) []nix.PathInfo {
	may := make([]nix.PathInfo, 0, len(paths))
	for _, p := range paths {
		if kind, found := r.opts.Secrets.Find([]byte(p.Path + " " + p.Deriver)); found {
			path := string(r.opts.Secrets.Redact([]byte(p.Path)))
			r.mu.Lock()
			r.failures = append(r.failures, Failure{path, secretFound(path, kind)})
			r.mu.Unlock()
			continue
		}
		may = append(may, p)
	}
	return may
}

// large NARs start first, so that none of them is the only one left at the end.
const large = 32 << 20

// schedule groups the paths by their contents, which are sent once, and orders
// the groups: large ones first, else as given.
func schedule(paths []nix.PathInfo) [][]nix.PathInfo {
	byHash := map[string]int{}
	var first, then [][]nix.PathInfo
	var groups [][]nix.PathInfo
	for _, p := range paths {
		if i, ok := byHash[p.NarHash]; ok {
			groups[i] = append(groups[i], p)
			continue
		}
		byHash[p.NarHash] = len(groups)
		groups = append(groups, []nix.PathInfo{p})
	}
	for _, g := range groups {
		if g[0].NarSize >= large {
			first = append(first, g)
		} else {
			then = append(then, g)
		}
	}
	return append(first, then...)
}

// group uploads the contents that same share, from the first path that can be
// read.
func (r *run) group(ctx context.Context, same []nix.PathInfo) error {
	for {
		err := r.path(ctx, same)
		if len(same) == 1 || !errors.As(err, new(*sourceError)) {
			return r.settle(ctx, [][]nix.PathInfo{same}, err)
		}
		if err := r.settle(ctx, [][]nix.PathInfo{same[:1]}, err); err != nil {
			return err
		}
		same = same[1:]
	}
}

// settle decides what an error means for the run, and for groups of paths with
// the same contents.
func (r *run) settle(ctx context.Context, groups [][]nix.PathInfo, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		return nil
	}
	var stop *stopError
	if errors.As(err, &stop) {
		return stop.error
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	source := errors.As(err, new(*sourceError))
	for _, same := range groups {
		if source || r.ending || registry.Denied(err) {
			r.fail(same, err)
		} else {
			r.later = append(r.later, refused{same, err})
			r.opts.Logger.Info("an upload is tried again later", "path", same[0].Path, "because", err)
		}
	}
	if source {
		return nil
	}
	r.inRow++
	if registry.Denied(err) || r.inRow >= registryFailures {
		return err
	}
	return nil
}

func (r *run) fail(same []nix.PathInfo, err error) {
	for _, p := range same {
		r.failures = append(r.failures, Failure{p.Path, err})
	}
}

// stopError ends the run.
type stopError struct{ error }

// sourceError is a failure to read a path, as opposed to one of the registry.
type sourceError struct{ error }

func (e *sourceError) Unwrap() error { return e.error }

// path uploads one NAR, which same share.
func (r *run) path(ctx context.Context, same []nix.PathInfo) error {
	p := same[0]
	if limit := r.opts.MaxBlobSize; limit > 0 && p.NarSize > limit {
		return &sourceError{hint.Wrap(
			fmt.Errorf("%s has a NAR of %d bytes, and the registry takes no blob over %d", p.Path, p.NarSize, limit),
			"leave it out with --exclude-path, or split it into several outputs")}
	}
	start := time.Now()
	if p.NarSize <= smallNAR {
		return r.small(ctx, same, start)
	}
	desc, list, err := r.fromStore(ctx, p, func(write func(io.Writer) error) (v1.Descriptor, error) {
		return r.repo.WriteBlob(ctx, write)
	})
	if err != nil {
		return err
	}
	sum, err := rawDigest(desc.Digest)
	if err != nil {
		return err
	}
	res := Result{Compression: r.codec.name, FileHash: sum, FileSize: desc.Size, Blob: desc, Sent: desc.Size}
	res.list(list)
	return r.deliver(ctx, same, res, start)
}

// deliver hands a NAR that the registry has taken to the caller, once for each
// path that has it.
func (r *run) deliver(ctx context.Context, same []nix.PathInfo, res Result, start time.Time) error {
	r.mu.Lock()
	r.inRow = 0
	r.mu.Unlock()
	for i, p := range same {
		res.Info = p
		if i > 0 {
			res.Sent = 0
			r.opts.Progress.Add(p.NarSize)
		}
		if err := r.done(ctx, res); err != nil {
			return &stopError{err}
		}
		r.opts.Progress.Done(p.Path, p.NarSize, res.Sent, time.Since(start))
	}
	return nil
}

type silent struct{}

func (silent) Add(int64)                                {}
func (silent) Done(string, int64, int64, time.Duration) {}
