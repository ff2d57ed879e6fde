package index

import (
	"errors"
	"fmt"
	"math"
	"runtime/debug"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/hint"
)

// DefaultMemory bounds the memory for one cache's index, in bytes, unless the
// variable GOMEMLIMIT allows the program more. A million paths take about half of
// it.
const DefaultMemory = 2 << 30

// DamageError tells that a part of the index cannot be used: it was read, and is
// not what it should be, or it is too large. A reader serves the rest. A writer or
// a collection would go on without what that part says, and so does not begin.
type DamageError struct {
	// Tag is that of the segment, or of the root.
	Tag string
	Err error
}

func (e *DamageError) Error() string { return fmt.Sprintf("%s cannot be used: %v", e.Tag, e.Err) }
func (e *DamageError) Unwrap() error { return e.Err }

var errTooLarge = errors.New("the cache's index takes too much memory")

// damaged is what err means for a part of the index that was read: nil stays nil,
// and what only a newer program can read, or this process has no room for, is no
// damage.
func damaged(tag string, err error) error {
	if err == nil || errors.As(err, new(*format.TooNewError)) || errors.As(err, new(*reserveError)) {
		return err
	}
	return &DamageError{tag, err}
}

// reserveError is one of Options.Reserve.
type reserveError struct{ error }

func (e *reserveError) Unwrap() error { return e.error }

// reserve asks for memory before it is used.
func (c *Cache) reserve(bytes int64) error {
	bytes = max(bytes, 0)
	if c.opts.Reserve != nil {
		if err := c.opts.Reserve(bytes); err != nil {
			return &reserveError{err}
		}
	}
	limit := int64(DefaultMemory)
	if l := debug.SetMemoryLimit(-1); l != math.MaxInt64 {
		limit = max(limit, l)
	}
	if c.opts.Memory > 0 {
		limit = c.opts.Memory
	}
	if c.spent.Add(bytes) > limit {
		c.spent.Add(-bytes)
		return fmt.Errorf("%w: more than %d MiB", errTooLarge, limit>>20)
	}
	return nil
}

// held is what the segments in memory take, which no reading has to ask for again.
func (c *Cache) held() int64 {
	n := int64(0)
	for _, seg := range c.blobs {
		n += seg.Memory() / 2 * 3
	}
	return n
}

// Damage is an error if parts of the index could not be used, with what the user
// can do about it; it wraps a *DamageError for each.
func (s *Snapshot) Damage() error {
	if len(s.damage) == 0 {
		return nil
	}
	errs := make([]error, len(s.damage))
	for i, d := range s.damage {
		errs[i] = d
	}
	err := errors.Join(errs...)
	if errors.Is(err, errTooLarge) {
		return hint.Wrap(err, "set the variable GOMEMLIMIT, for example to 4GiB, to allow more memory")
	}
	return hint.Wrap(err, "nothing is written before this is mended: if a newer version says the same, delete that tag from the registry, and publish again what was in it")
}
