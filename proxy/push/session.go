package push

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
)

const (
	// rootEvery is the least time between two roots while paths are pushed.
	rootEvery = 2 * time.Second
	// settleTimeout bounds the writing of a root.
	settleTimeout = 2 * time.Minute
	// lastTimeout bounds it when the server ends.
	lastTimeout = 30 * time.Second
	// lastPushes is how long pushes that are under way may take then.
	lastPushes = 10 * time.Second
)

// session is what has been pushed and is not recorded as published yet.
type session struct {
	mu      sync.Mutex
	pushed  map[string][]string // references by base name
	active  int                 // pushes under way
	last    time.Time           // when a client was here
	closing bool
}

// begin counts a push, unless the server ends.
func (s *session) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.active++
	return true
}

func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	s.last = time.Now()
}

// touch notes that a client is at work.
func (s *session) touch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = time.Now()
}

// add notes a path that has become durable.
func (s *session) add(e format.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pushed[e.Path.Base()] = e.References
}

// close lets no push begin any more, and waits until those under way have
// ended, for a bounded time.
func (s *session) close(limit time.Duration) {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		s.mu.Lock()
		s.closing = true
		active := s.active
		s.mu.Unlock()
		if active == 0 || time.Now().After(end) {
			return
		}
	}
}

// roots are the paths that no other path of the session refers to.
func (s *session) roots() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	below := map[string]bool{}
	for base, refs := range s.pushed {
		for _, r := range refs {
			below[r] = below[r] || r != base
		}
	}
	var bases []string
	for base := range s.pushed {
		if !below[base] {
			bases = append(bases, base)
		}
	}
	slices.Sort(bases)
	return bases
}

// atRest reports whether there is something to record, and if it is too early
// for that, for how long; 0 if there is nothing.
func (s *session) atRest(idle time.Duration) (rest bool, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch left := idle - time.Since(s.last); {
	case len(s.pushed) == 0:
		return false, 0
	case s.active > 0:
		return false, idle
	case left > 0:
		return false, left
	}
	return true, 0
}

// recorded forgets what a publication of the roots keeps.
func (s *session) recorded(roots []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for todo := slices.Clone(roots); len(todo) > 0; {
		base := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if refs, ok := s.pushed[base]; ok {
			delete(s.pushed, base)
			todo = append(todo, refs...)
		}
	}
}

// acknowledge notes a path that has become durable, and sees to it that others
// will see it.
func (p *Receiver) acknowledge(e format.Entry) {
	p.Counts.Paths.Add(1)
	p.session.add(e)
	p.kickRoot()
}

// kickRoot has the root written soon.
func (p *Receiver) kickRoot() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Run writes the root after pushes, and records them when they have come to
// rest, until ctx is cancelled. Then it waits for pushes that are under way,
// for a bounded time, and does both for the last time.
func (p *Receiver) Run(ctx context.Context) {
	pause := rootEvery
	due := time.Now().Add(p.opts.Idle)
	timer := time.NewTimer(p.opts.Idle)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			p.finish(context.WithoutCancel(ctx))
			return
		case <-p.kick:
			if soon := time.Now().Add(pause); soon.Before(due) {
				due = soon
				timer.Reset(pause)
			}
			continue
		case <-timer.C:
		}
		p.expire()
		p.listings.RemoveOld()
		rest, next := p.session.atRest(p.opts.Idle)
		if next == 0 {
			next = p.opts.Idle
		}
		if rest || p.group.Unsettled() {
			if p.settle(ctx, rest, settleTimeout) {
				pause = rootEvery
			} else {
				pause = min(2*pause, settleTimeout)
				next = min(next, pause)
			}
		}
		due = time.Now().Add(next)
		timer.Reset(next)
	}
}

// settle makes the root show what was pushed, and records it if that is to be
// done: unless it is recorded gc takes it for what an interrupted publish has
// left.
func (p *Receiver) settle(ctx context.Context, record bool, limit time.Duration) bool {
	ctx, cancel := registry.Within(ctx, limit)
	defer cancel()
	var pub *format.Publication
	roots := p.session.roots()
	if record && len(roots) > 0 {
		pub = &format.Publication{
			Time:      time.Now().UTC().Truncate(time.Millisecond),
			Selection: format.Selection(format.SelectPaths(p.opts.Series, roots)),
		}
		for _, r := range roots {
			pub.Roots = append(pub.Roots, format.Root{Path: r})
		}
	}
	recorded, err := p.group.Settle(ctx, pub)
	if recorded {
		p.log.Info("what was pushed is recorded as published", "paths", len(roots), "selection", pub.Selection)
		p.session.recorded(roots)
	}
	if err == nil {
		err = p.server.Reload(ctx, false)
	}
	if err != nil {
		p.log.Warn("what was pushed is stored, but others cannot see all of it yet", "error", err)
	}
	return err == nil
}

// finish ends all pushing.
func (p *Receiver) finish(ctx context.Context) {
	p.session.close(lastPushes)
	if len(p.session.roots()) > 0 || p.group.Unsettled() {
		p.settle(ctx, true, lastTimeout)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.nars {
		if n.held != nil {
			n.held.close()
		}
	}
	clear(p.nars)
}
