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

// Expand sets what a NAR may become among the others, and at all, in bytes.
func (p *Receiver) Expand(plain, most int64) {
	p.expansion = expansion{plain: plain, most: most}
}

// HoldExpanding has NARs that expand wait until done.
func (p *Receiver) HoldExpanding() (done func()) {
	p.expanding <- struct{}{}
	return func() { <-p.expanding }
}

// Expanders is the number of NARs that expand, of a client that waits.
func (p *Receiver) Expanders(client string) int {
	p.expanders.mu.Lock()
	defer p.expanders.mu.Unlock()
	if t := p.expanders.keys[client]; t != nil {
		return t.used
	}
	return 0
}
