package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/org/nixoci-action/internal/nix/nixtest"
)

// lab is a world with one version of Nix, and a cache that this version has
// filled, behind a proxy.
type lab struct {
	*world
	cache, conf, url string
	flake            result // of extrasFlake
	big              string // a path with a NAR of megabytes
}

// labWork is what users do, one row each. All of them work with every version
// of Nix, on the same cache, one after the other.
var labWork = []struct {
	name string
	do   func(*lab)
}{
	{"substitute", (*lab).substitutes},
	{"publish again", (*lab).publishesNothingNew},
	{"path-info --store", (*lab).pathInfo},
	{"store verify --store", (*lab).verifies},
	{"copy --from", (*lab).copiesFrom},
	{"store ls, store cat", (*lab).looksInside},
	{"an interrupted NAR", (*lab).resumes},
	{"netrc", (*lab).authenticates},
	{"copy --to", (*lab).copiesTo},
	{"log", func(l *lab) { l.checkLogs(l.conf, l.flake) }},
	{"listings", func(l *lab) { l.checkListings(l.conf, l.flake) }},
	{"realisations", (*lab).realises},
}

func TestEveryVersionOfNix(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		l := newLab(t, v)
		for _, work := range labWork {
			t.Run(work.name, func(t *testing.T) {
				inner, world := *l, *l.world
				world.T = t
				inner.world = &world
				work.do(&inner)
			})
		}
	})
}

// newLab publishes with that version.
func newLab(t *testing.T, v nixtest.Version) *lab {
	l := &lab{world: newWorldIn(t, v.New(t)), cache: inDistribution(t)}
	l.addConf("extra-experimental-features = ca-derivations\n")
	// part of a log that must not be published
	l.Vars = append(l.Vars, "NIXOCI_PASSWORD=correct-horse-battery", "NIXOCI_USERNAME=nobody")
	l.flake = l.publish(l.cache, "--flake", l.world.flake(extrasFlake("one")))
	if n := len(l.flake.paths()); n != 7 || l.flake.Uploaded.Paths != l.flake.Closure.Paths {
		t.Fatalf("publish: got %d paths, %+v\n%s", n, l.flake, l.flake.stderr)
	}
	// the paths of add are content-addressed, and would need no signature
	l.big = l.chain("big", 3_000_000)[0]
	l.Nix(l, l.Dir, "store", "sign", "--key-file", l.keyFile, l.big) // nobody has built it
	l.publish(l.cache, l.big)
	l.conf = l.proxy(l.cache)
	l.url = substituter(l.conf)
	return l
}

// client is one that needs signatures.
func (l *lab) client(conf string) *client {
	c := l.newClient(conf)
	l.Cleanup(func() { makeWritable(c.root) })
	return c
}

// front is a proxy before the proxy, and the lines for nix.conf that name it.
func (l *lab) front(handler func(next http.Handler) http.Handler) (url, conf string) {
	front := httptest.NewServer(handler(httputil.NewSingleHostReverseProxy(parse(l, l.url))))
	l.Cleanup(front.Close)
	return front.URL, strings.Replace(l.conf, l.url, front.URL, 1)
}

func parse(l *lab, text string) *url.URL {
	u, err := url.Parse(text)
	if err != nil {
		l.Fatal(err)
	}
	return u
}

// must fails the test if Nix did, and returns what it printed.
func (l *lab) must(out string, err error) string {
	l.Helper()
	if err != nil {
		l.Errorf("got %v\n%s", err, out)
	}
	return out
}

func (l *lab) substitutes() {
	l.client(l.conf).substitute(append(l.flake.paths(), l.big)...)
	line, _, _ := strings.Cut(l.conf, "\n")
	if out, err := l.client(line+"\n").nix("build", "--no-link", l.flake.named("plain")); err == nil {
		l.Errorf("a client without the key substituted:\n%s", out)
	}
}

func (l *lab) publishesNothingNew() {
	r := l.publish(l.cache, "--flake", filepath.Join(l.Dir, "flake"))
	if r.Uploaded.Paths != 0 || r.Committed != 0 || r.InCache.Paths != r.Closure.Paths || len(r.paths()) != 7 {
		l.Errorf("got %+v", r)
	}
}

var narHash = regexp.MustCompile(`"narHash": ?"(sha256-[^"]+)"`)

// Each version prints another JSON; the hash is the same text in all.
func (l *lab) pathInfo() {
	c := l.client(l.conf)
	for _, path := range append(l.flake.paths(), l.big) {
		want := narHash.FindStringSubmatch(l.Nix(l, l.Dir, "path-info", "--json", path))
		if want == nil {
			l.Fatalf("the store has no hash of %s", path)
		}
		got := l.must(c.nix("path-info", "--store", l.url, "--json", path))
		if !strings.Contains(got, want[1]) || !strings.Contains(got, "e2e-1:") {
			l.Errorf("%s: got %s, want the hash %s and a signature", path, got, want[1])
		}
	}
	if out, err := c.nix("path-info", "--store", l.url, filepath.Join(l.Store, strings.Repeat("0", 32)+"-absent")); err == nil || !strings.Contains(out, "not valid") {
		l.Errorf("a path that is not there: got %v\n%s", err, out)
	}
}

// Nix reads every NAR.
func (l *lab) verifies() {
	paths := append(l.flake.paths(), l.big)
	l.must(l.client(l.conf).nix(append([]string{"store", "verify", "--store", l.url, "--recursive"}, paths...)...))
	line, _, _ := strings.Cut(l.conf, "\n")
	if out, err := l.client(line+"\n").nix("store", "verify", "--store", l.url, l.flake.named("plain")); err == nil || !strings.Contains(out, "untrusted") {
		l.Errorf("without the key: got %v\n%s", err, out)
	}
}

// nix copy asks with HEAD before it asks with GET.
func (l *lab) copiesFrom() {
	var mu sync.Mutex
	var heads []string
	front, conf := l.front(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				mu.Lock()
				heads = append(heads, r.URL.Path)
				mu.Unlock()
			}
			next.ServeHTTP(w, r)
		})
	})
	c := l.client(conf)
	l.must(c.nix(append([]string{"copy", "--from", front, "--to", c.store()}, l.flake.paths()...)...))
	for _, path := range l.flake.paths() {
		c.same(path)
	}
	mu.Lock()
	if !slices.Contains(heads, "/"+hashPart(l.flake.named("plain"))+".narinfo") {
		l.Errorf("Nix has asked with HEAD for %v", heads)
	}
	mu.Unlock()
	absent := filepath.Join(l.Store, strings.Repeat("0", 32)+"-absent")
	if out, err := c.nix("copy", "--from", front, "--to", c.store(), absent); err == nil || !strings.Contains(out, "there is no substituter that can build it") {
		l.Errorf("a path that is not there: got %v\n%s", err, out)
	}
}

func (l *lab) looksInside() {
	c, path := l.client(l.conf), l.flake.named("nasty")
	out := l.must(c.nix("store", "ls", "--store", l.url, "--long", "--recursive", path))
	for _, want := range []string{"./a b/ünï/x", "./empty", "./link -> none", "./run"} {
		if !strings.Contains(out, want) {
			l.Errorf("ls: %q is not in\n%s", want, out)
		}
	}
	if out := l.must(c.nix("store", "cat", "--store", l.url, path+"/a b/ünï/x")); !strings.HasSuffix(out, "one\n") {
		l.Errorf("cat: got %q", out)
	}
}

// A transfer that was cut off goes on at its byte.
func (l *lab) resumes() {
	cut := newCutter(l, parse(l, l.url).Host, 1_000_000)
	c := l.client(strings.Replace(l.conf, l.url, "http://"+cut.addr, 1) + "download-attempts = 5\n")
	out := l.must(c.run("nix-store", "--realise", l.big))
	c.same(l.big)
	seen := cut.traffic()
	ranged := slices.IndexFunc(seen, func(s string) bool { return strings.HasPrefix(s, "Range: bytes=") && s != "Range: bytes=0-" })
	if ranged < 0 || !slices.ContainsFunc(seen[ranged:], func(s string) bool { return strings.HasPrefix(s, "HTTP/1.1 206") }) {
		l.Errorf("got %q, want a request for the rest and 206\n%s", seen, out)
	}
}

func (l *lab) authenticates() {
	_, conf := l.front(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); user != "me" || password != "sesame" {
				w.Header().Set("WWW-Authenticate", `Basic realm="cache"`)
				http.Error(w, "who are you?", http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	file := filepath.Join(l.TempDir(), "netrc")
	for _, password := range []string{"open", "sesame"} {
		if err := os.WriteFile(file, fmt.Appendf(nil, "machine 127.0.0.1 login me password %s\n", password), 0o600); err != nil {
			l.Fatal(err)
		}
		c := l.client(conf + "netrc-file = " + file + "\n")
		if password == "sesame" {
			c.substitute(l.flake.paths()...)
		} else if out, err := c.nix("build", "--no-link", l.flake.named("plain")); err == nil {
			l.Errorf("with a wrong password:\n%s", out)
		}
	}
}

func (l *lab) copiesTo() {
	conf := l.startProxy(l.cache, 2, l.signPushes()...)
	sent := 0
	for _, compression := range []string{"xz", "zstd"} {
		paths := l.chain(compression, 2000, 700_000, 300)
		sent += len(paths)
		for range 2 { // the second time nothing is sent
			l.copyTo(substituter(conf)+"?compression="+compression, paths[2])
			if s := l.pushStatus(substituter(conf)).Pushed; s.Paths != sent || s.Refused != 0 {
				l.Errorf("%s: got %+v, want %d paths", compression, s, sent)
			}
		}
		l.client(conf).substitute(paths...)
	}
}

// By the derivation, whose paths the client cannot know.
func (l *lab) realises() {
	c := l.client(l.conf)
	l.must(c.nix("build", "--no-link", "path:"+filepath.Join(l.Dir, "flake")+"#ca"))
	c.same(l.flake.named("ca-app"))
}
