package push_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/secret"
	"github.com/org/nixoci-action/internal/signing"
	"github.com/org/nixoci-action/proxy/push"
)

// symbolsListing is a listing with the symbols for proxytest.BuildID.
var symbolsListing = `{"root":{"entries":{"lib":{"entries":{"debug":{"entries":{".build-id":{"entries":{"` + proxytest.BuildID[:2] + `":{"entries":{"` + proxytest.BuildID[2:] +
	`.debug":{"narOffset":96,"size":1,"type":"regular"}},"type":"directory"}},"type":"directory"}},"type":"directory"}},"type":"directory"}},"type":"directory"},"version":1}`

func realisationOf(id string, p pushed) (path, doc string) {
	return "/realisations/" + id + ".doi", fmt.Sprintf(`{"dependentRealisations":{},"id":%q,"outPath":%q,"signatures":[]}`, id, p.base())
}

// realised is a realisation that is served.
func realised(t *testing.T, h http.Handler, path string) format.Realisation {
	t.Helper()
	w := proxytest.Get(h, http.MethodGet, path)
	r, _, err := format.ParseRealisation(bincache.ParseURLPath(path), w.Body.Bytes())
	if w.Code != http.StatusOK || err != nil {
		t.Fatalf("%s: got %d, %s: %v", path, w.Code, w.Body, err)
	}
	return r
}

// status is what /_status says of pushes.
type status struct {
	Pushed struct{ Paths, NARs, Extras, Refused, Segments int }
}

func statusOf(t *testing.T, h http.Handler) (st status) {
	t.Helper()
	if err := json.Unmarshal(proxytest.Get(h, http.MethodGet, "/_status").Body.Bytes(), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

func answers(t *testing.T, h http.Handler, path string, want int, text string) {
	t.Helper()
	if w := proxytest.Get(h, http.MethodGet, path); w.Code != want || !strings.Contains(w.Body.String(), text) {
		t.Errorf("%s: got %d, %s; want %d, %s", path, w.Code, w.Body, want, text)
	}
}

func put(t *testing.T, h http.Handler, path, body string, want int) {
	t.Helper()
	if w := proxytest.Request(h, http.MethodPut, path, []byte(body)); w.Code != want {
		t.Errorf("PUT %s: got %d, %s; want %d", path, w.Code, w.Body, want)
	}
}

// The other files of a binary cache are stored with the paths they belong to,
// served at once, and by others.
func TestPushExtras(t *testing.T) {
	onBackends(t, func(t *testing.T, repo registry.Repository) {
		keys, public := newKeys(t, "server-1")
		s := newPushServer(t, repo, func(o *options) { o.Push.Keys = keys })
		out := newPushed(t, "multi", bincache.CompressionZstd, []byte("out"))
		dev := newPushed(t, "multi-dev", bincache.CompressionNone, []byte("dev"), out.base())
		for _, p := range []*pushed{&out, &dev} {
			p.entry.Deriver = proxytest.Drv
		}
		listing, debug := "/"+out.entry.Path.HashPart+".ls", "/debuginfo/"+proxytest.BuildID+".debug"
		info := `{"archive":"../` + out.entry.URL() + `","member":"lib/debug/.build-id/` + proxytest.BuildID[:2] + "/" + proxytest.BuildID[2:] + `.debug"}`
		realisation, real := realisationOf(proxytest.Realisation, out)

		// as Nix sends them: first the listing, then what is in the path
		put(t, s, debug, info, 409)
		put(t, s, listing, symbolsListing, 200)
		put(t, s, debug, info, 200)
		put(t, s, realisation, real, 409)
		put(t, s, "/log/"+proxytest.Drv, "building", 409)
		answers(t, s, listing, 404, "")
		answers(t, s, "/debuginfo/"+proxytest.BuildID, 404, "")
		for _, p := range []pushed{out, dev} {
			if w := copyTo(s, p); w.Code != http.StatusCreated {
				t.Fatalf("got %d, %s", w.Code, w.Body)
			}
		}
		put(t, s, "/log/"+proxytest.Drv, "", 200)
		put(t, s, "/log/"+proxytest.Drv, "building", 201)
		put(t, s, realisation, real, 201)
		// again: all of it is there
		put(t, s, "/log/"+proxytest.Drv, "building again", 200)
		put(t, s, realisation, real, 200)
		put(t, s, listing, `{"version":1,"root":{"type":"directory","entries":{}}}`, 200)
		put(t, s, debug, info, 200)
		// what came without a listing gets one
		put(t, s, "/"+dev.entry.Path.HashPart+".ls", proxytest.Listing, 201)
		// of two paths for one output the cache keeps the first
		_, other := realisationOf(proxytest.Realisation, dev)
		put(t, s, realisation, other, 200)
		// and the same path again loses nothing
		if w := copyTo(s, out); w.Code != http.StatusOK {
			t.Errorf("again: got %d, %s", w.Code, w.Body)
		}
		check := func(h http.Handler) {
			t.Helper()
			answers(t, h, listing, 200, symbolsListing)
			answers(t, h, "/"+dev.entry.Path.HashPart+".ls", 200, proxytest.Listing)
			answers(t, h, "/log/"+proxytest.Drv, 200, "building")
			answers(t, h, "/log/"+strings.TrimSuffix(proxytest.Drv, ".drv"), 200, "building")
			answers(t, h, strings.Replace(realisation, "!", "%21", 1), 200, `"outPath":"`+out.base()+`"`)
			answers(t, h, "/build-trace-v2/"+proxytest.Drv+"/out.doi", 200, `"outPath":"`+out.base()+`"`)
			answers(t, h, "/debuginfo/"+proxytest.BuildID, 200, info)
		}
		check(s)
		if r := realised(t, s, realisation); len(r.Signatures) != 1 || !signing.SignedBy([]string{public}, r.Fingerprint(out.base()), r.Signatures) {
			t.Errorf("the realisation has the signatures %q", r.Signatures)
		}
		// whose deriver that is, the client has not said
		if r := realised(t, s, "/build-trace-v2/"+proxytest.Drv+"/out.doi"); len(r.Signatures) != 0 {
			t.Errorf("by the derivation: got the signatures %q", r.Signatures)
		}
		if st := statusOf(t, s).Pushed; st.Extras != 4 || st.Paths != 2 || st.Refused != 3 {
			t.Errorf("got %+v, want a listing, two logs and a realisation", st)
		}
		if !s.push.Settle(context.Background(), true, time.Minute) {
			t.Fatal("not settled")
		}
		check(s)
		restarted := newPushServer(t, repo)
		check(restarted)
		// by another key: nothing is lost that the first proxy has taken
		signed := newPushServer(t, repo, func(o *options) { o.Push.Keys, _ = newKeys(t, "another-1") })
		if w := copyTo(signed, out); w.Code != http.StatusCreated {
			t.Errorf("by another key: got %d, %s", w.Code, w.Body)
		}
		check(signed)
		check(newServer(t, repo)) // that was not settled: the root shows the one before
		if !signed.push.Settle(context.Background(), false, time.Minute) {
			t.Fatal("not settled")
		}
		check(newServer(t, repo))
	})
}

// What a proxy has acknowledged, that died before it wrote the root, is not lost
// when another one adds to the same path.
func TestPushExtrasAfterACrash(t *testing.T) {
	repo := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	p := newPushed(t, "p", bincache.CompressionNone, []byte("p"))
	p.entry.Deriver = proxytest.Drv
	first := newPushServer(t, repo)
	if w := copyTo(first, p); w.Code != http.StatusCreated || !first.push.Settle(context.Background(), true, time.Minute) {
		t.Fatalf("got %d, %s", w.Code, w.Body)
	}
	put(t, first, "/log/"+proxytest.Drv, "building", 201)
	second := newPushServer(t, repo) // whose root does not show the log
	realisation, real := realisationOf(proxytest.Realisation, p)
	put(t, second, realisation, real, 201)
	answers(t, second, "/log/"+proxytest.Drv, 200, "building")
	answers(t, second, realisation, 200, p.base())
}

func TestPushExtrasRefuses(t *testing.T) {
	k := &killable{Repository: proxytest.OpenRepo(t, "oci:"+t.TempDir())}
	s := newPushServer(t, k)
	p := newPushed(t, "p", bincache.CompressionNone, []byte("p"))
	p.entry.Deriver = proxytest.Drv
	if w := copyTo(s, p); w.Code != http.StatusCreated {
		t.Fatalf("got %d, %s", w.Code, w.Body)
	}
	listing := "/" + p.entry.Path.HashPart + ".ls"
	realisation, real := realisationOf(proxytest.Realisation, p)
	for name, tc := range map[string]struct {
		path, body string
		want       int
		text       string
	}{
		"a listing of nothing":             {listing, "{}", 400, "no root"},
		"a listing that is none":           {listing, "<html>", 400, "listing"},
		"a listing of something larger":    {listing, `{"version":1,"root":{"type":"regular","size":9999,"narOffset":96}}`, 409, "not of " + p.base()},
		"a log of nothing":                 {"/log/x", "x", 400, "derivation"},
		"a log of a path":                  {"/log/" + p.base(), "x", 400, "derivation"},
		"a log elsewhere":                  {"/log/../" + proxytest.Drv, "x", 405, "does not take"},
		"a log of another derivation":      {"/log/" + strings.Replace(proxytest.Drv, proxytest.Drv[:4], "1111", 1), "x", 409, "copy one first"},
		"a large log":                      {"/log/" + proxytest.Drv, strings.Repeat("x", push.MaxLog+1), 413, "longer"},
		"a realisation of another":         {strings.Replace(realisation, "ab", "cd", 1), real, 400, "it is about"},
		"a realisation of nothing":         {"/realisations/x.doi", "{}", 400, "realisation"},
		"a realisation that is none":       {realisation, "<html>", 400, "realisation"},
		"a realisation that is not here":   {realisation, strings.Replace(real, p.base(), proxytest.Drv, 1), 409, "does not have"},
		"a realisation with another name":  {realisation, strings.Replace(real, p.base(), p.base()+"x", 1), 409, "does not have"},
		"a build trace of no derivation":   {"/build-trace-v2/x/out.doi", `{"outPath":"` + p.base() + `","signatures":[]}`, 400, "realisation"},
		"a long realisation":               {realisation, real + strings.Repeat(" ", push.MaxSmallExtra), 413, "longer"},
		"debug info of no build ID":        {"/debuginfo/x", "{}", 400, "build ID"},
		"debug info of something else":     {"/debuginfo/" + proxytest.BuildID, `{"archive":"../nar/x","member":"bin/sh"}`, 400, "symbols"},
		"debug info that no listing names": {"/debuginfo/" + proxytest.BuildID, `{"archive":"../nar/x","member":"lib/debug/.build-id/` + proxytest.BuildID[:2] + "/" + proxytest.BuildID[2:] + `.debug"}`, 409, "write-nar-listing=1"},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, proxytest.Request(s, http.MethodPut, tc.path, []byte(tc.body)), tc.want, tc.text)
		})
	}
	for _, path := range []string{listing, "/log/" + proxytest.Drv, realisation, p.narinfo()} {
		refused(t, proxytest.Request(s, http.MethodPut, path, []byte("x"), "Content-Encoding", "br"), 415, "uncompressed")
	}
	r := httptest.NewRequest(http.MethodPut, listing, struct{ *bytes.Buffer }{bytes.NewBufferString("x")})
	r.RemoteAddr, r.ContentLength = "127.0.0.1:1", -1
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	refused(t, w, 411, "length")
	k.dead.Store(true)
	for path, body := range map[string]string{listing: proxytest.Listing, "/log/" + proxytest.Drv: "x", realisation: real} {
		if w := proxytest.Request(s, http.MethodPut, path, []byte(body)); w.Code != http.StatusBadGateway {
			t.Errorf("%s without the registry: got %d, %s", path, w.Code, w.Body)
		}
		answers(t, s, path, 404, "")
	}
	k.dead.Store(false)
	put(t, s, "/log/"+proxytest.Drv, "x", 201)

	token := newPushServer(t, k, func(o *options) { o.Push.Tokens = []string{"0123456789abcdef"} })
	for _, path := range []string{listing, "/log/" + proxytest.Drv, realisation, "/debuginfo/" + proxytest.BuildID} {
		refused(t, proxytest.Request(token, http.MethodPut, path, []byte("x")), 401, "token")
	}
}

// Who takes only what is signed takes only such realisations, which Nix believes
// unseen.
func TestPushRealisationSignatures(t *testing.T) {
	repo := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	keys, public := newKeys(t, "cache-1")
	s := newPushServer(t, repo, func(o *options) { o.Push.Keys = keys })
	p := newPushed(t, "p", bincache.CompressionNone, []byte("p"))
	if w := copyTo(s, p); w.Code != http.StatusCreated || !s.push.Settle(context.Background(), true, time.Minute) {
		t.Fatalf("got %d, %s", w.Code, w.Body)
	}
	strict := newPushServer(t, repo, func(o *options) { o.Push.RequireSignatures, o.Push.TrustedKeys = true, []string{public} })
	path, doc := realisationOf(proxytest.Realisation, p)
	none := newPushServer(t, repo, func(o *options) { o.Push.RequireSignatures = true }) // the cache names the key
	refused(t, proxytest.Request(none, http.MethodPut, path, []byte(doc)), 403, "not signed")
	refused(t, proxytest.Request(strict, http.MethodPut, path, []byte(doc)), 403, "not signed")
	r := format.Realisation{ID: proxytest.Realisation}
	sigs, err := keys.Sign(r.Fingerprint(p.base()), nil)
	if err != nil {
		t.Fatal(err)
	}
	signed := strings.Replace(doc, "[]", `["`+sigs[0]+`"]`, 1)
	depends := strings.Replace(signed, "{}", `{"x":"y"}`, 1)
	refused(t, proxytest.Request(strict, http.MethodPut, path, []byte(depends)), 403, "not signed")
	put(t, strict, path, signed, 201)
	answers(t, strict, path, 200, sigs[0])
}

// What is pushed beside a NAR must not have the proxy's secrets in it either.
func TestPushedTextsWithSecrets(t *testing.T) {
	const token = "push-token-0123456789"
	secrets := &secret.Set{}
	secrets.Add("a push token", token)
	repo := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	s := newPushServer(t, repo, func(o *options) { o.Push.Secrets = secrets })
	p := newPushed(t, "good", bincache.CompressionZstd, []byte("good"))
	p.entry.Deriver = proxytest.Drv
	if w := copyTo(s, p); w.Code != 201 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	named := newPushed(t, "x-"+token, bincache.CompressionZstd, []byte("other"))
	for path, body := range map[string]string{
		"/log/" + proxytest.Drv:                      "the token is " + token,
		"/" + p.entry.Path.HashPart + ".ls":          `{"version":1,"root":{"type":"directory","entries":{"` + token + `":{"type":"regular","size":1}}}}`,
		named.narinfo():                              named.entry.Narinfo(),
		"/realisations/sha256:" + token + "!out.doi": `{"x":"` + token + `"}`,
	} {
		w := proxytest.Request(s, http.MethodPut, path, []byte(body))
		if w.Code != 403 || !strings.Contains(w.Body.String(), "it contains a push token") || strings.Contains(w.Body.String(), token) {
			t.Errorf("%s: got %d %s", path, w.Code, w.Body)
		}
	}
}
