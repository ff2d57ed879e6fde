// Package pieces has buffers for what passes through. They bound how much of a
// NAR is in memory at a time.
package pieces

import "sync"

// Size is that of a buffer, in bytes.
const Size = 128 << 10

var pool = sync.Pool{New: func() any { return new([Size]byte) }}

// Get returns a buffer with anything in it. The caller gives it back with Put.
func Get() *[Size]byte { return pool.Get().(*[Size]byte) }

// Put takes a buffer back.
func Put(b *[Size]byte) { pool.Put(b) }
