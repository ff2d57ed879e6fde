// Package blobs has the bytes of a cache near at hand. It reads parts of blobs
// from a registry, and resumes transfers that break off. It keeps on disk and
// in memory what was read and verified. It does not know who wants them.
package blobs

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/breaker"
	"github.com/org/nixoci-action/internal/lru"
	"github.com/org/nixoci-action/internal/registry"
)

// Store opens parts of blobs; a registry.Repository is one. An error that
// wraps registry.ErrNotFound means that the blob is certainly absent.
type Store interface {
	Blob(ctx context.Context, digest v1.Hash, offset, length int64) (io.ReadCloser, error)
}

// ErrCorrupt means that there are other bytes than the index says.
var ErrCorrupt = errors.New("the NAR in the registry does not have its hash")

// ErrUnwell means that the registry is left alone for a moment.
var ErrUnwell = errors.New("the registry did not answer lately")

// Sized tells a Store that keeps whole blobs how large this one is, in bytes.
func Sized(s Store, size int64) Store {
	if d, ok := s.(interface{ Sized(size int64) Store }); ok {
		return d.Sized(size)
	}
	return s
}

// Drop tells a Store that keeps blobs that this one is damaged, and reports
// whether it was kept.
func Drop(s Store, blob v1.Hash) bool {
	d, ok := s.(interface{ Drop(blob v1.Hash) bool })
	return ok && d.Drop(blob)
}

// Holds reports whether a Store needs no registry to deliver this one.
func Holds(s Store, blob v1.Hash) bool {
	d, ok := s.(interface{ Holds(blob v1.Hash) bool })
	return ok && d.Holds(blob)
}

// Health is what is known of a registry. It is safe for concurrent use.
type Health struct {
	breaker.Breaker
	log *slog.Logger
}

// NewHealth returns that of a registry of which nothing is known.
func NewHealth(log *slog.Logger) *Health { return &Health{log: log} }

// Note notes whether the registry delivered. A client that went away says
// nothing about the registry, and a blob that is missing was an answer.
func (h *Health) Note(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if h.Report(err == nil || errors.Is(err, registry.ErrNotFound)) {
		h.log.Warn("the registry does not deliver; until it does, NARs are not found and Nix goes elsewhere or builds", "error", err)
	}
}

// corruptTTL is how long what does not have its hash is "not found". It ends
// because the registry's copy may be repaired.
const corruptTTL = 10 * time.Minute

// Corrupt are hashes of NARs and blobs that are not what they should be. They
// are forgotten after ten minutes. It is safe for concurrent use.
type Corrupt struct{ of *lru.Map[string, struct{}] }

// NewCorrupt returns an empty set.
func NewCorrupt() Corrupt { return Corrupt{lru.New[string, struct{}](10_000, nil)} }

// Add adds a hash, without its algorithm.
func (c Corrupt) Add(hash string) { c.of.PutFor(hash, struct{}{}, corruptTTL) }

// Has reports whether a hash is one of them.
func (c Corrupt) Has(hash string) bool { return c.of.Has(hash) }
