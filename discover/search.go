package discover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/org/nixoci-action/internal/nix"
)

// search evaluates a flake in processes that go over what it has, in order. What
// they find they say at once, so that ending one loses no more than what it
// evaluates at that moment.
type search struct {
	eval  *evaluator
	opts  Options
	attr  Attr // that the reference names, or nil
	found func([]Output)
	// fetched reports whether the flake's inputs are in the store.
	fetched func() bool

	mu          sync.Mutex
	cancel      context.CancelCauseFunc // ends everything
	tree        *tree
	known       bool // the flake has been read
	names       []string
	running     []*worker
	wake        chan struct{}
	workers     int       // that may run at a time
	measured    time.Time // when their memory was
	evaluations int
	evaluated   int // nodes
	examined    int // processes, that is
	strikes     int // workers that have ended for no reason that can be named

	skipped  []pending
	outputs  []Output
	arriving []Output // to be resolved and told
	arrived  chan struct{}
}

// worker is one process that evaluates.
type worker struct {
	nix.Process
	cancel   context.CancelCauseFunc
	examines bool
	backward bool
	stopped  bool // its messages do not count any more
	failure  error
	started  time.Time
	first    time.Time // when it had evaluated its first node
	nodes    int       // that it has evaluated

	place  *node     // where it is, or has been last, or will begin
	now    *node     // that it evaluates
	since  time.Time // when it began that
	memory int64     // as measured last
	before int64     // when it began its node
	least  int64     // after its first node
	growth int64     // by the node that took most

	bare, records finding            // of what it examines
	held          map[*node][]Output // what is sure only when it has ended
}

// finding is what there is at a node.
type finding struct {
	outputs []Output
	skipped []pending
}

// Limits of an evaluation.
const (
	// maxMessages bounds the processes that only learn Nix's message.
	maxMessages = 40
	// maxStrikes bounds processes that end without having done anything.
	maxStrikes = 3
	// patience is how much work must be left for another process, and tick how
	// often it is looked for, and memory measured.
	patience = 500 * time.Millisecond
	tick     = 100 * time.Millisecond
)

var (
	errMet     = errors.New("another process does the rest")
	errRestart = errors.New("its memory is to be freed")
	errMemory  = errors.New("it takes more memory than there is for evaluation")
	errGiveUp  = errors.New("evaluation is given up")
)

// run evaluates until everything is known, or time or evaluations are used up.
func (s *search) run(ctx context.Context) error {
	tasks, err := s.tasks(ctx)
	if err != nil {
		return err
	}
	s.tree = newTree(tasks)
	s.workers = s.opts.Jobs
	s.wake, s.arrived = make(chan struct{}, 1), make(chan struct{}, 1)
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.cancel = cancel
	delivered := make(chan struct{})
	go func() {
		defer close(delivered)
		s.deliver(work)
	}()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for s.step(work) {
		select {
		case <-s.wake:
		case <-ticker.C:
		}
	}
	close(s.arrived)
	<-delivered
	s.mu.Lock()
	defer s.mu.Unlock()
	if cause := context.Cause(work); cause != nil && !errors.Is(cause, errGiveUp) && (!errors.Is(cause, context.DeadlineExceeded) || !s.known) {
		return cause
	}
	s.giveUp(ctx)
	return nil
}

// step starts processes, and reports whether anything is left to wait for.
func (s *search) step(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.measure()
	for ctx.Err() == nil && s.evaluations < s.opts.MaxEvaluations && s.start(ctx) {
	}
	return len(s.running) > 0
}

// start starts one process, if there is something for it.
func (s *search) start(ctx context.Context) bool {
	if len(s.running) >= s.workers || !s.known && len(s.running) > 0 || !s.affords() {
		return false
	}
	if slices.ContainsFunc(s.running, func(p *worker) bool { return p.examines && p.place.alone }) {
		return false
	}
	gaps := s.tree.gaps(s.running)
	for _, g := range gaps {
		if g.before == nil && g.after == nil {
			n, backward := g.entry()
			s.visit(ctx, n, backward)
			return true
		}
	}
	var alone *node
	for _, n := range s.tree.items() {
		switch {
		case n.state != suspect:
		case !n.alone:
			s.examine(ctx, n)
			return true
		case alone == nil:
			alone = n
		}
	}
	for _, g := range gaps {
		if n, backward := g.entry(); s.pays(g, n) {
			s.visit(ctx, n, backward)
			return true
		}
	}
	if alone != nil && len(s.running) == 0 {
		s.examine(ctx, alone)
		return true
	}
	return false
}

// pays reports whether another process in a gap is worth what it evaluates once
// more: what the first node has in common with others, such as nixpkgs.
// Configurations have little in common. But two processes would both fetch the
// inputs that are not there yet.
func (s *search) pays(g gap, n *node) bool {
	if configuration(n) {
		return s.evaluated > 0 || s.fetched()
	}
	p := cmp.Or(g.before, g.after)
	if p.nodes < 2 {
		return false
	}
	left := time.Duration(len(g.nodes)) * time.Since(p.first) / time.Duration(p.nodes-1)
	return left > patience && left > 2*p.first.Sub(p.started)
}

// configuration reports whether a node is a configuration of a whole system, or
// all of them.
func configuration(n *node) bool {
	kind := Kind(n.path[0])
	return kind == NixOS || kind == Darwin || kind == Home
}

// visit starts a process that evaluates a node and what comes after it.
func (s *search) visit(ctx context.Context, n *node, backward bool) {
	task := s.tree.task(n)
	args := arguments{Op: "visit", Backward: backward, From: n.path[len(task.path):]}
	for _, t := range s.tree.root.members {
		args.Tasks = append(args.Tasks, t.path)
	}
	i := slices.Index(s.tree.root.members, task)
	if backward {
		args.Tasks = args.Tasks[:i+1]
		slices.Reverse(args.Tasks)
	} else {
		args.Tasks = args.Tasks[i:]
	}
	s.launch(ctx, args, &worker{place: n, backward: backward})
}

// examine starts a process that evaluates one node so that its error ends the
// evaluation. A leaf may work out nevertheless: then only its meta is broken, or
// it has failed for want of something that is there now.
func (s *search) examine(ctx context.Context, n *node) {
	s.examined++
	s.launch(ctx, arguments{Op: "examine", Path: n.path}, &worker{place: n, examines: true, now: n, since: time.Now()})
}

func (s *search) launch(ctx context.Context, args arguments, p *worker) {
	s.evaluations++
	p.started, p.held = time.Now(), map[*node][]Output{}
	p.place.state, p.place.by = running, p
	s.running = append(s.running, p)
	ctx, p.cancel = context.WithCancelCause(ctx)
	started := func(q nix.Process) {
		s.mu.Lock()
		defer s.mu.Unlock()
		p.Process = q
	}
	told := func(m message, err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if p.stopped {
			return
		}
		if err == nil {
			err = s.told(p, m)
		}
		if err != nil {
			s.cancel(fmt.Errorf("decoding the evaluation's result: %w", err))
		}
	}
	go func() {
		defer p.cancel(nil)
		_, err := s.eval.run(ctx, args, p.examines, started, told)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ended(ctx, p, err)
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}()
}

// told takes in what a process says.
func (s *search) told(p *worker, m message) (err error) {
	if len(m.At) > 0 {
		s.begins(p, s.node(m.At))
		return nil
	}
	if len(m.Of) == 0 {
		s.names = m.Names
		if !s.known {
			s.known = true
			for _, t := range s.tree.root.members {
				if !slices.Contains(m.Names, t.path[0]) {
					t.state = done
				}
			}
		}
		return nil
	}
	n := s.node(m.Of)
	p.now = nil
	if n.state == done || n.state == suspect || n.by != nil && n.by != p {
		return nil // another was first
	}
	if m.Bare != nil {
		p.now = n
		p.bare, err = parseRecords(m.Bare)
		return err
	}
	if m.Records != nil {
		found, err := parseRecords(m.Records)
		switch {
		case err != nil:
			return err
		case p.examines:
			p.records = found
		default:
			if len(found.outputs) > 0 {
				s.counts(p)
			}
			s.settle(p, n, found)
		}
		return nil
	}
	for _, name := range m.Excluded {
		path := append(slices.Clone(n.path), name)
		s.skip(Skipped{Attr: path, Kind: Kind(path[0]), Reason: Excluded})
	}
	s.tree.expand(n, m.Names)
	return nil
}

// node returns the node of a path. In impure evaluation a set may have other
// members the second time.
func (s *search) node(path Attr) *node {
	if n := s.tree.find(path); n != nil {
		return n
	}
	parent := s.tree.root
	if len(path) > 1 {
		if n := s.tree.find(path[:len(path)-1]); n != nil && n.open {
			parent = n
		}
	}
	return s.tree.add(parent, path)
}

// begins takes in that a process is about to evaluate a node.
func (s *search) begins(p *worker, n *node) {
	p.now = nil
	switch {
	case n.open: // on the way
		return
	case n.state == running && n.by == p, n.state == waiting:
	default:
		s.stop(p, errMet)
		return
	}
	if p.nodes > 0 && s.exceeds(p, n) {
		s.stop(p, errRestart)
		return
	}
	n.state, n.by = running, p
	p.place, p.now, p.since, p.before = n, n, time.Now(), p.memory
}

// counts takes in that a process has evaluated a leaf.
func (s *search) counts(p *worker) {
	s.evaluated++
	p.nodes++
	if p.nodes == 1 {
		p.first, p.least = time.Now(), p.memory
	}
}

// settle takes in what there is at a node.
func (s *search) settle(p *worker, n *node, f finding) {
	n.state, n.by = done, nil
	outputs := f.outputs
	for _, sk := range f.skipped {
		switch {
		case sk.Reason == EvaluationError && sk.Message == "":
			n.state, n.failed = suspect, sk
		case sk.Reason == UnknownPath && s.opts.Floating:
			outputs = append(outputs, sk.floating)
		default:
			s.skipped = append(s.skipped, sk)
		}
	}
	if s.opts.DenyUnfree {
		outputs = slices.DeleteFunc(outputs, func(o Output) bool {
			if o.Unfree {
				s.skip(Skipped{Attr: o.Attr, Kind: o.Kind, System: o.System, Reason: Unfree, Message: "its license is not free"})
			}
			return o.Unfree
		})
	}
	if n.state == suspect && s.examined >= maxMessages {
		s.blame(n, "its evaluation fails; Nix's message was not asked for, as many others fail too")
	}
	if slices.ContainsFunc(outputs, lacksSources) {
		p.held[n] = outputs
		return
	}
	s.arrive(outputs)
}

// lacksSources reports whether a source of an output is not in the store. Since
// 2.35, Nix puts it there when the evaluation has ended.
func lacksSources(o Output) bool {
	return slices.ContainsFunc(o.Sources, func(path string) bool {
		_, err := os.Lstat(path)
		return err != nil
	})
}

// blame reports a node that cannot be evaluated.
func (s *search) blame(n *node, message string) {
	n.state = done
	if n.failed.Attr == nil {
		n.failed.Skipped = Skipped{Attr: n.path, Kind: Kind(n.path[0]), Reason: EvaluationError}
	}
	n.failed.Message = message
	s.skipped = append(s.skipped, n.failed)
}

// stop ends a process.
func (s *search) stop(p *worker, why error) {
	p.stopped, p.failure = true, why
	p.cancel(why)
	if !errors.Is(why, errMemory) {
		p.Kill() // it has only begun with its node
	}
	s.release(p)
}

// release gives back what a process has not done.
func (s *search) release(p *worker) {
	for _, n := range []*node{p.now, p.place} {
		if n != nil && n.state == running && n.by == p {
			n.state, n.by = waiting, nil
			if p.examines {
				n.state = suspect
			}
		}
	}
	for n := range p.held {
		n.state = waiting
	}
	p.held = nil
}

// ended takes in the end of a process.
func (s *search) ended(ctx context.Context, p *worker, err error) {
	s.running = slices.DeleteFunc(s.running, func(q *worker) bool { return q == p })
	switch {
	case p.stopped || ctx.Err() != nil:
		s.release(p)
	case err == nil && p.examines:
		s.acquit(p)
	case err == nil:
		s.arriveHeld(p)
		if p.place.by == p { // it has not even begun
			s.strike(p, errors.New("evaluating: Nix reports no error, but has not done it"))
		}
	default:
		s.broke(p, err)
	}
}

// broke takes in that something has ended a process.
func (s *search) broke(p *worker, err error) {
	var failed *nix.CommandError
	n := cmp.Or(p.now, p.place)
	switch {
	case !errors.As(err, &failed), !s.known && !p.examines:
		s.cancel(err) // it is no evaluation, or the flake itself is broken
	case n.state != running || n.by != p:
		s.strike(p, err)
	case !p.examines:
		s.release(p)
		n.state, n.alone = suspect, failed.Exit < 0
		if s.examined >= maxMessages && failed.Exit >= 0 {
			s.blame(n, failed.Message)
		}
		s.opts.Logger.Debug("an attribute has ended the evaluation", "attribute", n.path.String(), "error", err)
	case len(p.bare.outputs)+len(p.bare.skipped) > 0:
		s.settle(p, n, p.bare)
		s.arriveHeld(p)
	case failed.Exit < 0 && !n.alone: // a signal: for want of memory, most likely
		n.state, n.by, n.alone = suspect, nil, true
	default:
		n.by = nil
		s.blame(n, cmp.Or(failed.Message, failed.Err.Error()))
	}
}

// acquit takes in that a node could be examined.
func (s *search) acquit(p *worker) {
	n := p.place
	if n.open { // it is a set
		return
	}
	if slices.ContainsFunc(p.records.skipped, func(sk pending) bool { return sk.Reason == EvaluationError }) {
		p.records = p.bare
	}
	s.settle(p, n, p.records)
	s.arriveHeld(p)
}

// strike takes in that a process has ended, and no node is to blame.
func (s *search) strike(p *worker, err error) {
	s.release(p)
	if s.strikes++; s.strikes > maxStrikes {
		s.cancel(err)
	}
}

// affords reports whether there is memory for one process more.
func (s *search) affords() bool {
	total := s.memory()
	if len(s.running) == 0 || s.opts.Memory <= 0 {
		return true
	}
	return total+total/int64(len(s.running)) < s.opts.Memory
}

func (s *search) memory() (total int64) {
	for _, p := range s.running {
		total += p.memory
	}
	return total
}

// exceeds reports whether a process should free its memory before it evaluates
// another node.
func (s *search) exceeds(p *worker, n *node) bool {
	p.growth = max(p.growth, p.memory-p.before)
	if !configuration(n) && p.memory < p.least+p.least/2 {
		return false // that would free little
	}
	return s.opts.Memory > 0 && s.memory()+p.growth > s.opts.Memory-s.opts.Memory/10
}

// measureInterval is how often memory is measured: elsewhere than on Linux that
// takes a process.
func measureInterval() time.Duration {
	if runtime.GOOS == "linux" {
		return tick
	}
	return 10 * tick
}

// measure looks how much memory the processes take, and ends one if that is too
// much: of several the one that loses least.
func (s *search) measure() {
	if s.opts.Memory <= 0 || time.Since(s.measured) < measureInterval() {
		return
	}
	s.measured = time.Now()
	running := make([]nix.Process, len(s.running))
	for i, p := range s.running {
		running[i] = p.Process
	}
	for i, size := range nix.Resident(running) {
		s.running[i].memory = size
	}
	if s.memory() <= s.opts.Memory || slices.ContainsFunc(s.running, func(p *worker) bool { return p.stopped }) {
		return
	}
	var last *worker
	for _, p := range s.running {
		if last == nil || p.since.After(last.since) {
			last = p
		}
	}
	switch {
	case last == nil:
	case len(s.running) > 1:
		s.workers = max(1, s.workers-1)
		s.stop(last, errMemory)
	case last.nodes > 0: // it goes on in a process of its own
		s.stop(last, errMemory)
	default:
		n := cmp.Or(last.now, last.place)
		s.stop(last, errMemory)
		if n.state == waiting || n.state == suspect {
			s.blame(n, fmt.Sprintf("its evaluation takes more than the %d MiB of memory that there are for it", s.opts.Memory>>20))
		}
	}
}

// arrive hands on what is found.
func (s *search) arrive(outputs []Output) {
	s.arriving = append(s.arriving, outputs...)
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

// arriveHeld hands on what is sure now that the worker has ended.
func (s *search) arriveHeld(p *worker) {
	for _, outputs := range p.held {
		s.arrive(outputs)
	}
	p.held = nil
}

// deliver resolves what is found, and tells of it.
func (s *search) deliver(ctx context.Context) {
	for more := true; more; {
		_, more = <-s.arrived
		s.mu.Lock()
		outputs := s.arriving
		s.arriving = nil
		s.mu.Unlock()
		if len(outputs) == 0 {
			continue
		}
		// what is found when time is up is told as well
		ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		err := resolve(ask, s.eval.client, outputs)
		cancel()
		if err != nil {
			s.cancel(err)
			continue
		}
		s.outputs = append(s.outputs, outputs...)
		if s.found != nil {
			s.found(outputs)
		}
	}
}

// tasks are what to look at: the kinds, or the attribute that the reference
// names, of each system, where "nix build" looks for it first.
func (s *search) tasks(ctx context.Context) (tasks []Attr, err error) {
	if s.attr == nil {
		for _, k := range s.opts.Kinds {
			tasks = append(tasks, Attr{string(k)})
		}
		// what takes longest comes last, where a second process begins
		slices.SortStableFunc(tasks, func(a, b Attr) int {
			return cmp.Compare(rank(a), rank(b))
		})
		return tasks, nil
	}
	var places []Attr
	for _, system := range s.eval.args.Systems {
		places = append(places, slices.Concat(Attr{string(Packages), system}, s.attr), slices.Concat(Attr{string(LegacyPackages), system}, s.attr))
	}
	places = append(places, s.attr)
	s.evaluations++
	found, err := s.eval.find(ctx, places)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{} // a system, or "" for the attribute as it stands
	for _, p := range found {
		system := ""
		if len(p) > len(s.attr) {
			system = p[1]
		} else if len(tasks) > 0 {
			break
		}
		if !slices.Contains(AllKinds(), Kind(p[0])) {
			return nil, fmt.Errorf("attribute %s is of no kind that can be published; there are %v", p, AllKinds())
		}
		if !seen[system] {
			seen[system] = true
			tasks = append(tasks, p)
		}
	}
	if len(tasks) == 0 {
		return nil, fmt.Errorf("the flake has no attribute %s: looked for %v", s.attr, places)
	}
	return tasks, nil
}

func rank(task Attr) int {
	if configuration(&node{path: task}) {
		return 1
	}
	return 0
}

// unseen reports what the flake has of other kinds than those that are looked at
// by default.
func (s *search) unseen() {
	for _, name := range s.names {
		if !slices.Contains(DefaultKinds(), Kind(name)) {
			message := "it is no kind of output that can be built by itself"
			if slices.Contains(AllKinds(), Kind(name)) {
				message = "it is of a kind that has to be chosen"
			}
			s.skip(Skipped{Attr: Attr{name}, Kind: Kind(name), Reason: NotLookedAt, Message: message})
		}
	}
}

func (s *search) skip(sk Skipped) {
	s.skipped = append(s.skipped, pending{Skipped: sk})
}

// giveUp reports what is not evaluated: each row of members of a set once.
func (s *search) giveUp(ctx context.Context) {
	why := fmt.Sprintf("given up after %d evaluations", s.evaluations)
	if ctx.Err() != nil {
		why = fmt.Sprintf("given up after %v", s.opts.Timeout)
	}
	items := s.tree.items()
	for i := 0; i < len(items); i++ {
		first := items[i]
		if first.state == suspect {
			s.blame(first, "its evaluation fails; Nix's message is not known: "+why)
		}
		if first.state == done {
			continue
		}
		last := first
		n := 1
		for ; i+1 < len(items) && items[i+1].state == waiting && items[i+1].parent == first.parent && first.parent != s.tree.root; i++ {
			last = items[i+1]
			n++
		}
		attr, message := first.path, why
		if n > 1 {
			attr = first.parent.path
			message += fmt.Sprintf(", with %d attributes from %s to %s left", n, nix.Quote(first.path[len(first.path)-1]), nix.Quote(last.path[len(last.path)-1]))
		}
		s.skip(Skipped{Attr: attr, Kind: Kind(attr[0]), Reason: NotEvaluated, Message: message})
	}
}
