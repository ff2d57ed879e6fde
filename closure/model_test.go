package closure_test

import (
	"math/rand/v2"
	"net/http"
	"path"
	"strconv"
	"sync"
	"testing"

	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/upstream"
)

// answers is an upstream cache without a network: a status by hash part.
type answers struct {
	status map[string]int
	mu     sync.Mutex
	asked  map[string]bool
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	key := r.URL.Path[1:33]
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked[key] = true
	return &http.Response{StatusCode: a.status[key], Body: http.NoBody, Request: r, Header: http.Header{}}, nil
}

// world is a random closure and where its paths are.
type world struct {
	refs      [][]int // of path i, all below i, or i itself
	roots     []int
	cache     []bool
	upstreams []*answers
	exclude   string
}

func name(i int) string { return "p" + strconv.Itoa(i) }

func randomWorld(rng *rand.Rand) *world {
	n := 1 + rng.IntN(30)
	w := &world{refs: make([][]int, n), cache: make([]bool, n), roots: []int{n - 1}}
	for i := range n {
		for j := range i {
			if rng.IntN(n) < 3 {
				w.refs[i] = append(w.refs[i], j)
			}
		}
		if rng.IntN(5) == 0 {
			w.refs[i] = append(w.refs[i], i)
		}
		w.cache[i] = rng.IntN(5) == 0
		if rng.IntN(8) == 0 {
			w.roots = append(w.roots, i)
		}
	}
	codes := []int{200, 404, 404, 404, 400} // 400: unknown, without another try
	for range rng.IntN(3) {
		a := &answers{status: map[string]int{}, asked: map[string]bool{}}
		for i := range n {
			a.status[hashPart(name(i))] = codes[rng.IntN(len(codes))]
		}
		w.upstreams = append(w.upstreams, a)
	}
	if rng.IntN(2) == 0 {
		w.exclude = "p*" + strconv.Itoa(rng.IntN(10))
	}
	return w
}

func (w *world) infos() []nix.PathInfo {
	var infos []nix.PathInfo
	for i, refs := range w.refs {
		var names []string
		for _, r := range refs {
			names = append(names, name(r))
		}
		infos = append(infos, info(name(i), names...))
	}
	return infos
}

// upstreamOf is the first upstream that has path i, or -1.
func (w *world) upstreamOf(i int) int {
	for u, a := range w.upstreams {
		if a.status[hashPart(name(i))] == 200 {
			return u
		}
	}
	return -1
}

// model decides path by path, straight from the rules and with no regard to
// cost.
type model struct {
	*world
	closure, looked map[int]bool
}

func newModel(w *world) *model {
	m := &model{w, map[int]bool{}, map[int]bool{}}
	var all, look func(i int)
	all = func(i int) {
		m.closure[i] = true
		for _, r := range w.refs[i] {
			if r != i {
				all(r)
			}
		}
	}
	look = func(i int) {
		m.looked[i] = true
		if !w.cache[i] && w.upstreamOf(i) >= 0 {
			return
		}
		for _, r := range w.refs[i] {
			if r != i {
				look(r)
			}
		}
	}
	for _, r := range w.roots {
		all(r)
		look(r)
	}
	return m
}

func (m *model) excluded(i int) bool {
	match, _ := path.Match(m.exclude, name(i))
	return match && m.looked[i] && !m.cache[i] && m.upstreamOf(i) < 0
}

func (m *model) needsExcluded(i int) bool {
	for _, r := range m.refs[i] {
		if r != i && (m.excluded(r) || m.needsExcluded(r)) {
			return true
		}
	}
	return false
}

func (m *model) kind(i int) closure.Kind {
	switch {
	case m.excluded(i):
		return closure.KindExcluded
	case m.needsExcluded(i):
		return closure.KindNeedsExcluded
	case !m.looked[i]:
		return closure.KindBelow
	case m.cache[i]:
		return closure.KindInCache
	case m.upstreamOf(i) >= 0:
		return closure.KindOnUpstream
	}
	return closure.KindNew
}

// asked tells whether a request for path i goes to upstream u.
func (m *model) asked(i, u int) bool {
	first := m.upstreamOf(i)
	return m.looked[i] && !m.cache[i] && (first < 0 || u <= first)
}

func TestFilterAgreesWithTheModel(t *testing.T) {
	t.Parallel()
	seen := map[closure.Kind]int{}
	for seed := range uint64(3000) {
		w := randomWorld(rand.New(rand.NewPCG(seed, 0)))
		m := newModel(w)
		var roots string
		for _, r := range w.roots {
			roots += name(r) + " "
		}
		opts := closure.Options{Jobs: 1 + int(seed%7), InCache: func(hash string) bool {
			for i, in := range w.cache {
				if in && hashPart(name(i)) == hash {
					return true
				}
			}
			return false
		}}
		if w.exclude != "" {
			opts.Exclude = []string{w.exclude}
		}
		for u, a := range w.upstreams {
			url := "https://u" + strconv.Itoa(u) + ".example"
			opts.Upstreams = append(opts.Upstreams, ask(t, url, upstream.Options{Transport: a, GiveUpAfter: 1000}))
		}
		set := newSet(t, roots, w.infos()...)
		p := filter(t, set, opts)
		if err := p.Check(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if set.Len() != len(m.closure) || len(p.Decisions) != set.Len() {
			t.Fatalf("seed %d: got %d paths, %d decisions, want %d", seed, set.Len(), len(p.Decisions), len(m.closure))
		}
		for _, d := range p.Decisions {
			i, err := strconv.Atoi(d.Path.Store.Name[1:])
			if err != nil {
				t.Fatal(err)
			}
			seen[d.Kind]++
			if want := m.kind(i); d.Kind != want {
				t.Fatalf("seed %d: %s: got %s, want %s", seed, name(i), d.Kind, want)
			}
			if d.Kind == closure.KindOnUpstream && d.Upstream != p.Upstreams[w.upstreamOf(i)].URL {
				t.Fatalf("seed %d: %s: got %s", seed, name(i), d.Reason())
			}
			for u, a := range w.upstreams {
				if got := a.asked[hashPart(name(i))]; got != m.asked(i, u) {
					t.Fatalf("seed %d: %s at upstream %d: asked %t", seed, name(i), u, got)
				}
			}
		}
	}
	for _, k := range closure.Kinds {
		if seen[k] < 100 {
			t.Errorf("only %d paths were %s: the worlds are too tame", seen[k], k)
		}
	}
}
