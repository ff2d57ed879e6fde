package many

import (
	"encoding/base64"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/registrytest"
)

type passwordFor Credentials

func (p passwordFor) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig{Username: p.User, Password: p.Password}), nil
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestIdentities(t *testing.T) {
	i := newIdentities()
	same := i.of(&Credentials{"a", "bc"})
	if same != i.of(&Credentials{"a", "bc"}) || same == (identity{}) {
		t.Error("the same credentials are two users")
	}
	for _, c := range []*Credentials{nil, {"ab", "c"}, {"", "abc"}, {"a", "bd"}, {"A", "bc"}, {"abc", ""}} {
		if i.of(c) == same {
			t.Errorf("%#v is the same user", c)
		}
	}
	if newIdentities().of(&Credentials{"a", "bc"}) == same {
		t.Error("the hash is the same in every process")
	}
	if s := fmt.Sprintf("%v %+v %#v %s", Credentials{"a", "bc"}, Credentials{"a", "bc"}, Credentials{"a", "bc"}, &Credentials{"a", "bc"}); strings.Contains(s, "bc") {
		t.Errorf("printed as %s", s)
	}
}

// eachProtocol runs a test with a registry that speaks HTTP Basic and with one
// that has tokens, both before a real one.
func eachProtocol(t *testing.T, f func(t *testing.T, reg *registrytest.Private, backend string)) {
	for name, tokens := range map[string]bool{"basic": false, "tokens": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backend := registrytest.NewDistribution(t).Addr
			f(t, registrytest.NewPrivate(t, backend, tokens), backend)
		})
	}
}

// Nobody sees anything of a private cache without credentials that are valid
// for it, however close he comes to somebody who has some: at the same time,
// with URLs that only they can know, with almost the same password.
func TestCredentialIsolation(t *testing.T) {
	eachProtocol(t, func(t *testing.T, reg *registrytest.Private, backend string) {
		alices := hello(t, backend+"/alice/cache", 1)
		bobs := hello(t, backend+"/bob/cache", 2)
		public := hello(t, backend+"/public/cache", 3)
		reg.User("alice", "wonderland", "alice/")
		reg.User("bob", "builder", "bob/")
		reg.Open("public/")
		r := newRouter(t, reg.Addr)
		url := proxytest.Start(t, r)

		paths := func(cache string, e format.Entry) []string {
			at := url + "/" + reg.Addr + "/" + cache + "/"
			return []string{at + "nix-cache-info", at + e.Path.HashPart + ".narinfo", at + e.URL(), at + "public-key", at + "_status"}
		}
		may := [][2]string{{"alice", "wonderland"}}
		mayNot := [][2]string{
			{"", ""}, {"bob", "builder"}, {"alice", ""}, {"alice", "Wonderland"}, {"alice", "wonderland "}, {"alice", "builder"}, {"ALICE", "wonderland"},
			{"alicew", "onderland"}, {"bob", "wonderland"}, {"", "wonderland"}, {"nobody", "x"},
		}
		ask := func(who [2]string, path string) int {
			var header []string
			if who != [2]string{} {
				header = []string{"Authorization", basic(who[0], who[1])}
			}
			resp, body, err := proxytest.Fetch(t, path, header...)
			if err != nil {
				t.Error(err)
			}
			if resp.StatusCode != 200 && (strings.Contains(string(body), alices.Path.Name) || strings.Contains(string(body), proxytest.PublicKey)) {
				t.Errorf("%s to %v: the refusal tells %q", path, who, body)
			}
			return resp.StatusCode
		}
		// all at once, and again when everything is open
		for round := range 3 {
			var wg sync.WaitGroup
			for _, path := range paths("alice/cache", alices) {
				for _, who := range append(mayNot, may...) {
					for range 3 {
						wg.Go(func() {
							got := ask(who, path)
							if allowed := who == may[0]; allowed && got != 200 || !allowed && got != 403 && got != 404 {
								t.Errorf("round %d: %s to %v: got %d", round, path, who, got)
							}
						})
					}
				}
			}
			wg.Wait()
		}
		// other ways of saying who one is
		narinfo := paths("alice/cache", alices)[1]
		for _, header := range [][2]string{
			{"Authorization", "Bearer wonderland"}, {"Authorization", "basic"}, {"Authorization", "Basic !!!"}, {"Cookie", "user=alice"},
			{"Proxy-Authorization", basic("alice", "wonderland")}, {"X-Forwarded-User", "alice"},
		} {
			if resp, _, _ := proxytest.Fetch(t, narinfo, header[0], header[1]); resp.StatusCode != 403 && resp.StatusCode != 404 {
				t.Errorf("with %v: got %d", header, resp.StatusCode)
			}
		}
		// nor through the cache of somebody else
		for _, path := range []string{"/bob/cache/" + alices.URL(), "/bob/cache/" + alices.Path.HashPart + ".narinfo", "/public/cache/" + alices.URL(), "/bob/cache/../../alice/cache/" + alices.URL()} {
			if got := ask([2]string{"bob", "builder"}, url+"/"+reg.Addr+path); got == 200 {
				t.Errorf("%s to bob: got 200", path)
			}
		}
		if got := ask([2]string{"bob", "builder"}, paths("bob/cache", bobs)[1]); got != 200 {
			t.Errorf("bob's own: got %d", got)
		}
		for _, who := range [][2]string{{"", ""}, {"alice", "wonderland"}} {
			if got := ask(who, paths("public/cache", public)[2]); got != 200 {
				t.Errorf("the public one to %v: got %d", who, got)
			}
		}
		// nor does the status tell of it
		if resp, body, _ := proxytest.Fetch(t, url+"/_status"); resp.StatusCode != 200 || strings.Contains(string(body), "alice") || !strings.Contains(string(body), "public/cache") {
			t.Errorf("the status: %d %s", resp.StatusCode, body)
		}
	})
}

// An index that names the digest of somebody else's blob does not get it, not
// even from the proxy's memory.
func TestPacksAreNotShared(t *testing.T) {
	backend := registrytest.GGCR(t)
	reg := registrytest.NewPrivate(t, backend, false)
	reg.User("alice", "wonderland", "alice/")
	reg.User("mallory", "x", "mallory/")
	pack := proxytest.RandomBytes(9, 4000)
	entries := make([]format.Entry, 2)
	for i := range entries {
		part := pack[i*2000 : (i+1)*2000]
		entries[i] = proxytest.FileEntry(fmt.Sprint("packed-", i), part)
		entries[i].NAR = format.Location{Blob: proxytest.DigestOf(pack), BlobSize: 4000, Offset: int64(i * 2000), Size: 2000}
	}
	repo := proxytest.OpenRepo(t, backend+"/alice/cache")
	proxytest.PutBlob(t, repo, pack)
	proxytest.Publish(t, repo, format.Config{}, entries...)
	proxytest.Publish(t, proxytest.OpenRepo(t, backend+"/mallory/cache"), format.Config{}, entries...) // go-containerregistry's takes it without the blob

	r := newRouter(t, reg.Addr)
	nar := func(user, password string, i int) (int, string) {
		w := proxytest.Get(r, "GET", "/"+reg.Addr+"/"+user+"/cache/"+entries[i].URL(), "Authorization", basic(user, password))
		return w.Code, w.Body.String()
	}
	for i := range 4 {
		if code, body := nar("alice", "wonderland", i%2); code != 200 || body != string(pack[i%2*2000:][:2000]) {
			t.Fatalf("alice: got %d", code)
		}
	}
	if r.packs.Used() != 4000 {
		t.Fatalf("%d bytes of packs are held, so this test shows nothing", r.packs.Used())
	}
	requests := len(reg.Requests())
	code, _ := nar("mallory", "x", 0)
	var own bool
	for _, q := range reg.Requests()[requests:] {
		own = own || strings.HasPrefix(q, "mallory GET /v2/mallory/cache/blobs/"+proxytest.DigestOf(pack).String())
	}
	// this registry shares blobs between repositories, which is its affair
	if !own {
		t.Errorf("mallory got %d without asking the registry for it", code)
	}
	r.mu.Lock()
	for _, c := range r.caches {
		r.remove(c)
	}
	r.mu.Unlock()
	if r.packs.Used() != 0 {
		t.Errorf("%d bytes of packs are held after all", r.packs.Used())
	}
}

// Credentials are good for as long as the registry says so, and only a moment
// longer.
func TestRevokedCredentials(t *testing.T) {
	eachProtocol(t, func(t *testing.T, reg *registrytest.Private, backend string) {
		e := hello(t, backend+"/alice/cache", 1)
		reg.User("alice", "wonderland", "alice/")
		const valid = 400 * time.Millisecond
		r := newRouter(t, reg.Addr, func(o *RouterOptions) { o.Refresh = valid })
		ask := func() int {
			return proxytest.Get(r, "GET", "/"+reg.Addr+"/alice/cache/"+e.Path.HashPart+".narinfo", "Authorization", basic("alice", "wonderland")).Code
		}
		// used all the time, they stay valid
		for end := time.Now().Add(4 * valid); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if got := ask(); got != 200 {
				t.Fatalf("got %d", got)
			}
		}
		reg.User("alice", "changed", "alice/")
		time.Sleep(valid)
		for range 20 {
			if got := ask(); got != 403 {
				t.Fatalf("after the password was changed: got %d, want 403", got)
			}
		}
		reg.User("alice", "changed")
		if got := proxytest.Get(r, "GET", "/"+reg.Addr+"/alice/cache/nix-cache-info", "Authorization", basic("alice", "changed")).Code; got != 403 {
			t.Errorf("a user who may read nothing: got %d, want 403", got)
		}
	})
}

// While the registry is away nobody knows whether credentials are valid, so
// they are not, and that is said at once.
func TestCredentialsWithoutTheRegistry(t *testing.T) {
	backend := registrytest.NewDistribution(t)
	reg := registrytest.NewPrivate(t, backend.Addr, false)
	e := hello(t, backend.Addr+"/alice/cache", 1)
	public := hello(t, backend.Addr+"/public/cache", 2)
	reg.User("alice", "wonderland", "alice/")
	reg.Open("public/")
	const valid = 300 * time.Millisecond
	r := newRouter(t, reg.Addr, func(o *RouterOptions) { o.Refresh = valid })
	private := func() int {
		return proxytest.Get(r, "GET", "/"+reg.Addr+"/alice/cache/"+e.Path.HashPart+".narinfo", "Authorization", basic("alice", "wonderland")).Code
	}
	open := func() int {
		return proxytest.Get(r, "GET", "/"+reg.Addr+"/public/cache/"+public.Path.HashPart+".narinfo").Code
	}
	if a, b := private(), open(); a != 200 || b != 200 {
		t.Fatalf("got %d and %d", a, b)
	}
	backend.Stop()
	time.Sleep(valid)
	begin := time.Now()
	for range 50 {
		if a, b := private(), open(); a != 404 || b != 200 {
			t.Fatalf("without the registry: got %d and %d, want 404 and 200", a, b)
		}
	}
	if took := time.Since(begin); took > 2*freshWait+2*time.Second {
		t.Errorf("a hundred requests took %s", took)
	}
	backend.Start(t)
	for deadline := time.Now().Add(60 * time.Second); private() != 200; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the private cache does not come back")
		}
	}
}

// The credentials end at the registry: a Server does not see them.
func TestCredentialsGoNoFurther(t *testing.T) {
	req := httptest.NewRequest("GET", "http://u:p@proxy/ghcr.io/a/b/nix-cache-info?x=y", nil)
	req.Header.Set("Authorization", basic("alice", "wonderland"))
	q := stripped(req, "/nix-cache-info")
	if q.Header.Get("Authorization") != "" || q.URL.User != nil || q.URL.Path != "/nix-cache-info" || q.URL.RawQuery != "x=y" {
		t.Errorf("got %v, %v", q.URL, q.Header)
	}
	if req.Header.Get("Authorization") == "" || req.URL.Path != "/ghcr.io/a/b/nix-cache-info" {
		t.Error("the request itself has changed")
	}
}
