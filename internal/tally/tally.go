// Package tally counts.
package tally

import "sync/atomic"

// Counter is a number that is counted in a sum as well. The zero value is 0,
// without a sum. It is safe for concurrent use.
type Counter struct {
	atomic.Int64
	// Sum is nil for none. It is set before the first Add.
	Sum *Counter
}

// Add adds to both.
func (c *Counter) Add(n int64) {
	c.Int64.Add(n)
	if c.Sum != nil {
		c.Sum.Add(n)
	}
}
