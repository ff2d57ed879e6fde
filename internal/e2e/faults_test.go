package e2e

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/registrytest"
)

var torture = flag.Bool("torture", false, "inject each kind of fault by itself, and after each request, not a sample")

// step is from one request to the next that something happens at: with a sample,
// another one each time.
func step(random *rand.Rand) (first, by int64) {
	if *torture {
		return 1, 1
	}
	return 1 + random.Int64N(4), 4
}

// mixed is another fault of passing each time.
func mixed() registrytest.Fault {
	all := slices.Collect(maps.Values(passing()))
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) { all[rand.IntN(len(all))](w, r, next) }
}

// passing are faults that pass: what is tried again succeeds.
func passing() map[string]registrytest.Fault {
	answer := func(status int, body string, header ...string) registrytest.Fault {
		return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	// reading changes the bodies of blobs; other answers pass
	reading := func(change func(w http.ResponseWriter, body []byte)) registrytest.Fault {
		return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
				next.ServeHTTP(w, r)
				return
			}
			change(w, recorded(w, r, next))
		}
	}
	return map[string]registrytest.Fault{
		"408":                  answer(408, ""),
		"429":                  answer(429, `{"errors":[{"code":"TOOMANYREQUESTS"}]}`),
		"429 with Retry-After": answer(429, "", "Retry-After", "1"),
		"429 as ghcr.io":       answer(429, `{"errors":[{"code":"TOOMANYREQUESTS","message":"retry-after: 100ms, allowed: 44000/minute"}]}`),
		"500":                  answer(500, `{"errors":[{"code":"UNKNOWN"}]}`),
		"502 in HTML":          answer(502, "<html><body><h1>502 Bad Gateway</h1>"+strings.Repeat("<!-- padding -->", 1<<10), "Content-Type", "text/html"),
		"503":                  answer(503, "", "Retry-After", "0"),
		"524":                  answer(524, "error code: 524"),
		"drops connections":    func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) },
		"loses answers": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			recorded(w, r, next)
			panic(http.ErrAbortHandler)
		},
		"cuts off blobs": reading(func(w http.ResponseWriter, body []byte) {
			_, _ = w.Write(body[:len(body)/2])
			panic(http.ErrAbortHandler)
		}),
		"takes half": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodPatch || r.Method == http.MethodPut {
				_, _ = io.CopyN(io.Discard, r.Body, max(r.ContentLength, 8<<20)/2)
			}
			panic(http.ErrAbortHandler)
		},
		"forgets uploads": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if !strings.Contains(r.URL.Path, "/blobs/uploads/") || r.Method == http.MethodPost {
				next.ServeHTTP(w, r)
				return
			}
			answer(404, `{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}`)(w, r, next)
		},
		"takes no stream": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			switch {
			case r.Method != http.MethodPatch || r.ContentLength >= 0:
				next.ServeHTTP(w, r)
			case r.URL.RawQuery != "" && r.URL.RawQuery[len(r.URL.RawQuery)-1]%2 == 0:
				answer(413, "")(w, r, next)
			default:
				answer(416, "")(w, r, next)
			}
		},
	}
}

// lagging shows manifests, and their tags, only some time after they were written.
func lagging(lag time.Duration) registrytest.Fault {
	var mu sync.Mutex
	written := map[string]time.Time{} // by tag or digest
	hidden := func(ref string) bool {
		mu.Lock()
		defer mu.Unlock()
		return time.Since(written[ref]) < lag
	}
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		dir, ref := path.Split(r.URL.Path)
		switch {
		case strings.HasSuffix(dir, "/manifests/") && r.Method == http.MethodPut:
			next.ServeHTTP(w, r)
			mu.Lock()
			defer mu.Unlock()
			if written[ref].IsZero() { // an older one stays visible
				written[ref] = time.Now()
			}
		case strings.HasSuffix(dir, "/manifests/") && hidden(ref):
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`)
		case strings.HasSuffix(dir, "/tags/"):
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			var list struct {
				Name string   `json:"name"`
				Tags []string `json:"tags"`
			}
			if json.Unmarshal(rec.Body.Bytes(), &list) != nil || rec.Code != http.StatusOK {
				w.WriteHeader(rec.Code)
				_, _ = w.Write(rec.Body.Bytes())
				return
			}
			list.Tags = slices.DeleteFunc(list.Tags, hidden)
			_ = json.NewEncoder(w).Encode(list)
		default:
			next.ServeHTTP(w, r)
		}
	}
}

// recorded has next answer, sets the header and the status, and returns the body.
func recorded(w http.ResponseWriter, r *http.Request, next http.Handler) []byte {
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
	w.WriteHeader(rec.Code)
	return rec.Body.Bytes()
}

// sometimes injects a fault into about one request of three, so often that none
// of a command's operations can use up its tries.
type sometimes struct {
	fault    registrytest.Fault
	injected int

	mu     sync.Mutex
	random *rand.Rand
	row    map[string]int // by method and path
	budget int            // for uploads, which have several requests
}

// most is how often an upload is hit at most, of all uploads of a command. It is
// tried six times, and the handshake may be hit twice as well.
const most = 3

// again begins with another command.
func (s *sometimes) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.budget = most
	clear(s.row)
}

func (s *sometimes) hits(r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	left, what := &s.budget, r.Method+" "+r.URL.Path
	if !strings.Contains(what, "/uploads/") {
		n := 2 - s.row[what]
		left = &n
	}
	if *left <= 0 || s.random.IntN(3) != 0 {
		return false
	}
	*left--
	s.row[what]++
	s.injected++
	return true
}

func (s *sometimes) answer(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if s.hits(r) {
		s.fault(w, r, next)
		return
	}
	next.ServeHTTP(w, r)
}

// publishTo publishes store paths from a branch, as a job does.
func (w *world) publishTo(cache string, paths ...string) *exec.Cmd {
	cmd := w.command("publish", append([]string{"--json", "--cache", cache, "--upstream", "none", "--sign-key-file", w.keyFile}, paths...)...)
	cmd.Env = append(cmd.Env, "GITHUB_ACTIONS=true", "GITHUB_REF=refs/heads/main")
	return cmd
}

// A registry that fails again and again, but not for ever, costs nothing but
// time: each command comes to its end, and everything is there.
func TestPassingFaults(t *testing.T) {
	t.Parallel()
	shared := newWorld(t)
	pushing := shared.signPushes()
	storage := registrytest.NewDistribution(t)
	seed := rand.Uint64()
	kinds := map[string]registrytest.Fault{"mixed": mixed()}
	if *torture {
		kinds = passing()
	}
	const lag = 4 * time.Second
	kinds["lags"] = lagging(lag)
	for i, name := range slices.Sorted(maps.Keys(kinds)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Logf("seed %d", seed)
			w := shared.in(t)
			repo := fmt.Sprintf("/a/fault%d", i)
			f, truth := registrytest.NewFaulty(t, storage.Addr), storage.Addr+repo
			cache := f.Addr + repo
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			faults := &sometimes{fault: kinds[name], random: random, row: map[string]int{}}
			contents := []string{noise(random, 1000), noise(random, 700_000), noise(random, 12_000_000)} // a pack, a blob, a stream
			both := fmt.Sprintf("fault%d", i)                                                            // of one name, so that the second takes the place of the first
			first, second := w.add(both, contents...), w.add(both, noise(random, 1000), contents[1]+"x", contents[2]+"x")

			f.Inject(faults.answer)
			if name == "lags" {
				f.Inject(kinds[name])
				faults.injected = 1 // at each request
			}
			for _, paths := range [][]string{first, second} {
				faults.again()
				if r := w.finish(w.publishTo(cache, paths...)); r.code != 0 || r.Committed != len(paths) {
					t.Fatalf("publish: got %d, %+v\n%s", r.code, r.Publish, r.stderr)
				}
			}
			faults.again()
			if out, err := w.command("inspect", "--cache", cache).CombinedOutput(); err != nil || !strings.Contains(string(out), "e2e-1:") {
				t.Errorf("inspect: %v\n%s", err, out)
			}
			if name == "lags" {
				time.Sleep(lag) // what gc does not see yet takes no other's place
			}
			faults.again()
			c := w.gc(cache, atOnce...)
			if name == "lags" && c.code == 3 && strings.Contains(c.stderr, "nothing is deleted") {
				c.code = 0 // it does not see the tag of its own segment yet
			}
			if c.code != 0 || c.Result == nil || c.Result.Removed.Paths != len(first) {
				t.Errorf("gc: got %d, %+v\n%s", c.code, c.Result, c.stderr)
			}
			faults.again()
			conf := w.startProxy(cache, 2, pushing...)
			pushed := w.chain(fmt.Sprintf("pushed%d", i), 2000, 700_000)
			w.copyTo(substituter(conf), pushed[1])
			f.Inject(nil)
			if faults.injected == 0 {
				t.Error("no fault was injected")
			}
			checkClosed(t, truth)
			// the root may not show yet what was pushed a moment ago
			w.newClient(conf).substitute(append(slices.Clone(second), pushed...)...)
			for have, i := sweep(t, truth), 0; i < len(pushed); i++ {
				if !have.Has(hashPart(pushed[i])) {
					t.Errorf("%s was acknowledged, and is lost", pushed[i])
				}
			}
		})
	}
}

// killer kills a process once the registry has done what its n-th request asks,
// before the process hears of it.
type killer struct {
	n    int64
	seen atomic.Int64
	cmd  *exec.Cmd
	hit  atomic.Bool
}

func (k *killer) answer(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if k.seen.Add(1) != k.n {
		next.ServeHTTP(w, r)
		return
	}
	body := recorded(discard{http.Header{}}, r, next)
	k.hit.Store(true)
	_ = k.cmd.Process.Kill()
	_, _ = w.Write(body)
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header       { return d.header }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

// run runs a command, and reports whether it was killed.
func (k *killer) run(t *testing.T, f *registrytest.Faulty, cmd *exec.Cmd) (killed bool) {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr, cmd.Stdout = &stderr, io.Discard
	k.cmd = cmd
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.Inject(k.answer)
	timer := time.AfterFunc(limit, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
	err := cmd.Wait()
	timer.Stop()
	f.Inject(nil)
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && k.hit.Load() && status.Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("request %d: %v\n%s", k.n, err, stderr.String())
	}
	return false
}

// A publish or a collection that is killed after any of its requests loses
// nothing, and the next one comes to its end.
func TestKilledAfterEachRequest(t *testing.T) {
	t.Parallel()
	const least, atMost = 8, 64
	shared := newWorld(t)
	storage := registrytest.NewDistribution(t)
	for _, name := range []string{"publish", "gc"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := shared.in(t)
			f := registrytest.NewFaulty(t, storage.Addr)
			seed := rand.Uint64()
			random := rand.New(rand.NewPCG(seed, 0))
			old := w.add(name, noise(random, 1000), noise(random, 400_000))
			current := w.add(name, noise(random, 1000), noise(random, 400_000))
			must := func(n int64, cmd *exec.Cmd) {
				if r := w.finish(cmd); r.code != 0 {
					t.Fatalf("request %d: %s ended with %d:\n%s", n, cmd.Args[1], r.code, r.stderr)
				}
			}
			n, by := step(random)
			t.Logf("seed %d: from request %d, by %d", seed, n, by)
			for ; ; n += by {
				repo := fmt.Sprintf("/a/%s%d", name, n)
				truth := storage.Addr + repo
				must(n, w.publishTo(truth, old...))
				kept, last := old, w.publishTo(f.Addr+repo, current...)
				if name == "gc" {
					must(n, w.publishTo(truth, current...))
					kept, last = current, w.command("gc", append([]string{"--cache", f.Addr + repo}, atOnce...)...)
				}
				k := &killer{n: n}
				killed := k.run(t, f, last)
				checkClosed(t, truth)
				have := sweep(t, truth)
				for _, p := range kept {
					if !have.Has(hashPart(p)) {
						t.Fatalf("killed after request %d: %s is lost", n, p)
					}
				}
				if killed && n+by < atMost {
					must(n, w.publishTo(truth, current...))
				}
				must(n, w.command("gc", append([]string{"--cache", truth}, atOnce...)...))
				if got := bases(sweep(t, truth)); len(got) != len(current) {
					t.Errorf("killed after request %d: left are %v", n, got)
				}
				if !killed || n+by >= atMost {
					w.newClient(w.proxy(truth)).substitute(current...)
					break
				}
			}
			if n < least || n+by >= atMost {
				t.Errorf("%s made fewer than %d requests", name, n)
			}
		})
	}
}

// A registry that refuses everything from some request on ends a publish. What
// is then said to be published is in the cache, and nothing else is.
func TestRefusedFromEachRequestOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	storage := registrytest.NewDistribution(t)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	codes := map[int]int{}
	n, by := step(random)
	t.Logf("seed %d: from request %d, by %d", seed, n, by)
	for ; ; n += by {
		repo := fmt.Sprintf("/a/refused%d", n)
		f := registrytest.NewFaulty(t, storage.Addr)
		var seen atomic.Int64
		f.Inject(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			if seen.Add(1) >= n {
				rw.WriteHeader(http.StatusForbidden)
				_, _ = io.WriteString(rw, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`)
				return
			}
			next.ServeHTTP(rw, r)
		})
		paths := w.add(fmt.Sprintf("refused-%d", n), noise(random, 1000), noise(random, 400_000))
		r := w.finish(w.publishTo(f.Addr+repo, paths...))
		codes[r.code]++
		have := 0
		s := sweep(t, storage.Addr+repo)
		for _, p := range paths {
			if s.Has(hashPart(p)) {
				have++
			}
		}
		switch {
		case r.code == 0 && seen.Load() < n:
			t.Logf("%d requests, exit statuses %v", seen.Load(), codes)
			if n < 8 || codes[1] == 0 {
				t.Errorf("got the exit statuses %v", codes)
			}
			return
		case r.code == 0 && have == len(paths): // only how to read it could not be found out
		case r.code == 0:
			t.Errorf("request %d: publish succeeded\n%s", n, r.stderr)
		case r.Committed != have:
			t.Errorf("request %d: %d paths are said to be published, %d are; exit status %d\n%s", n, r.Committed, have, r.code, r.stderr)
		case (r.code == 3) != (have > 0):
			t.Errorf("request %d: got exit status %d with %d of %d paths published\n%s", n, r.code, have, len(paths), r.stderr)
		case !strings.Contains(r.stderr, "registry "+f.Addr) || !strings.Contains(r.stderr, "docker login") && !strings.Contains(r.stderr, "everything is stored"):
			t.Errorf("request %d: it is not said what failed, or what to do:\n%s", n, r.stderr)
		}
		if n > 60 {
			t.Fatal("it never ends")
		}
	}
}
