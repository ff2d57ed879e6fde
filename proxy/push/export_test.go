package push

import (
	"context"
	"time"
)

const (
	MaxDict       = maxDict
	SmallNAR      = smallNAR
	MaxLog        = maxLog
	MaxSmallExtra = maxSmallExtra
)

// Settle makes the root show what was pushed, and records it if that is to be
// done.
func (p *Receiver) Settle(ctx context.Context, record bool, limit time.Duration) bool {
	return p.settle(ctx, record, limit)
}

// Active is the number of pushes under way.
func (p *Receiver) Active() int {
	p.session.mu.Lock()
	defer p.session.mu.Unlock()
	return p.session.active
}
