package e2e

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

var (
	soakTime = flag.Duration("soak", 2*time.Minute, "how long TestSoak goes on")
	soakSeed = flag.Uint64("soak-seed", 0, "the seed of TestSoak; 0 takes one at random")
	soakFail = flag.Int("soak-faults", 0, "in TestSoak one request of publishers and collections in so many fails; 0: none does")
)

// A publish relies on entries for format.PinAfter without repeating them, and
// collections here do not wait for so long. So what it relies on is either kept
// at every moment, or was first published within its own epoch: when it
// commits, that is younger than epoch and limit together, and therefore than
// the delay.
const (
	soakEpoch = 8 * time.Second
	soakLimit = 8 * time.Second // a publish that takes longer is killed
	soakDelay = 18 * time.Second

	soakPublishers, soakCollections, soakReaders = 4, 2, 2
	soakPaths                                    = 6 // of an epoch: few, so that publishers rely on each other's
)

// soak is a cache with much going on at once.
type soak struct {
	*world
	seed    uint64
	d       *registrytest.Distribution
	faulty  *registrytest.Faulty // before d, for those who write
	cache   string               // by way of it
	repo    registry.Repository
	conf    string
	reader  *reader
	late    *reader // of a proxy that seldom looks for what is new
	start   time.Time
	typical time.Duration // of a publish

	// stable is published once and kept for ever; each epoch has paths of its
	// own. refs are the direct references; all of it by base name.
	stable []string
	epochs [][]string
	refs   map[string][]string

	// running is locked by the registry's collector: nobody may write beside it.
	running sync.RWMutex

	published, collected, killed, narinfos, nars, swept, requests, faults atomic.Int64

	mu    sync.Mutex
	acked map[string]acknowledged // by Git reference
	log   []string
}

// acknowledged is the last publication that came to its end.
type acknowledged struct {
	since time.Time
	roots []string
}

// Publishers, collections, the registry's collector and readers at once, many of
// the processes killed at random. At every moment all of a cache is closed
// under references, the newest publication of each branch is complete, and what
// a proxy shows it also serves. In the end no more is left than is needed.
func TestSoak(t *testing.T) {
	t.Parallel()
	s := newSoak(t)
	t.Cleanup(func() {
		if t.Failed() {
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Logf("the last processes:\n%s", strings.Join(s.log[max(0, len(s.log)-80):], "\n"))
		}
	})
	var wg sync.WaitGroup
	n := uint64(0)
	run := func(count int, f func(n int, random *rand.Rand)) {
		for i := range count {
			n++
			random := rand.New(rand.NewPCG(s.seed, n))
			wg.Go(func() { f(i, random) })
		}
	}
	run(soakPublishers, s.publisher)
	run(soakCollections, s.collection)
	run(soakReaders, s.read)
	run(1, func(int, *rand.Rand) { s.check() })
	random := rand.New(rand.NewPCG(s.seed, 0))
	for s.goesOn() {
		s.pause(5*time.Second + time.Duration(random.Int64N(int64(5*time.Second))))
		s.running.Lock()
		s.d.CollectBeside(t, random.IntN(2) == 0)
		s.running.Unlock()
	}
	wg.Wait()
	s.finish()
}

func newSoak(t *testing.T) *soak {
	d := registrytest.NewDistribution(t)
	f := registrytest.NewFaulty(t, d.Addr)
	direct := d.Addr + "/a/b"
	s := &soak{world: newWorld(t), seed: *soakSeed, d: d, faulty: f, cache: f.Addr + "/a/b", refs: map[string][]string{}, acked: map[string]acknowledged{}}
	if s.seed == 0 {
		s.seed = rand.Uint64()
	}
	t.Logf("seed %d", s.seed)
	var err error
	if s.repo, err = registry.Open(direct, registry.Options{}); err != nil {
		t.Fatal(err)
	}
	s.makePaths()
	start := time.Now()
	if !s.publishAs("refs/heads/stable", s.stable, soakLimit) {
		t.Fatalf("the first publish failed or took more than %s", soakLimit)
	}
	s.typical = time.Since(start)
	s.conf = s.startProxy(direct, 2, "--refresh", "1s")
	s.reader = newReader(s.conf)
	s.late = newReader(s.startProxy(direct, 2, "--refresh", (2 * soakDelay / 3).String()))
	s.start = time.Now()
	if *soakFail > 0 {
		f.Inject(s.fault())
	}
	return s
}

// fault is another one each time, and seldom enough that all that is tried again
// succeeds.
func (s *soak) fault() registrytest.Fault {
	fault := mixed()
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		s.requests.Add(1)
		if rand.IntN(*soakFail) > 0 {
			next.ServeHTTP(w, r)
			return
		}
		s.faults.Add(1)
		fault(w, r, next)
	}
}

// goesOn reports whether something new may start. When a test has failed
// nothing need.
func (s *soak) goesOn() bool { return time.Since(s.start) < *soakTime && !s.Failed() }

func (s *soak) pause(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end) && s.goesOn(); {
		time.Sleep(20 * time.Millisecond)
	}
}

// makePaths puts all paths into the store: files of noise that refer to others.
func (s *soak) makePaths() {
	random := rand.New(rand.NewPCG(s.seed, 1<<32))
	var db strings.Builder
	var contents []string
	path := func(size int, refs []string) string {
		const alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
		hash := make([]byte, 32)
		for i := range hash {
			hash[i] = alphabet[random.IntN(len(alphabet))]
		}
		content := noise(random, size)
		if len(contents) > 0 && random.IntN(6) == 0 {
			content = contents[random.IntN(len(contents))] // the same NAR under another path
		}
		contents = append(contents, content)
		base := fmt.Sprintf("%s-x-%d", hash, len(contents))
		if err := os.WriteFile(filepath.Join(s.Store, base), []byte(content), 0o444); err != nil {
			s.Fatal(err)
		}
		s.refs[base] = refs
		fmt.Fprintf(&db, "%s/%s\n\n%d\n", s.Store, base, len(refs))
		for _, r := range refs {
			fmt.Fprintf(&db, "%s/%s\n", s.Store, r)
		}
		return base
	}
	some := func(of []string, part float64) (chosen []string) {
		for _, b := range of {
			if random.Float64() < part {
				chosen = append(chosen, b)
			}
		}
		return chosen
	}
	for _, size := range []int{600_000, 50_000, 50_000, 50_000} {
		s.stable = append(s.stable, path(size, some(s.stable, 0.5)))
	}
	for range int(*soakTime/soakEpoch) + 1 {
		var epoch []string
		for i := range soakPaths {
			size := 2_000 + random.IntN(80_000)
			if i == 0 {
				size = 600_000 // not in a pack
			}
			epoch = append(epoch, path(size, append(some(s.stable, 0.3), some(epoch, 0.3)...)))
		}
		s.epochs = append(s.epochs, epoch)
	}
	cmd := exec.Command("nix-store", "--register-validity")
	cmd.Env, cmd.Stdin = s.Vars, strings.NewReader(db.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		s.Fatalf("registering paths: %v\n%s", err, out)
	}
	s.Nix(s, s.Dir, "store", "sign", "--key-file", s.keyFile, "--all") // nobody has built them
}

// closure of base names.
func (s *soak) closure(roots []string) []string {
	seen := map[string]bool{}
	todo := slices.Clone(roots)
	for i := 0; i < len(todo); i++ {
		if !seen[todo[i]] {
			seen[todo[i]] = true
			todo = append(todo, s.refs[todo[i]]...)
		}
	}
	slices.Sort(todo)
	return slices.Compact(todo)
}

func (s *soak) paths(bases []string) []string {
	var all []string
	for _, b := range bases {
		all = append(all, filepath.Join(s.Store, b))
	}
	return all
}

// process runs a command, kills it after a time, and reports whether it came
// to its end. Any other end is a failure of the test.
func (s *soak) process(cmd *exec.Cmd, what string, kill time.Duration) bool {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	start := time.Now()
	if err := cmd.Start(); err != nil {
		s.Error(err)
		return false
	}
	timer := time.AfterFunc(kill, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
	err := cmd.Wait()
	timer.Stop()
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	killed := status.Signaled() && status.Signal() == syscall.SIGKILL
	s.mu.Lock()
	s.log = append(s.log, fmt.Sprintf("%s +%.1f s, %.1f s: %s: %v", start.Format("15:04:05.000"), start.Sub(s.start).Seconds(), time.Since(start).Seconds(), what, cmd.ProcessState),
		stderr.String())
	s.mu.Unlock()
	if killed {
		s.killed.Add(1)
	} else if err != nil {
		s.Errorf("%s: %v\n%s", what, err, stderr.String())
	}
	return err == nil
}

// publishAs publishes from a branch.
func (s *soak) publishAs(ref string, roots []string, kill time.Duration) bool {
	cmd := s.command("publish", append([]string{"--cache", s.cache, "--upstream", "none", "--sign-key-file", s.keyFile}, s.paths(roots)...)...)
	cmd.Env = append(cmd.Env, "GITHUB_ACTIONS=true", "GITHUB_REF="+ref)
	start := time.Now().Truncate(time.Millisecond)
	if !s.process(cmd, "publish "+ref+" "+strings.Join(roots, " "), min(kill, soakLimit)) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked[ref] = acknowledged{start, roots}
	return true
}

func (s *soak) publisher(n int, random *rand.Rand) {
	for s.goesOn() {
		kill := soakLimit
		if random.IntN(3) == 0 {
			kill = time.Duration(random.Float64() * 1.2 * float64(s.typical))
		}
		chosen := random.Perm(soakPaths)[:1+random.IntN(2)]
		s.running.RLock()
		if !s.goesOn() { // that took a while perhaps
			s.running.RUnlock()
			return
		}
		epoch := s.epochs[time.Since(s.start)/soakEpoch]
		var roots []string
		for _, i := range chosen {
			roots = append(roots, epoch[i])
		}
		done := s.publishAs(fmt.Sprintf("refs/heads/p%d", n), roots, kill)
		s.running.RUnlock()
		s.published.Add(1)
		if done {
			s.appears(roots)
		}
		pause := time.Duration(random.Int64N(int64(time.Second / 4)))
		if random.IntN(8) == 0 {
			pause = soakDelay // let it become old
		}
		s.pause(pause)
	}
}

// appears waits until a proxy shows what was published: a writer that has read
// an older root may have written it after that, which the next writer repairs.
func (s *soak) appears(roots []string) {
	for _, b := range s.closure(roots) {
		for end := time.Now().Add(soakDelay); ; time.Sleep(50 * time.Millisecond) {
			info, err := s.reader.narinfo(b)
			if err == nil && info != nil {
				err = s.reader.nar(info)
			}
			if err != nil || info == nil && time.Now().After(end) {
				s.Errorf("%s was published: %v, %v", b, info, err)
				return
			}
			if info != nil {
				break
			}
		}
	}
}

func (s *soak) collection(_ int, random *rand.Rand) {
	for s.goesOn() {
		kill := limit
		if random.IntN(3) == 0 {
			kill = time.Duration(random.Float64() * 1.2 * float64(s.typical))
		}
		s.running.RLock()
		s.process(s.command("gc", "--cache", s.cache, "--retention", "0s", "--delay", soakDelay.String()), "gc", kill)
		s.running.RUnlock()
		s.collected.Add(1)
		s.pause(time.Duration(random.Int64N(int64(time.Second))))
	}
}

// read asks the proxies for paths at random.
func (s *soak) read(_ int, random *rand.Rand) {
	for s.goesOn() {
		reader := []*reader{s.reader, s.late}[random.IntN(2)]
		if err := reader.look(s, s.stable[random.IntN(len(s.stable))], true); err != nil {
			s.Error(err)
		}
		current := int(time.Since(s.start) / soakEpoch)
		epoch := s.epochs[max(0, min(current, len(s.epochs)-1)-random.IntN(4))]
		if err := reader.look(s, epoch[random.IntN(len(epoch))], false); err != nil {
			s.Error(err)
		}
		time.Sleep(5 * time.Millisecond) // others need the processors more
	}
}

// look looks whether a path that is shown is served, with all it refers to.
// A path may go while it looks, but only as a whole.
func (r *reader) look(s *soak, base string, always bool) error {
	info, err := r.narinfo(base)
	if err != nil || info == nil {
		if always && err == nil {
			err = fmt.Errorf("%s is kept for ever, and not shown", base)
		}
		return err
	}
	s.narinfos.Add(1)
	if err = r.nar(info); err == nil {
		s.nars.Add(1)
		for name := range strings.FieldsSeq(info["References"]) {
			var ref map[string]string
			if ref, err = r.narinfo(name); err == nil && ref == nil {
				err = fmt.Errorf("%s is shown, and %s to which it refers is not", base, name)
			}
			if err != nil {
				break
			}
		}
	}
	if err == nil {
		return nil
	}
	again, lookErr := r.narinfo(base)
	if lookErr == nil && again == nil {
		return nil // removed meanwhile
	}
	return err
}

// check reads the index as a program does that has never seen it.
func (s *soak) check() {
	for s.goesOn() {
		if err := s.checkOnce(); err != nil {
			s.Error(err)
		}
		s.swept.Add(1)
		s.pause(time.Second)
	}
}

func (s *soak) checkOnce() error {
	s.mu.Lock()
	must := maps.Clone(s.acked)
	s.mu.Unlock()
	have, err := index.Open(s.repo, index.Options{}).Sweep(context.Background())
	if err != nil {
		return err
	}
	for e := range have.All {
		for _, r := range e.References {
			if !have.Has(r[:32]) {
				return fmt.Errorf("%s is in the index, and %s to which it refers is not", e.Path, r)
			}
		}
	}
	newest := newestOf(have)
	for ref, a := range must {
		p := newest[ref]
		if roots := rootsOf(p); p.Time.Before(a.since) && !slices.Equal(roots, slices.Sorted(slices.Values(a.roots))) {
			return fmt.Errorf("%s: the newest publication is of %s with %v, but %v was acknowledged after %s", ref, p.Time, roots, a.roots, a.since)
		}
	}
	for ref, p := range newest {
		for _, b := range s.closure(rootsOf(p)) {
			if !have.Has(b[:32]) {
				return fmt.Errorf("the newest publication of %s, made %s, needs %s, which is gone", ref, p.Time, b)
			}
		}
	}
	return nil
}

// newestOf returns the newest publication of each Git reference.
func newestOf(s *index.Snapshot) map[string]format.Publication {
	newest := map[string]format.Publication{}
	for _, p := range s.Publications() {
		if p.Time.After(newest[p.Ref].Time) {
			newest[p.Ref] = p
		}
	}
	return newest
}

// rootsOf returns the sorted base names of what was published.
func rootsOf(p format.Publication) []string {
	var roots []string
	for _, r := range p.Roots {
		roots = append(roots, r.Path)
	}
	slices.Sort(roots)
	return roots
}

// finish collects what is left, now that nobody else is there, and compares it
// with a fresh publish of what is kept.
func (s *soak) finish() {
	t := s.T
	s.faulty.Inject(nil)
	if *soakFail > 0 {
		t.Logf("%d requests of writers, %d of them failed", s.requests.Load(), s.faults.Load())
	}
	t.Logf("%d publishes (typically %s) and %d collections, %d of them killed; %d narinfos, %d NARs and %d times the index read",
		s.published.Load(), s.typical.Round(time.Millisecond), s.collected.Load(), s.killed.Load(), s.narinfos.Load(), s.nars.Load(), s.swept.Load())
	if t.Failed() {
		return
	}
	if err := s.checkOnce(); err != nil {
		t.Fatal(err)
	}
	blobs := filepath.Join(s.d.Dir, "docker", "registry", "v2", "blobs") // without what killed uploads have left elsewhere
	most := registrytest.FolderSize(t, blobs)
	c := s.gc(s.cache, atOnce...)
	if c.code != 0 || c.Result.Waiting != 0 {
		t.Fatalf("got %d, %+v\n%s", c.code, c.Result, c.stderr)
	}
	s.d.CollectBeside(t, false)
	have := sweep(t, s.cache)
	var roots []string
	for _, p := range newestOf(have) {
		roots = append(roots, rootsOf(p)...)
	}
	want := s.closure(roots)
	if got := bases(have); !slices.Equal(got, want) {
		t.Errorf("left are %d paths\n%v\nwant %d\n%v", len(got), got, len(want), want)
	}
	s.refresh(s.conf)
	s.newClient(s.conf).substitute(s.paths(want)...)

	fresh := registrytest.NewDistribution(t)
	s.publish(fresh.Addr+"/a/b", s.paths(roots)...)
	got, least := registrytest.FolderSize(t, blobs), fresh.Size(t)
	unused := waste(t, have)
	t.Logf("before the last collection: %d bytes, after: %d, of which %d unused in packs; published afresh: %d, ratio %.3f, without what is unused %.3f",
		most, got, unused, least, float64(got)/float64(least), float64(got-unused)/float64(least))
	if got-unused > least+least/5 {
		t.Errorf("%d bytes are left and %d unused in packs, want at most 20%% more than %d", got, unused, least)
	}
}
