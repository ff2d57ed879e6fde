package collect

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/storepath"
)

// The model: publishers and collections work on one registry at the same time,
// one request after the other in an order drawn at random, with clocks that
// differ; any of them may die before any request; the registry collects, old
// roots come back, and time goes on in jumps. After every write a reader must
// see a cache in which nothing is missing that must be kept, and every path
// has its NAR and its references.
//
// Time is that of the bubble, so a history of months takes milliseconds.

const (
	// maxSkew is how far a clock may be off, and maxRun how long a publish or
	// a collection takes at most: together with 2*maxSkew less than PinAfter.
	maxSkew = 2 * time.Hour
	maxRun  = 4 * time.Hour
	margin  = 2*maxSkew + maxRun
)

var (
	modelSeed    = flag.Uint64("model.seed", 0, "repeat TestModel with the `SEED` that it has printed")
	modelHistory = flag.Int("model.history", 0, "begin with the `HISTORY`")

	// the race detector makes them many times slower
	modelHistories = flag.Int("model.histories", 2000, "how many `HISTORIES` TestModel goes through; a twentieth with the race detector")
)

func TestModel(t *testing.T) {
	n := *modelHistories
	if indextest.RaceEnabled {
		n /= 20
	}
	// the codecs make their channels on first use, outside of all bubbles
	list, err := format.EncodeSegmentList(format.SegmentList{})
	if err == nil {
		_, err = format.ParseSegmentList(list)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := format.EncodeDocument([]byte("x")); err != nil { // its encoders, too
		t.Fatal(err)
	}
	seed := *modelSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	for core := range modelCores {
		t.Run(strconv.Itoa(core), func(t *testing.T) {
			t.Parallel()
			documented, undocumented := 0, 0
			defer func() {
				// a registry that collects takes some, on their way
				if t.Logf("%d documents seen, %d missing", documented, undocumented); documented < 5*undocumented {
					t.Error("most documents are lost")
				}
			}()
			for i := *modelHistory + core; i < n && !t.Failed(); i += modelCores {
				synctest.Test(t, func(t *testing.T) {
					m := newModel(t, rand.New(rand.NewPCG(seed, uint64(i))))
					m.run()
					documented += m.documented
					undocumented += m.undocumented
					if t.Failed() {
						t.Logf("history %d of seed %d:\n%s", i, seed, strings.Join(m.trace, "\n"))
					}
				})
			}
		})
	}
}

// modelCores is how many histories run at once.
const modelCores = 2

type model struct {
	t      *testing.T
	r      *rand.Rand
	repo   *indextest.Memory
	reader *index.Cache
	policy PlanOptions

	versions map[string][]int // of the packages, by branch
	actors   []*actor
	held     map[v1.Hash]string // blobs that a reader needs who does not look again, and what for

	documented, undocumented int // documents seen, and not
	heldAt                   time.Time

	mu       sync.Mutex // for what actors write
	acks     []ack
	attempts []ack                // all publications that may have been recorded
	pushed   map[string]time.Time // what was added by itself, and when
	unpinned map[string]time.Time
	roots    []registry.Manifest
	trace    []string
}

// ack is a publication that a publish has recorded.
type ack struct {
	line, pin string
	time      time.Time // by the publisher's clock
	made      time.Time // really
	paths     map[string]bool
	tied      bool // with another of the same time: either may count as newer
}

func newModel(t *testing.T, r *rand.Rand) *model {
	repo := indextest.NewMemory()
	days := func(n ...int) time.Duration { return time.Duration(n[r.IntN(len(n))]) * 24 * time.Hour }
	return &model{
		t: t, r: r, repo: repo, reader: index.Open(repo, indextest.Quick()), versions: map[string][]int{}, unpinned: map[string]time.Time{}, pushed: map[string]time.Time{},
		policy: PlanOptions{
			Retention: Retention{Last: 1 + r.IntN(2), Age: days(0, 3, 30), PullRequests: days(1, 7)},
			Delay:     24 * time.Hour, SegmentLayers: 2 + r.IntN(30),
		},
	}
}

func (m *model) logf(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trace = append(m.trace, time.Now().Format("02 15:04 ")+fmt.Sprintf(format, args...))
}

func (m *model) run() {
	for range 20 + m.r.IntN(60) {
		if m.t.Failed() {
			break
		}
		switch n := m.r.IntN(100); {
		case n < 26:
			m.start("publish", m.publisher())
		case n < 38:
			m.start("push", m.pusher())
		case n < 45:
			m.start("gc", m.collector())
		case n < 50:
			m.repo.GarbageCollect()
			m.logf("the registry collects")
			m.check()
		case n < 53:
			m.restore()
		case n < 75:
			m.advance()
		}
		for range m.r.IntN(30) {
			m.step()
		}
	}
	m.finish()
}

// advance lets time pass: little while somebody works.
func (m *model) advance() {
	d := time.Duration(m.r.IntN(30*24)) * time.Hour / time.Duration(1+m.r.IntN(20))
	for _, a := range m.actors {
		d = min(d, maxRun-time.Since(a.started)-time.Minute)
	}
	if d > 0 {
		time.Sleep(d)
		m.logf("%s later", d)
	}
}

// restore brings an old root back, as a restored backup or a slow writer does.
func (m *model) restore() {
	if len(m.roots) > 0 {
		old := m.roots[m.r.IntN(len(m.roots))]
		if _, err := m.repo.PutManifest(context.Background(), format.RootTag, old); err == nil {
			m.logf("an old root comes back")
		}
	}
}

// step lets one request of one actor through, or kills an actor.
func (m *model) step() {
	synctest.Wait()
	m.actors = slices.DeleteFunc(m.actors, (*actor).done)
	var waiting []*actor
	for _, a := range m.actors {
		if time.Since(a.started) > maxRun-10*time.Minute {
			m.logf("%s is stopped", a.name)
			a.kill()
			continue
		}
		if a.first() != "" {
			waiting = append(waiting, a)
		}
	}
	if len(waiting) == 0 {
		time.Sleep(time.Second) // they wait for time to pass
		return
	}
	a := waiting[m.r.IntN(len(waiting))]
	if m.r.IntN(150) == 0 {
		m.logf("%s dies before %s", a.name, a.first())
		a.kill()
		return
	}
	req := a.next(m.r)
	synctest.Wait()
	if req.write {
		m.logf("%s: %s", a.name, req.what)
	}
	if req.write && req.what != putBlob { // which nobody sees
		if root, err := m.repo.Manifest(context.Background(), format.RootTag); err == nil {
			m.roots = append(m.roots, root)
			m.roots = m.roots[max(0, len(m.roots)-4):]
		}
		m.check()
	}
}

// check reads the cache and compares it with what must be there.
func (m *model) check() {
	m.t.Helper()
	c := m.reader
	if m.r.IntN(8) == 0 {
		c = index.Open(m.repo, indextest.Quick())
	}
	s, err := c.Sweep(context.Background())
	if err != nil {
		m.t.Errorf("reading: %v", err)
		return
	}
	s.All(func(e format.Entry) bool {
		m.checkEntry(s, &e)
		return true
	})
	m.checkHeld(s)
	for key, why := range m.mustKeep() {
		if !s.Has(modelPath(key).HashPart) {
			m.t.Errorf("%s is missing: %s", key, why)
		}
	}
}

// checkHeld makes sure that who knows an older state still gets every NAR.
func (m *model) checkHeld(s *index.Snapshot) {
	m.t.Helper()
	if m.held == nil || time.Since(m.heldAt) > m.policy.Delay-2*maxSkew {
		m.held, m.heldAt = map[v1.Hash]string{}, time.Now()
		s.All(func(e format.Entry) bool {
			for _, l := range e.DocumentLocations() {
				m.held[l.Blob] = "a document of " + e.Path.Name
			}
			m.held[e.NAR.Blob] = "the NAR of " + e.Path.Name
			return true
		})
	}
	for blob, what := range m.held {
		if _, err := m.repo.BlobSize(context.Background(), blob); err != nil {
			m.t.Errorf("%s is lost for who has read the index %s ago", what, time.Since(m.heldAt))
		}
	}
}

func (m *model) checkEntry(s *index.Snapshot, e *format.Entry) {
	m.t.Helper()
	for _, ref := range e.References {
		if !s.Has(ref[:32]) && !upstream(ref[33:]) {
			m.t.Errorf("%s refers to %s, which is missing", e.Path.Name, ref)
		}
	}
	body, err := m.repo.Blob(context.Background(), e.NAR.Blob, 0, -1)
	if err != nil {
		m.t.Errorf("%s has no NAR: %v", e.Path.Name, err)
		return
	}
	b, _ := io.ReadAll(body)
	if part := b[e.NAR.Offset : e.NAR.Offset+e.NAR.Size]; !bytes.Equal(part, modelNAR(e.Path.Name)) {
		m.t.Errorf("%s has the NAR %q", e.Path.Name, part)
	}
	m.checkExtras(s, e)
}

// checkExtras makes sure that what an entry says of documents is true, and
// that its realisation survives whatever happens to it. A document itself may
// be lost, if the registry collects between it and its segment.
func (m *model) checkExtras(s *index.Snapshot, e *format.Entry) {
	m.t.Helper()
	m.repo.Mu.Lock()
	defer m.repo.Mu.Unlock()
	for _, x := range []struct {
		l    format.Location
		want []byte
	}{{e.Listing, modelDocuments(e.Path.Name).Listing}, {e.Log, modelDocuments(e.Path.Name).Log}} {
		if x.l.Size == 0 {
			m.undocumented++
			continue
		}
		m.documented++
		b, ok := m.repo.Blobs[x.l.Blob]
		if !ok || int64(len(b)) != x.l.BlobSize {
			m.t.Errorf("%s has lost a document: there are %d bytes of %d", e.Path.Name, len(b), x.l.BlobSize)
			continue
		}
		want, err := format.EncodeDocument(x.want)
		if err != nil {
			m.t.Fatal(err)
		}
		if got := b[x.l.Offset : x.l.Offset+x.l.Size]; !bytes.Equal(got, want) {
			m.t.Errorf("%s has another document: %q", e.Path.Name, got)
		}
	}
	r, path, ok := s.LookupRealisation(indextest.ModelRealisation(e.Path.Name).ID)
	if !ok || path.Path != e.Path || !r.Equal(indextest.ModelRealisation(e.Path.Name)) {
		m.t.Errorf("%s has lost its realisation: got %+v of %s", e.Path.Name, r, path.Path)
	}
}

// mustKeep are the paths that retention promises, to be on the safe side of
// clocks that differ.
func (m *model) mustKeep() map[string]string {
	keep := map[string]string{}
	add := func(a ack, why string) {
		for p := range a.paths {
			keep[p] = why
		}
	}
	newest, pins := map[string]ack{}, map[string]ack{}
	see := func(last map[string]ack, key string, a ack) {
		switch a.time.Compare(last[key].time) {
		case 1:
			last[key] = a
		case 0:
			last[key] = ack{time: a.time, tied: true}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for p, at := range m.pushed {
		if time.Since(at)+margin < m.policy.Delay {
			keep[p] = "pushed " + at.String()
		}
	}
	for _, a := range m.attempts {
		see(newest, a.line, a)
		if a.pin != "" {
			see(pins, a.pin, a)
		}
	}
	for _, a := range m.acks {
		age := time.Since(a.made) + margin
		switch pr := strings.HasPrefix(a.line, "refs/pull/"); {
		case pr && age < m.policy.Retention.PullRequests:
			add(a, "pull request")
		case !pr && age < m.policy.Retention.Age:
			add(a, "young publication of "+a.line)
		case !pr && a.time.Equal(newest[a.line].time) && !newest[a.line].tied:
			add(a, "newest of "+a.line)
		}
		if end, ended := m.unpinned[a.pin]; a.pin != "" && a.time.Equal(pins[a.pin].time) && !pins[a.pin].tied && (!ended || end.Add(margin).Before(a.made)) {
			add(a, "pin "+a.pin)
		}
	}
	return keep
}

// finish ends all work and collects until nothing more can go; what is left
// must be needed.
func (m *model) finish() {
	for _, a := range m.actors {
		a.kill()
	}
	time.Sleep(time.Hour) // until they are gone
	for round := 1; ; round++ {
		c := index.Open(m.repo, indextest.Quick())
		s, err := c.Sweep(context.Background())
		if err != nil {
			m.t.Errorf("reading at the end: %v", err)
			return
		}
		o := m.policy
		o.Now = time.Now()
		p, err := NewPlan(s, o)
		var done Collected
		if err == nil {
			done, err = Run(context.Background(), c, p)
		}
		if err != nil {
			m.t.Errorf("collecting at the end: %v", err)
			return
		}
		waiting := slices.ContainsFunc(done.Waiting, func(r format.Retired) bool { return r.Tag != "" })
		if len(done.Segments) == 0 && done.Deleted == 0 && !waiting {
			break
		}
		if round == 10 {
			m.t.Errorf("the tenth collection in a row still changes something: %+v", done)
			return
		}
		time.Sleep(40 * 24 * time.Hour)
	}
	m.repo.GarbageCollect()
	m.logf("the end")
	m.check()
	m.checkRest()
}

// checkRest looks for what nobody needs.
func (m *model) checkRest() {
	s, err := index.Open(m.repo, indextest.Quick()).Sweep(context.Background())
	if err != nil {
		m.t.Error(err)
		return
	}
	live := map[string]bool{format.RootTag: true}
	for _, info := range s.Segments() {
		live[info.Tag] = true
	}
	for tag := range m.repo.Tagged {
		if !live[tag] {
			m.t.Errorf("%s is still there", tag)
		}
	}
	used := map[v1.Hash]int64{}
	documents := map[format.Location]bool{} // outputs of one build share a log
	s.All(func(e format.Entry) bool {
		used[e.NAR.Blob] += e.NAR.Size
		for _, l := range e.DocumentLocations() {
			if !documents[l] {
				documents[l] = true
				used[l.Blob] += l.Size
			}
		}
		return true
	})
	for _, man := range m.repo.Manifests {
		for _, l := range indextest.Layers(man) {
			if l.MediaType == format.MediaExtras && 2*used[l.Digest] < l.Size {
				m.t.Errorf("a blob with %d bytes of documents is there, of which %d are needed", l.Size, used[l.Digest])
			}
		}
		for _, h := range indextest.Named(man)[2:] {
			if b, ok := m.repo.Blobs[h]; ok && bytes.HasPrefix(b, []byte("compressed NAR of ")) && 2*used[h] < int64(len(b)) {
				m.t.Errorf("a blob of %d bytes is there, of which %d are needed: %q", len(b), used[h], b)
			}
		}
	}
}

// actor is a publish or a collection at work. Each of its requests waits until
// it is let through.
type actor struct {
	*indextest.Memory
	name    string
	started time.Time
	skew    time.Duration

	mu       sync.Mutex
	pending  []*request
	dead     bool
	finished bool
}

type request struct {
	what  string
	write bool
	let   chan error
}

func (m *model) start(kind string, work func(*actor) error) {
	if len(m.actors) >= 3 {
		return
	}
	a := &actor{
		Memory: m.repo, name: fmt.Sprintf("%s %d", kind, m.r.IntN(1000)), started: time.Now(),
		skew: time.Duration(m.r.Int64N(int64(2*maxSkew))) - maxSkew,
	}
	m.actors = append(m.actors, a)
	m.logf("%s starts", a.name)
	go func() {
		err := work(a)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.finished = true
		if err != nil && !a.dead {
			m.t.Errorf("%s failed: %v", a.name, err)
		}
	}()
}

func (a *actor) done() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.finished
}

// first is what a waits for; "" if for nothing.
func (a *actor) first() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.pending) == 0 {
		return ""
	}
	return a.pending[0].what
}

func (a *actor) now() time.Time { return time.Now().Add(a.skew) }

func (a *actor) options() index.Options { return index.Options{Settle: time.Millisecond, Now: a.now} }

// wait holds a request back until it is its turn.
func (a *actor) wait(what string, write bool) error {
	a.mu.Lock()
	if a.dead {
		a.mu.Unlock()
		return indextest.ErrCrash
	}
	r := &request{what, write, make(chan error)}
	a.pending = append(a.pending, r)
	// goroutines come in any order; histories should not
	slices.SortStableFunc(a.pending, func(a, b *request) int { return strings.Compare(a.what, b.what) })
	a.mu.Unlock()
	return <-r.let
}

func (a *actor) next(r *rand.Rand) *request {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := r.IntN(len(a.pending))
	req := a.pending[i]
	a.pending = slices.Delete(a.pending, i, i+1)
	req.let <- nil
	return req
}

func (a *actor) kill() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dead = true
	for _, r := range a.pending {
		r.let <- indextest.ErrCrash
	}
	a.pending = nil
}

func (a *actor) Manifest(ctx context.Context, ref string) (registry.Manifest, error) {
	if err := a.wait("read "+ref, false); err != nil {
		return registry.Manifest{}, err
	}
	return a.Memory.Manifest(ctx, ref)
}

func (a *actor) Tags(ctx context.Context) ([]string, error) {
	if err := a.wait("list tags", false); err != nil {
		return nil, err
	}
	return a.Memory.Tags(ctx)
}

const putBlob = "put a blob"

func (a *actor) PutBlob(ctx context.Context, b []byte) (v1.Descriptor, error) {
	if err := a.wait(putBlob, true); err != nil {
		return v1.Descriptor{}, err
	}
	return a.Memory.PutBlob(ctx, b)
}

func (a *actor) PutManifest(ctx context.Context, tag string, man registry.Manifest) (v1.Hash, error) {
	if err := a.wait("put "+tag, true); err != nil {
		return v1.Hash{}, err
	}
	return a.Memory.PutManifest(ctx, tag, man)
}

func (a *actor) DeleteManifest(ctx context.Context, tag string, digest v1.Hash) error {
	if err := a.wait("delete "+tag, true); err != nil {
		return err
	}
	return a.Memory.DeleteManifest(ctx, tag, digest)
}

// collector is a run of gc.
func (m *model) collector() func(*actor) error {
	o := m.policy
	m.mu.Lock()
	if m.r.IntN(6) == 0 && len(m.unpinned) == 0 {
		o.Unpin = []string{"pin"}
	}
	m.mu.Unlock()
	return func(a *actor) error {
		ctx := context.Background()
		c := index.Open(a, a.options())
		s, err := c.Sweep(ctx)
		if err != nil {
			return err
		}
		o.Now = a.now()
		if o.Unpin != nil {
			m.mu.Lock()
			m.unpinned["pin"] = time.Now().Add(maxRun)
			m.mu.Unlock()
		}
		p, err := NewPlan(s, o)
		if err != nil {
			return err
		}
		_, err = Run(ctx, c, p)
		return err
	}
}

// packages is the number of packages. The first are upstream; each other
// depends on two before it.
const packages = 9

func upstream(name string) bool {
	return strings.HasPrefix(name, "p0-") || strings.HasPrefix(name, "p1-")
}

// closure returns a package's paths with what they refer to, for one state of
// all versions.
func closure(versions []int, pkg int, into map[string][]string) string {
	var refs []string
	text := fmt.Sprint(pkg, versions[pkg])
	for _, dep := range []int{pkg / 2, pkg - 1} {
		if dep >= 0 && dep < pkg {
			refs = append(refs, closure(versions, dep, into))
			text += refs[len(refs)-1]
		}
	}
	slices.Sort(refs)
	sum, _, _ := v1.SHA256(strings.NewReader(text))
	key := fmt.Sprintf("p%d-%s", pkg, sum.Hex[:10])
	if !upstream(key) {
		into[key] = slices.Compact(refs)
	}
	return key
}

func modelPath(key string) storepath.Path { return indextest.EntryFor(key, v1.Descriptor{}).Path }

func modelNAR(key string) []byte { return []byte("compressed NAR of " + key) }

// publisher changes a version on a branch, or nothing, and publishes it.
func (m *model) publisher() func(*actor) error {
	line := []string{"refs/heads/main", "refs/heads/dev", "refs/pull/1/merge", "refs/tags/v1"}[m.r.IntN(4)]
	versions := m.versions[line]
	if versions == nil {
		versions = make([]int, packages)
	}
	versions = slices.Clone(versions)
	versions[2+m.r.IntN(packages-2)] = m.r.IntN(4)
	m.versions[line] = versions
	paths, onUpstream := map[string][]string{}, map[string]bool{}
	for pkg := range 2 {
		onUpstream[modelPath(closure(versions, pkg, paths)).HashPart] = true
	}
	pub := format.Publication{Ref: line}
	for range 1 + m.r.IntN(3) {
		root := closure(versions, 2+m.r.IntN(packages-2), paths)
		pub.Roots = append(pub.Roots, format.Root{Attr: root, Path: modelPath(root).Base()})
	}
	if m.r.IntN(8) == 0 {
		pub.Pin = "pin"
	}
	packing := m.r.IntN(2) == 0
	layers := 1 + m.r.IntN(30)
	return func(a *actor) error {
		return m.publish(a, pub, paths, packing, index.WriterOptions{
			CommitEvery: 4, SegmentLayers: layers,
			OnUpstream: func(hashPart string) bool { return onUpstream[hashPart] },
		})
	}
}

// publish does what the command does: it repeats what is old, uploads what is
// missing, and records the publication.
func (m *model) publish(a *actor, pub format.Publication, paths map[string][]string, packing bool, o index.WriterOptions) error {
	ctx := context.Background()
	c := index.Open(a, a.options())
	base, err := c.Sweep(ctx)
	if err != nil {
		return err
	}
	w, err := c.NewWriter(base, o)
	if err != nil {
		return err
	}
	var todo []string
	for key := range paths {
		e, ok := base.Lookup(modelPath(key).HashPart)
		if !ok {
			todo = append(todo, key)
		} else if a.now().Sub(e.Added) >= format.PinAfter {
			if err := w.Add(ctx, e); err != nil {
				return err
			}
		}
	}
	pub.Time = a.now().UTC().Truncate(time.Second)
	recorded := base.Published(pub, a.now().Add(-format.PinAfter))
	var attempt ack
	if !recorded {
		attempt = ack{line: pub.Ref, pin: pub.Pin, time: pub.Time, made: time.Now(), paths: map[string]bool{}}
		for key := range paths {
			attempt.paths[key] = true
		}
		m.mu.Lock()
		m.attempts = append(m.attempts, attempt)
		m.mu.Unlock()
	}
	for range 20 { // the registry collects more often than any real one
		if err := m.upload(ctx, a, w, todo, paths, packing); err != nil {
			return err
		}
		p := &pub
		if recorded {
			p = nil
		}
		r, err := w.Close(ctx, p)
		if err != nil {
			return err
		}
		if len(r.Lost) > 0 {
			todo = nil
			for _, e := range r.Lost {
				todo = append(todo, e.Path.Name)
			}
			continue
		}
		if len(r.Incomplete) > 0 {
			return fmt.Errorf("%d paths are incomplete", len(r.Incomplete))
		}
		if !recorded {
			m.mu.Lock()
			m.acks = append(m.acks, attempt)
			m.mu.Unlock()
		}
		m.logf("%s has published %s %s", a.name, pub.Ref, pub.Pin)
		return nil
	}
	return errors.New("blobs are lost again and again")
}

// upload stores NARs, each in a blob or all in a pack.
func (m *model) upload(ctx context.Context, a *actor, w *index.Writer, keys []string, paths map[string][]string, packing bool) error {
	slices.Sort(keys)
	groups := slices.Collect(slices.Chunk(keys, 1))
	if packing && len(keys) > 0 {
		groups = [][]string{keys}
	}
	for _, group := range groups {
		var pack []byte
		var entries []format.Entry
		for _, key := range group {
			var refs []string
			for _, ref := range paths[key] {
				refs = append(refs, modelPath(ref).Base())
			}
			slices.Sort(refs)
			e := indextest.EntryFor(key, v1.Descriptor{}, refs...)
			e.NAR.Offset, e.NAR.Size = int64(len(pack)), int64(len(modelNAR(key)))
			pack = append(pack, modelNAR(key)...)
			entries = append(entries, e)
		}
		desc, err := a.PutBlob(ctx, pack)
		if err != nil {
			return err
		}
		for _, e := range entries {
			e.NAR.Blob, e.NAR.BlobSize = desc.Digest, desc.Size
			e.Realisations = []format.Realisation{indextest.ModelRealisation(e.Path.Name)}
			if err := w.AddWith(ctx, e, modelDocuments(e.Path.Name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// modelDocuments are a package's documents: versions of one have the same log.
func modelDocuments(key string) index.Documents {
	name, _, _ := strings.Cut(key, "-")
	return index.Documents{Listing: []byte("listing of " + key), Log: []byte(strings.Repeat("log of "+name+" ", 20))}
}
