package blobs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/lru"
)

const (
	// partPrefix starts the names of files that are not complete.
	partPrefix = "part-"
	lockName   = "lock"
	// maxAhead is how far before the fetch of a blob somebody who wants its
	// later part still waits for it.
	maxAhead = 32 << 20
	// diskPause is how long nothing is stored after a write has failed.
	diskPause = time.Minute
)

// Disk is a Store that keeps what it reads from another in a directory,
// whole and verified, up to a number of bytes; what was not used for longest
// makes room. Each blob is fetched once, however many readers want it at a
// time: they follow the file as it grows. Where the disk fails, a fetch does,
// or there is no room, readers go on with the other Store by themselves.
//
// Whoever can ask gets what is there, so caches whose readers differ need a
// directory each. It is safe for concurrent use.
type Disk struct {
	*diskStore
	next Store
}

// diskStore is a directory.
type diskStore struct {
	dir      string
	max      int64 // bytes
	log      *slog.Logger
	lock     *os.File
	patience time.Duration // for the first bytes of a fetch

	ctx     context.Context //nolint:containedctx // of fetches, which outlive who begins them; ended by Close
	end     context.CancelFunc
	fetches sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	held     *lru.Map[v1.Hash, int64] // sizes of files
	fetching map[v1.Hash]*diskFetch
	paused   time.Time // nothing is stored before
	unwell   bool      // the last write failed
	counts   DiskStatus
}

// DiskOptions configures OpenDisk. Dir and MaxSize are required.
type DiskOptions struct {
	// Dir is the directory. It is made if needed, and belongs to one process
	// at a time.
	Dir string
	// MaxSize is how much is kept, in bytes. A larger blob is never stored.
	MaxSize int64
	// Logger receives what operators would want to know; nil discards it.
	Logger *slog.Logger
}

// OpenDisk opens a directory with what an earlier process has left in it.
// The caller calls Close.
func OpenDisk(next Store, o DiskOptions) (*Disk, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Disk{&diskStore{
		dir: o.Dir, max: o.MaxSize, log: o.Logger, patience: packWait,
		held: lru.New[v1.Hash](0, func(size int64) int64 { return size }), fetching: map[v1.Hash]*diskFetch{},
	}, next}
	if err := d.prepare(); err != nil {
		return nil, fmt.Errorf("opening the NAR cache: %w", err)
	}
	d.ctx, d.end = context.WithCancel(context.Background())
	return d, nil
}

// From returns a Store that keeps what it reads from next in the same directory,
// within the same bound. What either has read, both have.
func (d *Disk) From(next Store) *Disk { return &Disk{d.diskStore, next} }

func (d *Disk) prepare() error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(d.dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	// the system drops it when its holder dies
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return hint.Wrap(fmt.Errorf("another process uses %s", d.dir), "give each proxy a --cache-dir of its own")
		}
		return err
	}
	d.lock = f
	if err := d.scan(); err != nil {
		f.Close()
		return err
	}
	return nil
}

// scan takes over what is there, and removes what was never completed.
func (d *Disk) scan() error {
	found, err := os.ReadDir(d.dir)
	if err != nil {
		return err
	}
	type old struct {
		blob v1.Hash
		size int64
		used time.Time
	}
	var files []old
	for _, entry := range found {
		name := entry.Name()
		if strings.HasPrefix(name, partPrefix) {
			if err := os.Remove(filepath.Join(d.dir, name)); err != nil {
				return err
			}
		}
		sum, err := hex.DecodeString(name)
		if err != nil || len(sum) != 32 || !entry.Type().IsRegular() {
			continue // not ours
		}
		if info, err := entry.Info(); err == nil {
			files = append(files, old{v1.Hash{Algorithm: "sha256", Hex: name}, info.Size(), info.ModTime()})
		}
	}
	slices.SortFunc(files, func(a, b old) int { return a.used.Compare(b.used) })
	for _, f := range files {
		d.held.Put(f.blob, f.size)
	}
	d.reserve(0) // the bound may have been lowered
	d.counts.Evicted = 0
	return nil
}

// Close ends the fetches and lets go of the directory. Readers that are open
// read on.
func (d *Disk) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.end()
	d.fetches.Wait()
	return d.lock.Close()
}

func (d *Disk) path(blob v1.Hash) string { return filepath.Join(d.dir, blob.Hex) }

// remove forgets a file and deletes it. Who reads it reads on.
func (d *Disk) remove(blob v1.Hash) {
	d.held.Remove(blob)
	if err := os.Remove(d.path(blob)); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.log.Warn("a file of the NAR cache could not be removed", "error", err)
	}
}

// busy is how many bytes are being fetched. It needs the lock.
func (d *Disk) busy() (n int64) {
	for _, g := range d.fetching {
		n += g.size
	}
	return n
}

// reserve makes room for n bytes, if what is being fetched leaves any. It needs
// the lock.
func (d *Disk) reserve(n int64) bool {
	n += d.busy()
	if n > d.max {
		return false
	}
	for d.held.Size()+n > d.max {
		blob, _, _ := d.held.RemoveOldest()
		d.remove(blob)
		d.counts.Evicted++
	}
	return true
}

// Holds reports whether a blob is read from the disk alone.
func (d *Disk) Holds(blob v1.Hash) bool {
	return d.held.Has(blob)
}

// Drop removes a blob that turned out to be damaged. It returns false if it is
// not there.
func (d *Disk) Drop(blob v1.Hash) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.held.Has(blob) {
		return false
	}
	d.counts.Damaged++
	d.remove(blob)
	return true
}

// Blob is that of Store. Only what is there already is read from the disk,
// since the size of the whole is not known here; see Sized.
func (d *Disk) Blob(ctx context.Context, digest v1.Hash, offset, length int64) (io.ReadCloser, error) {
	return d.open(ctx, digest, -1, offset, length)
}

// Sized returns the Store to read a blob of this size from, in bytes.
func (d *Disk) Sized(size int64) Store { return sizedDisk{d, size} }

type sizedDisk struct {
	*Disk
	size int64
}

func (s sizedDisk) Blob(ctx context.Context, digest v1.Hash, offset, length int64) (io.ReadCloser, error) {
	return s.open(ctx, digest, s.size, offset, length)
}

func (d *Disk) open(ctx context.Context, blob v1.Hash, size, offset, length int64) (io.ReadCloser, error) {
	if r := d.reader(ctx, blob, size, offset, length); r != nil {
		return r, nil
	}
	return d.next.Blob(ctx, blob, offset, length)
}

// reader returns a reader of a blob's file, which is begun if need be; nil if
// there should be none.
func (d *Disk) reader(ctx context.Context, blob v1.Hash, size, offset, length int64) *diskReader {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := &diskReader{from: d, ctx: ctx, blob: blob, off: offset, left: length}
	if has, ok := d.held.Get(blob); ok {
		if length < 0 {
			r.left = has - offset
		}
		var err error
		switch r.file, err = os.Open(d.path(blob)); {
		case err == nil && (size >= 0 && size != has || r.left > has-offset): // cut short while nobody looked
			r.file.Close()
			d.counts.Damaged++
		case err == nil:
			d.counts.Hits++
			now := time.Now()
			_ = os.Chtimes(d.path(blob), now, now) // for the order after a restart
			return r
		}
		d.remove(blob)
	}
	if size < 0 || offset > size || length < 0 || length > size-offset {
		return nil
	}
	if r.fetch = d.fetching[blob]; r.fetch != nil && r.fetch.size == size && offset-r.fetch.progress() <= maxAhead {
		d.counts.Shared++
	} else if r.fetch == nil && offset <= maxAhead {
		r.fetch = d.begin(blob, size)
	} else {
		r.fetch = nil
	}
	if r.fetch == nil {
		d.counts.Bypassed++
		return nil
	}
	var err error
	if r.file, err = os.Open(r.fetch.name); err != nil {
		d.counts.Bypassed++
		return nil
	}
	return r
}
