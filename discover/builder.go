package discover

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/org/nixoci-action/internal/nix"
)

// builder builds derivations, going around those that stop Nix, and watches
// what becomes valid.
type builder struct {
	client *nix.Client
	opts   BuildOptions
	given  map[string]bool // to Nix, as Realise takes it

	// fewer says that a process of Nix builds less than before, or has ended;
	// counted that a build has. done is closed when there are no more.
	fewer, counted, done chan struct{}

	telling sync.Mutex      // held while a function of the options is called
	told    map[string]bool // paths of which Valid was told

	mu      sync.Mutex
	systems map[string]string   // by .drv, as far as known
	paths   map[string][]string // of all outputs by .drv, as far as known
	begun   map[string]bool     // derivations whose outputs are not known to be valid
	busy    map[*process]int    // builds under way
	limit   int                 // on these; 0 as long as it is not known
	runs    int                 // of Nix
	failed  map[string]error    // by .drv, what Nix said when it last tried
}

// process stands for one process of Nix after the other.
type process struct {
	done int // builds
}

func newBuilder(client *nix.Client, o BuildOptions) *builder {
	return &builder{
		client: client, opts: o, given: map[string]bool{},
		fewer: make(chan struct{}, 1), counted: make(chan struct{}, 1), done: make(chan struct{}),
		told: map[string]bool{}, systems: map[string]string{}, paths: map[string][]string{}, begun: map[string]bool{},
		busy: map[*process]int{}, limit: max(o.MaxJobs, 0), failed: map[string]error{},
	}
}

// signal leaves a word for who waits for it, if none is there.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run builds what arrives, and returns all of it. Its error tells that nothing
// is known.
func (b *builder) run(ctx context.Context, arriving <-chan []Output) (all []Output, err error) {
	var wg sync.WaitGroup
	defer wg.Wait()
	var queue []string
	for {
		if len(queue) > 0 && ctx.Err() == nil && b.room(ctx) {
			p, todo := &process{}, queue
			b.count(p, 1)
			wg.Go(func() {
				b.build(ctx, p, todo)
				b.count(p, 0)
			})
			queue = nil
		}
		if arriving == nil && (len(queue) == 0 || ctx.Err() != nil) {
			return all, err
		}
		select {
		case outputs, more := <-arriving:
			if more {
				outputs, more = gather(outputs, arriving)
			}
			if !more {
				arriving = nil
			}
			if err != nil || len(outputs) == 0 {
				continue // somebody waits until it is taken
			}
			all = append(all, outputs...)
			var todo []string
			todo, err = b.take(ctx, outputs)
			queue = append(queue, todo...)
		case <-b.fewer:
		}
	}
}

// gatherTime is how long outputs wait for others to be looked at with: that takes
// a process, and one for each of a thousand would be slow.
const gatherTime = 200 * time.Millisecond

// gather adds what arrives within a moment, and reports whether more may arrive.
func gather(outputs []Output, arriving <-chan []Output) ([]Output, bool) {
	enough := time.After(gatherTime)
	for {
		select {
		case more, open := <-arriving:
			if !open {
				return outputs, false
			}
			outputs = append(outputs[:len(outputs):len(outputs)], more...)
		case <-enough:
			return outputs, true
		}
	}
}

// take returns what Nix has to be given so that nothing of outputs is missing.
func (b *builder) take(ctx context.Context, outputs []Output) (todo []string, err error) {
	b.mu.Lock()
	for i := range outputs {
		for _, d := range outputs[i].derivations() {
			b.systems[d.DrvPath] = outputs[i].System
		}
	}
	b.mu.Unlock()
	missing, err := b.look(ctx, outputs)
	if err != nil {
		return nil, err
	}
	for i := range outputs {
		for _, d := range outputs[i].derivations() {
			if lacks := d.without(missing); lacks != "" && !b.given[lacks] {
				b.given[lacks] = true
				todo = append(todo, lacks)
			}
		}
	}
	slices.Sort(todo)
	return todo, nil
}

// room reports whether another process of Nix may run. Each may run as many
// builds as Nix's configuration says, and that cannot be changed while it runs.
// So another one begins when no more than half as many are under way: there are
// never more than half as many again.
func (b *builder) room(ctx context.Context) bool {
	b.mu.Lock()
	processes, busy, limit := len(b.busy), 0, b.limit
	for _, n := range b.busy {
		busy += n
	}
	b.mu.Unlock()
	if processes == 0 {
		return true
	}
	if limit == 0 {
		n, err := b.client.MaxJobs(ctx)
		if err != nil || n <= 0 {
			n = 1 // or all is built on other machines
		}
		b.mu.Lock()
		b.limit, limit = n, n
		b.mu.Unlock()
	}
	return 2*busy <= limit
}

// count takes in how many builds a process runs; 0 if it has ended.
func (b *builder) count(p *process, running int) {
	b.mu.Lock()
	before := b.busy[p]
	if b.busy[p] = running; running == 0 {
		delete(b.busy, p)
	}
	b.mu.Unlock()
	if running < before {
		signal(b.fewer)
	}
}

// maxRuns bounds how often Nix is told to build. One output that stops it takes
// about two runs, or where Nix does not name it two for each halving. The good
// ones come first, so that a bound costs them nothing.
const maxRuns = 200

// build builds derivations, given as for nix.Client.Realise. Where Nix ends
// before it has tried all, they are built in two parts, and so on until what
// stops Nix is alone. What is built already costs nothing the second time. A
// build that failed is tried once more where another derivation stopped Nix.
func (b *builder) build(ctx context.Context, p *process, drvs []string) {
	if len(drvs) == 0 || !b.spend() || ctx.Err() != nil {
		return
	}
	p.done = 0
	event, ended := func(nix.BuildEvent) {}, func() {}
	if b.opts.Follow != nil {
		event, ended = b.opts.Follow()
	}
	err := b.client.Realise(ctx, drvs, nix.RealiseOptions{
		KeepGoing: true, MaxJobs: b.opts.MaxJobs, Quiet: b.opts.Follow != nil, Events: func(e nix.BuildEvent) {
			b.event(p, e)
			event(e)
		},
	})
	ended()
	b.mu.Lock()
	for _, d := range drvs {
		b.failed[drvOf(d)] = err
	}
	b.mu.Unlock()
	if len(drvs) > 1 && nix.Untried(err) {
		first, second := b.split(ctx, drvs, err)
		b.build(ctx, p, first)
		b.build(ctx, p, second)
	}
}

// spend takes one of the runs of Nix that there may be.
func (b *builder) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.runs++
	return b.runs <= maxRuns
}

// event takes in what a process of Nix does.
func (b *builder) event(p *process, e nix.BuildEvent) {
	switch e.Kind {
	case nix.BuildStarted:
		b.mu.Lock()
		b.begun[e.Drv] = true
		b.mu.Unlock()
	case nix.BuildCounts:
		b.count(p, max(e.Running, 1))
		if e.Done > p.done {
			p.done = e.Done
			signal(b.counted)
		}
	case nix.BuildStopped, nix.BuildLine, nix.BuildFetching, nix.BuildMessage:
	}
}

// checkInterval is the least time between looking twice which builds have
// ended: that takes a process.
const checkInterval = time.Second

// watch looks for what has become valid until there are no more builds.
func (b *builder) watch(ctx context.Context) {
	for {
		select {
		case <-b.counted:
		case <-b.done:
			return
		}
		b.check(ctx)
		select {
		case <-time.After(checkInterval):
		case <-b.done:
			return
		}
	}
}

// check tells of what was built since it was last called. Nix says that a build
// has ended, but before 2.34 not which. What it cannot find out, it tells later or
// never: nothing rests on it.
func (b *builder) check(ctx context.Context) {
	b.mu.Lock()
	byDrv := map[string][]string{}
	var unknown []string
	for drv := range b.begun {
		paths, ok := b.paths[drv]
		if byDrv[drv] = paths; !ok {
			unknown = append(unknown, drv)
		}
	}
	b.mu.Unlock()
	outputs, err := b.client.Outputs(ctx, unknown)
	if err != nil && ctx.Err() == nil { // what is wanted of them is looked at in the end
		b.mu.Lock()
		for _, drv := range unknown {
			delete(b.begun, drv)
			delete(byDrv, drv)
		}
		b.mu.Unlock()
	}
	for drv, paths := range outputs {
		// one that is content-addressed has no path before it is built
		byDrv[drv] = slices.DeleteFunc(slices.Collect(maps.Values(paths)), func(p string) bool { return p == "" })
	}
	missing, err := b.invalid(ctx, slices.Concat(slices.Collect(maps.Values(byDrv))...))
	if err != nil {
		return
	}
	var valid, built []string
	b.mu.Lock()
	for drv, paths := range byDrv {
		b.paths[drv] = paths
		if !slices.ContainsFunc(paths, func(p string) bool { return missing[p] }) {
			delete(b.begun, drv)
			valid = append(valid, paths...)
			if len(paths) > 0 { // else nobody knows
				built = append(built, drv)
			}
		}
	}
	b.mu.Unlock()
	if b.opts.Built != nil {
		slices.Sort(built)
		for _, drv := range built {
			b.opts.Built(drv)
		}
	}
	b.tell(valid)
}

// look returns which paths of outputs are missing, and tells of the others.
func (b *builder) look(ctx context.Context, outputs []Output) (missing map[string]bool, err error) {
	var all []string
	for i := range outputs {
		all = append(all, outputs[i].Paths()...)
	}
	if missing, err = b.invalid(ctx, all); err == nil {
		b.tell(slices.DeleteFunc(all, func(p string) bool { return missing[p] }))
	}
	return missing, err
}

func (b *builder) tell(valid []string) {
	if b.opts.Valid == nil {
		return
	}
	b.telling.Lock()
	defer b.telling.Unlock()
	var news []string
	for _, p := range valid {
		if !b.told[p] {
			b.told[p] = true
			news = append(news, p)
		}
	}
	if len(news) > 0 {
		b.opts.Valid(news)
	}
}

func (b *builder) invalid(ctx context.Context, paths []string) (map[string]bool, error) {
	list, err := b.client.Invalid(ctx, paths)
	if err != nil {
		return nil, err
	}
	set := make(map[string]bool, len(list))
	for _, p := range list {
		set[p] = true
	}
	return set, nil
}
