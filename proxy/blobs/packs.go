package blobs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/lru"
)

const (
	// maxPack is the largest blob that is held in memory as a whole, in bytes.
	maxPack = 32 << 20
	// packWait is how long a NAR waits for its pack before it is read alone.
	packWait = 5 * time.Second
	// packTimeout bounds the reading of a pack.
	packTimeout = 2 * time.Minute
	// packFailTTL is how long a pack that could not be read is not tried again.
	packFailTTL = 10 * time.Minute
	// maxSeenPacks bounds what is remembered of packs not held.
	maxSeenPacks = 10_000
)

// Packs holds whole packs in memory, the most recently used ones. The NARs of
// a pack belong to one publish, so whoever wants two of them is likely to want
// hundreds; one request then serves them all. The first one is read by itself:
// a lone path should not cost a pack.
//
// It only saves requests. Whatever it does not have is read from the registry
// as a range. It is safe for concurrent use.
type Packs struct {
	store  Store
	max    int64 // bytes
	log    *slog.Logger
	failed *lru.Map[string, struct{}]  // blobs that could not be read whole
	seen   *lru.Map[v1.Hash, struct{}] // asked for once
	shared *Budget                     // with other caches; nil if there are none

	mu      sync.Mutex
	closed  bool
	held    *lru.Map[v1.Hash, *pack]
	reading map[v1.Hash]*pack
	busy    int64 // bytes, of packs that are being read
}

type pack struct {
	size int64
	done chan struct{} // closed when data is there, or the pack could not be read
	data []byte        // nil if it could not
}

// NewPacks reads packs from store, and holds at most max bytes of them.
func NewPacks(store Store, max int64, log *slog.Logger) *Packs {
	return &Packs{
		store: store, max: max, log: log, failed: lru.New[string, struct{}](1000, nil),
		seen: lru.New[v1.Hash, struct{}](maxSeenPacks, nil),
		held: lru.New[v1.Hash](0, func(p *pack) int64 { return p.size }), reading: map[v1.Hash]*pack{},
	}
}

// ShareMemory has what is held also count for a Budget. It is called before
// anything is read.
func (c *Packs) ShareMemory(b *Budget) { c.shared = b }

// NAR returns the compressed NAR at l if its pack is in memory, or comes there
// soon. fetch tells whether the registry may be asked.
func (c *Packs) NAR(ctx context.Context, l format.Location, fetch bool) ([]byte, bool) {
	if !l.Packed() || l.BlobSize > min(maxPack, c.max) {
		return nil, false
	}
	p := c.pack(ctx, l, fetch)
	if p == nil {
		return nil, false
	}
	wait := time.NewTimer(packWait)
	defer wait.Stop()
	select {
	case <-p.done:
	case <-wait.C:
	case <-ctx.Done():
	}
	select {
	case <-p.done:
		if p.data != nil {
			return p.data[l.Offset : l.Offset+l.Size], true
		}
	default:
	}
	return nil, false
}

// pack returns l's pack, which may still be on its way; nil if it should not
// be waited for.
func (c *Packs) pack(ctx context.Context, l format.Location, fetch bool) *pack {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.held.Get(l.Blob)
	if !ok {
		p, ok = c.reading[l.Blob]
	}
	if ok {
		if p.size != l.BlobSize { // two entries disagree; the range read will tell
			return nil
		}
		return p
	}
	if !fetch || c.failed.Has(l.Blob.Hex) {
		return nil
	}
	if !c.seen.Has(l.Blob) {
		c.seen.Put(l.Blob, struct{}{})
		return nil
	}
	if !c.reserve(l.BlobSize) || !c.share(l.BlobSize) {
		return nil
	}
	p = &pack{size: l.BlobSize, done: make(chan struct{})}
	c.reading[l.Blob] = p
	// others wait for it too, so it outlives the request that began it
	go c.read(context.WithoutCancel(ctx), l.Blob, p)
	return p
}

// reserve makes room for n bytes, if packs that are being read leave any.
func (c *Packs) reserve(n int64) bool {
	for c.held.Size()+c.busy+n > c.max {
		if !c.drop() {
			return false
		}
	}
	c.busy += n
	return true
}

// drop drops the pack that was used least recently, if there is one.
func (c *Packs) drop() bool {
	_, p, ok := c.held.RemoveOldest()
	if ok {
		c.shared.give(p.size)
	}
	return ok
}

// share takes n bytes of what the caches have together, at the cost of this
// one's older packs, or undoes what reserve did.
func (c *Packs) share(n int64) bool {
	for c.closed || !c.shared.take(n) {
		if c.closed || !c.drop() {
			c.busy -= n
			return false
		}
	}
	return true
}

// Close gives back what the packs take. Whoever is being served from one goes
// on.
func (c *Packs) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for more := true; more; { // what is still being read is given back by read
		more = c.drop()
	}
}

func (c *Packs) read(ctx context.Context, blob v1.Hash, p *pack) {
	data, err := c.fetch(ctx, blob, p.size)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.log.Warn("a pack could not be read whole; its NARs are read one by one", "error", err)
		c.failed.PutFor(blob.Hex, struct{}{}, packFailTTL)
	}
	delete(c.reading, blob)
	c.busy -= p.size
	p.data = data
	if err != nil || c.closed {
		c.shared.give(p.size)
	} else {
		c.held.Put(blob, p)
	}
	close(p.done)
}

// fetch reads a whole blob, with its digest verified.
func (c *Packs) fetch(ctx context.Context, blob v1.Hash, size int64) ([]byte, error) {
	data, err := c.fetchOnce(ctx, blob, size)
	if errors.Is(err, ErrCorrupt) && Drop(c.store, blob) {
		c.log.Warn("a damaged file was removed from the NAR cache", "blob", blob.String())
		return c.fetchOnce(ctx, blob, size)
	}
	return data, err
}

func (c *Packs) fetchOnce(ctx context.Context, blob v1.Hash, size int64) ([]byte, error) {
	src := Read(ctx, Sized(c.store, size), blob, 0, size)
	defer src.Close()
	data := make([]byte, size)
	if err := src.Fill(data, packTimeout); err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != blob.Hex {
		return nil, fmt.Errorf("blob %s has the digest sha256:%x: %w", blob, sum, ErrCorrupt)
	}
	return data, nil
}
