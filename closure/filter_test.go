package closure_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/upstreamtest"
	"github.com/org/nixoci-action/upstream"
)

// cached makes an InCache of names.
func cached(names ...string) func(string) bool {
	has := map[string]bool{}
	for _, n := range names {
		has[hashPart(n)] = true
	}
	return func(hashPart string) bool { return has[hashPart] }
}

func filter(t testing.TB, set *closure.Set, opts closure.Options) *closure.Plan {
	t.Helper()
	p, err := closure.Filter(t.Context(), set, opts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// reasons are the plan's lines, "name: reason", the server's address replaced.
func reasons(p *closure.Plan) string {
	var b strings.Builder
	for _, d := range p.Decisions {
		reason := d.Reason()
		for i, u := range p.Upstreams {
			reason = strings.ReplaceAll(reason, u.URL, "UPSTREAM"+strconv.Itoa(i+1))
		}
		fmt.Fprintf(&b, "%s: %s\n", d.Path.Store.Name, reason)
	}
	return b.String()
}

func wantReasons(t *testing.T, p *closure.Plan, want string) {
	t.Helper()
	want = strings.ReplaceAll(strings.TrimSpace(want), "\t", "")
	if got := strings.TrimSpace(reasons(p)); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestFilter(t *testing.T) {
	t.Parallel()
	set := newSet(t, "app", info("app", "app", "bash", "lib", "own"), info("bash", "libc", "readline"),
		info("lib", "libc"), info("own", "old"), info("old", "older"), info("older"), info("readline"), info("libc", "libc"))
	all := []string{"app", "bash", "lib", "own", "old", "older", "readline", "libc"}
	up := upstreamtest.Serve(t, "bash", "libc", "readline")
	p := filter(t, set, closure.Options{InCache: cached("old"), Upstreams: []closure.Upstream{ask(t, up.URL, quick)}})
	wantReasons(t, p, `
	libc: on UPSTREAM1
	readline: on UPSTREAM1
	bash: on UPSTREAM1
	older: new
	old: in cache
	own: new
	lib: new
	app: new`)
	// libc is below bash, but below lib as well; readline only below bash.
	// What the cache has costs no request; older is looked for through it.
	if got := up.Requests(all...); got != "app bash lib libc older own" {
		t.Errorf("got requests %q", got)
	}
	var uploads []string
	for _, u := range p.Uploads() {
		uploads = append(uploads, u.Store.Name)
	}
	if got := strings.Join(uploads, " "); got != "older own lib app" {
		t.Errorf("got uploads %q", got)
	}
	for kind, want := range map[closure.Kind]int{
		closure.KindNew: 4, closure.KindInCache: 1, closure.KindOnUpstream: 2, closure.KindBelow: 1, closure.KindExcluded: 0,
	} {
		if got := p.Total(kind); got.Paths != want || got.NarSize != int64(100*want) {
			t.Errorf("%s: got %+v, want %d paths of 100 bytes", kind, got, want)
		}
	}
	if got := p.Total(closure.Kinds...); got.Paths != set.Len() || got.NarSize != set.NarSize() {
		t.Errorf("got %+v in all kinds, want the whole set", got)
	}
	if got, want := p.Upstreams[0], (closure.Report{URL: up.URL, Asked: 6, Present: 2}); got != want {
		t.Errorf("got report %+v, want %+v", got, want)
	}
}

func TestFilterWithNothingKnown(t *testing.T) {
	t.Parallel()
	p := filter(t, newSet(t, "app", info("app", "lib"), info("lib")), closure.Options{})
	wantReasons(t, p, "lib: new\napp: new")
	p = filter(t, newSet(t, ""), closure.Options{})
	wantReasons(t, p, "")
}

func TestFilterAsksUpstreamsInOrder(t *testing.T) {
	t.Parallel()
	first, second := upstreamtest.Serve(t, "a"), upstreamtest.Serve(t, "a", "b")
	p := filter(t, newSet(t, "a b c", info("a"), info("b"), info("c")), closure.Options{
		Upstreams: []closure.Upstream{ask(t, first.URL, quick), ask(t, second.URL, quick)},
	})
	wantReasons(t, p, "a: on UPSTREAM1\nb: on UPSTREAM2\nc: new")
	if f, s := first.Requests("a", "b", "c"), second.Requests("a", "b", "c"); f != "a b c" || s != "b c" {
		t.Errorf("got requests %q and %q, want the second asked for what the first lacks", f, s)
	}
}

func TestFilterCountsUnknownAsNew(t *testing.T) {
	t.Parallel()
	first, second := upstreamtest.Serve(t, "app", "lib"), upstreamtest.Serve(t, "lib")
	first.Answer = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}
	p := filter(t, newSet(t, "app", info("app", "lib"), info("lib")), closure.Options{
		Upstreams: []closure.Upstream{ask(t, first.URL, quick), ask(t, second.URL, quick)},
	})
	wantReasons(t, p, "lib: on UPSTREAM2\napp: new")
	r := p.Upstreams[0]
	if r.Unknown != 2 || r.Err == nil || !strings.Contains(r.Err.Error(), "answered 500") || r.GivenUp {
		t.Errorf("got report %+v, want two unknown with the 500", r)
	}
	if r := p.Upstreams[1]; r.Unknown != 0 || r.Err != nil {
		t.Errorf("got report %+v, want nothing unknown", r)
	}
}

func TestFilterExclude(t *testing.T) {
	t.Parallel()
	set := newSet(t, "app other",
		info("app", "mid", "lib"), info("mid", "secret-key-1"), info("secret-key-1", "deep"), info("deep"),
		info("lib"), info("other", "lib", "big-3.0"), info("big-3.0"))
	up := upstreamtest.Serve(t, "big-3.0")
	p := filter(t, set, closure.Options{
		Upstreams: []closure.Upstream{ask(t, up.URL, quick)},
		Exclude:   []string{"big-*", "secret-*"},
	})
	wantReasons(t, p, `
	deep: new
	secret-key-1: excluded by secret-*
	mid: needs `+hashPart("secret-key-1")+`-secret-key-1, which is excluded by secret-*
	lib: new
	app: needs `+hashPart("secret-key-1")+`-secret-key-1, which is excluded by secret-*
	big-3.0: on UPSTREAM1
	other: new`)
	if got := p.Total(closure.KindExcluded, closure.KindNeedsExcluded); got.Paths != 3 {
		t.Errorf("got %d left out, want 3", got.Paths)
	}
}

func TestFilterExcludeByBaseNameAndInCache(t *testing.T) {
	t.Parallel()
	set := newSet(t, "a b", info("a"), info("b"))
	p := filter(t, set, closure.Options{InCache: cached("b"), Exclude: []string{hashPart("a")[:8] + "*", "b"}})
	wantReasons(t, p, "a: excluded by "+hashPart("a")[:8]+"*\nb: in cache")
}

// A cache filled while another upstream was used has a path that needs one
// which is now excluded and nowhere: what would be built on it is useless.
func TestFilterExcludeBelowTheCache(t *testing.T) {
	t.Parallel()
	set := newSet(t, "app", info("app", "old"), info("old", "secret"), info("secret"))
	p := filter(t, set, closure.Options{InCache: cached("old"), Exclude: []string{"secret"}})
	want := "needs " + hashPart("secret") + "-secret, which is excluded by secret"
	wantReasons(t, p, "secret: excluded by secret\nold: "+want+"\napp: "+want)
}

func TestFilterRefusesBadGlobs(t *testing.T) {
	t.Parallel()
	_, err := closure.Filter(t.Context(), newSet(t, ""), closure.Options{Exclude: []string{"a[", "ok-*", "/nix/store/x"}})
	if err == nil || !strings.Contains(err.Error(), `"a["`) || !strings.Contains(err.Error(), `"/nix/store/x"`) || strings.Contains(err.Error(), "ok-") {
		t.Errorf("got error %v, want both bad globs in it", err)
	}
}

func TestFilterKeepsHitsBetweenRuns(t *testing.T) {
	t.Parallel()
	up := upstreamtest.Serve(t, "a", "b")
	set := newSet(t, "a b", info("a"), info("b"))
	opts := closure.Options{HitsDir: t.TempDir(), DryRun: true}
	run := func(want closure.Report) {
		t.Helper()
		opts.Upstreams = []closure.Upstream{ask(t, up.URL, quick)}
		p := filter(t, set, opts)
		wantReasons(t, p, "a: on UPSTREAM1\nb: on UPSTREAM1")
		want.URL = up.URL
		if got := p.Upstreams[0]; got != want {
			t.Errorf("got report %+v, want %+v", got, want)
		}
	}
	run(closure.Report{Asked: 2, Present: 2})
	if files, err := os.ReadDir(opts.HitsDir); err != nil || len(files) > 0 {
		t.Errorf("a dry run left %v, %v", files, err)
	}
	opts.DryRun = false
	run(closure.Report{Asked: 2, Present: 2})
	run(closure.Report{Present: 2, Remembered: 2})
	if got := up.Count(); got != 4 {
		t.Errorf("got %d requests, want 4: none in the last run", got)
	}
	up.Close()
	run(closure.Report{Present: 2, Remembered: 2})
}

// Of several closures in one run each path is asked for once, and counted in
// each.
func TestFilterAsksOnce(t *testing.T) {
	t.Parallel()
	up := upstreamtest.Serve(t, "a")
	up.Answer = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if strings.Contains(r.URL.Path, hashPart("c")) {
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}
		return false
	}
	opts := closure.Options{Answers: &closure.Answers{}, HitsDir: t.TempDir(), Upstreams: []closure.Upstream{ask(t, up.URL, quick)}}
	wantReasons(t, filter(t, newSet(t, "a b", info("a"), info("b")), opts), "a: on UPSTREAM1\nb: new")
	wantReasons(t, filter(t, newSet(t, "c", info("c")), opts), "c: new")
	asked := up.Count()
	p := filter(t, newSet(t, "a b c", info("a"), info("b"), info("c")), opts)
	wantReasons(t, p, "a: on UPSTREAM1\nb: new\nc: new")
	if r := p.Upstreams[0]; up.Count() != asked || r.Asked != 3 || r.Present != 1 || r.Remembered != 0 || r.Unknown != 1 || r.Err == nil {
		t.Errorf("after %d requests more: got report %+v", up.Count()-asked, r)
	}
}

func TestFilterDoesNotKeepMisses(t *testing.T) {
	t.Parallel()
	up := upstreamtest.Serve(t)
	set := newSet(t, "a", info("a"))
	opts := closure.Options{HitsDir: t.TempDir(), Upstreams: []closure.Upstream{ask(t, up.URL, quick)}}
	wantReasons(t, filter(t, set, opts), "a: new")
	up.Put("a")
	wantReasons(t, filter(t, set, opts), "a: on UPSTREAM1")
}

func TestFilterGoesOnWithoutHits(t *testing.T) {
	t.Parallel()
	up := upstreamtest.Serve(t, "a")
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	opts := closure.Options{HitsDir: file, Upstreams: []closure.Upstream{ask(t, up.URL, quick)}}
	wantReasons(t, filter(t, newSet(t, "a", info("a")), opts), "a: on UPSTREAM1")
}

// many returns n paths, each of which but the first refers to an earlier one.
func many(n int) []nix.PathInfo {
	infos := []nix.PathInfo{info("p0")}
	for i := 1; i < n; i++ {
		infos = append(infos, info("p"+strconv.Itoa(i), "p"+strconv.Itoa(i/2)))
	}
	return infos
}

func manyRoots(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("p" + strconv.Itoa(i) + " ")
	}
	return b.String()
}

func TestFilterUnwellUpstreamIsBounded(t *testing.T) {
	t.Parallel()
	hang := func(_ http.ResponseWriter, r *http.Request, _ int) bool { <-r.Context().Done(); return true }
	for name, tt := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request, int) bool
		down   bool
		roots  string
	}{
		"500":             {upstreamtest.Status(500, 1e9), false, manyRoots(2000)},
		"hangs":           {hang, false, manyRoots(2000)},
		"hangs, a chain":  {hang, false, "p1999"},
		"not listening":   {nil, true, manyRoots(2000)},
		"429 for an hour": {retryLater("3600"), false, manyRoots(2000)},
		"429, a moment":   {retryLater("1"), false, manyRoots(2000)},
		"drops all":       {func(http.ResponseWriter, *http.Request, int) bool { panic(http.ErrAbortHandler) }, false, manyRoots(2000)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := upstreamtest.Serve(t)
			up.Answer = tt.answer
			if tt.down {
				up.Close()
			}
			opts := upstream.Options{Timeout: 200 * time.Millisecond, Backoff: 10 * time.Millisecond, Patience: 2 * time.Second}
			set := newSet(t, tt.roots, many(2000)...)
			start := time.Now()
			p := filter(t, set, closure.Options{Upstreams: []closure.Upstream{ask(t, up.URL, opts)}})
			// twice the patience and a try is what it may take; the rest is for a busy machine
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("took %s", d)
			}
			if got := p.Total(closure.KindNew).Paths; got != set.Len() {
				t.Errorf("got %d paths to upload, want all %d", got, set.Len())
			}
			r := p.Upstreams[0]
			if tt.roots != "p1999" && (r.Unknown != set.Len() || !r.GivenUp) || r.Err == nil || r.Present > 0 {
				t.Errorf("got report %+v, want all unknown", r)
			}
			// far fewer than five tries for each path
			if got := up.Count(); got > 1000 {
				t.Errorf("got %d requests, want no more than a few for each job", got)
			}
		})
	}
}

func retryLater(after string) func(http.ResponseWriter, *http.Request, int) bool {
	return func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		w.Header().Set("Retry-After", after)
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
}

// Half of all first tries fail, and each path's second succeeds.
func TestFilterSurvivesABadDay(t *testing.T) {
	t.Parallel()
	const n = 500
	var names []string
	for i := range n {
		names = append(names, "p"+strconv.Itoa(i))
	}
	up := upstreamtest.Serve(t, names...)
	up.Answer = func(w http.ResponseWriter, r *http.Request, try int) bool {
		if try > 1 || r.URL.Path[1]%2 == 0 {
			return false
		}
		if r.URL.Path[2]%2 == 0 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusBadGateway)
		return true
	}
	p := filter(t, newSet(t, manyRoots(n), many(n)...), closure.Options{Upstreams: []closure.Upstream{ask(t, up.URL, quick)}})
	if r := p.Upstreams[0]; r.Present != n || r.Unknown != 0 || r.GivenUp {
		t.Errorf("got report %+v, want all %d present", r, n)
	}
}

func TestFilterBoundsRequestsInFlightOverAllUpstreams(t *testing.T) {
	t.Parallel()
	const jobs = 5
	var now, most atomic.Int64
	answer := func(http.ResponseWriter, *http.Request, int) bool {
		n := now.Add(1)
		defer now.Add(-1)
		for {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		time.Sleep(2 * time.Millisecond)
		return false
	}
	a, b := upstreamtest.Serve(t), upstreamtest.Serve(t)
	a.Answer, b.Answer = answer, answer
	filter(t, newSet(t, manyRoots(200), many(200)...), closure.Options{
		Jobs: jobs, Upstreams: []closure.Upstream{ask(t, a.URL, quick), ask(t, b.URL, quick)},
	})
	if got := most.Load(); got != jobs {
		t.Errorf("got %d requests at once, want %d", got, jobs)
	}
}

func TestFilterStopsWithItsContext(t *testing.T) {
	t.Parallel()
	up := upstreamtest.Serve(t, "p1")
	up.Answer = func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		if strings.Contains(r.URL.Path, hashPart("p1")) {
			return false
		}
		<-r.Context().Done()
		return true
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir := t.TempDir()
	start := time.Now()
	opts := closure.Options{
		Upstreams: []closure.Upstream{ask(t, up.URL, quick)}, HitsDir: dir,
		Progress: checked(func(int, int) { cancel() }), // p1 is there, the others hang
	}
	_, err := closure.Filter(ctx, newSet(t, "p1 p2 p3", many(4)...), opts)
	if !errors.Is(err, context.Canceled) || time.Since(start) > 4*time.Second {
		t.Errorf("got %v after %s, want to be cancelled at once", err, time.Since(start))
	}
	if h := upstream.LoadHits(dir, up.URL, time.Now()); !h.Has(hashPart("p1")) {
		t.Error("the hit found before is not kept")
	}
}

type checked func(done, found int)

func (f checked) Checked(done, found int) { f(done, found) }

type progress struct {
	t           *testing.T
	done, found int
}

func (p *progress) Checked(done, found int) {
	if done != p.done+1 || found < p.found || done > found {
		p.t.Errorf("got %d of %d after %d of %d", done, found, p.done, p.found)
	}
	p.done, p.found = done, found
}

func TestFilterReportsProgress(t *testing.T) {
	t.Parallel()
	up := upstreamtest.Serve(t, "p7")
	pr := &progress{t: t}
	filter(t, newSet(t, manyRoots(100), many(100)...), closure.Options{
		InCache: cached("p3"), Progress: pr, Upstreams: []closure.Upstream{ask(t, up.URL, quick)},
	})
	if pr.done != 100 || pr.found != 100 {
		t.Errorf("ended at %d of %d, want 100 of 100", pr.done, pr.found)
	}
}

func TestFilterOverHTTP2(t *testing.T) {
	t.Parallel()
	s := upstreamtest.New("p0", "p1")
	tr := upstream.NewTransport()
	conns := upstreamtest.StartTLS(t, s, tr)
	opts := quick
	opts.Transport = tr
	p := filter(t, newSet(t, manyRoots(500), many(500)...), closure.Options{Upstreams: []closure.Upstream{ask(t, s.URL, opts)}})
	if r := p.Upstreams[0]; r.Asked != 500 || r.Present != 2 || r.Unknown != 0 || conns.Load() != 1 {
		t.Errorf("got report %+v over %d connections, want 2 of 500 present over one", r, conns.Load())
	}
}
