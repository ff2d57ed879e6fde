package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/reply"
)

// narUpstream is an upstream cache with NARs, which answer serves once it is
// asked for one.
func narUpstream(tb testing.TB, e format.Entry, answer http.HandlerFunc) *proxytest.UpstreamCache {
	tb.Helper()
	return proxytest.NewUpstreamCache(tb, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/nar/") {
			answer(w, r)
			return
		}
		proxytest.NarinfoOf(e)(w, r)
	})
}

// streaming is a server with an upstream, whose NARs it passes on.
func streaming(tb testing.TB, url string) *Server {
	tb.Helper()
	return newServer(tb, proxytest.OpenRepo(tb, "oci:"+tb.TempDir()), func(o *Options) {
		o.Upstreams, o.UpstreamNARs = []string{url}, StreamNARs
		o.FirstByte, o.Stall, o.UpstreamTimeout = 500*time.Millisecond, 500*time.Millisecond, 500*time.Millisecond
		o.Logger = proxytest.LogTo(tb)
	})
}

// upstreamURL is the NAR's URL in the narinfo that s serves.
func upstreamURL(tb testing.TB, s *Server, e format.Entry) string {
	tb.Helper()
	got := proxytest.Get(s, "GET", "/"+e.Path.HashPart+".narinfo")
	_, rest, ok := strings.Cut(got.Body.String(), "\nURL: ")
	url, _, _ := strings.Cut(rest, "\n")
	if got.Code != 200 || !ok || !strings.HasPrefix(url, "upstream/") {
		tb.Fatalf("got %d, %q", got.Code, got.Body)
	}
	return "/" + url
}

func serveBytes(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "x.nar", time.Time{}, bytes.NewReader(data))
	}
}

func TestUpstreamNARIsStreamed(t *testing.T) {
	data := proxytest.RandomBytes(30, 700_000)
	e := proxytest.FileEntry("elsewhere", data)
	var agent atomic.Pointer[string]
	up := narUpstream(t, e, func(w http.ResponseWriter, r *http.Request) {
		agent.Store(new(r.UserAgent()))
		if r.Header.Get("Authorization") != "" || r.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("the upstream gets %v", r.Header)
		}
		serveBytes(data)(w, r)
	})
	s := streaming(t, up.URL)
	base := proxytest.Start(t, s)
	url := base + upstreamURL(t, s, e)
	resp, body, err := proxytest.Fetch(t, url, "Authorization", "Basic dTpw")
	if err != nil || resp.StatusCode != 200 || !bytes.Equal(body, data) || resp.ContentLength != 700_000 {
		t.Fatalf("got %d, %d bytes, %v", resp.StatusCode, len(body), err)
	}
	if got := resp.Header; got.Get("Accept-Ranges") != "bytes" || got.Get("Content-Type") != reply.TypeNAR || got.Get("Content-Encoding") != "" {
		t.Errorf("got %v", got)
	}
	if a := *agent.Load(); a != "nixoci/test" {
		t.Errorf("the upstream was asked by %q", a)
	}
	resp, body, err = proxytest.Fetch(t, url, "Range", "bytes=699000-")
	if err != nil || resp.StatusCode != 206 || !bytes.Equal(body, data[699_000:]) || resp.Header.Get("Content-Range") != "bytes 699000-699999/700000" {
		t.Errorf("a range: got %d, %v, %v", resp.StatusCode, resp.Header, err)
	}
	head := proxytest.Get(s, "HEAD", strings.TrimPrefix(url, base))
	if head.Code != 200 || head.Header().Get("Content-Length") != "700000" || head.Body.Len() != 0 {
		t.Errorf("HEAD: got %d, %v", head.Code, head.Header())
	}
	if up.Requests.Load() != 4 { // the narinfo once
		t.Errorf("the upstream got %d requests", up.Requests.Load())
	}
}

// A proxy that was started anew serves what an old narinfo promises.
func TestUpstreamNAROutlivesTheProxy(t *testing.T) {
	data := proxytest.RandomBytes(31, 1000)
	e := proxytest.FileEntry("elsewhere", data)
	up := narUpstream(t, e, serveBytes(data))
	other := proxytest.NewUpstreamCache(t, proxytest.NarinfoOf())
	old := streaming(t, up.URL)
	path := upstreamURL(t, old, e)
	again := newServer(t, proxytest.OpenRepo(t, "oci:"+t.TempDir()), func(o *Options) {
		o.Upstreams, o.UpstreamNARs = []string{other.URL, up.URL}, StreamNARs
	})
	if got := proxytest.Get(again, "GET", path); got.Code != 200 || !bytes.Equal(got.Body.Bytes(), data) {
		t.Errorf("got %d", got.Code)
	}
	// but none that has other contents by now: Nix would fail
	rebuilt := e
	rebuilt.NarHash = bincache.FormatHash(proxytest.Sum([]byte("rebuilt")))
	changed := newServer(t, proxytest.OpenRepo(t, "oci:"+t.TempDir()), func(o *Options) {
		o.Upstreams = []string{narUpstream(t, rebuilt, serveBytes(data)).URL}
	})
	changed.upstreams.caches[0].id = old.upstreams.caches[0].id // at the same URL
	if got := proxytest.Get(changed, "GET", path).Code; got != 404 {
		t.Errorf("a path that was built anew: got %d, want 404", got)
	}
}

// The query, which may be a signature, is not touched.
func TestUpstreamNARIsRedirected(t *testing.T) {
	e := proxytest.FileEntry("elsewhere", proxytest.RandomBytes(32, 100))
	var text atomic.Pointer[string]
	up := proxytest.NewUpstreamCache(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, *text.Load()) })
	for value, want := range map[string]string{
		"nar/x.nar.zst":                             up.URL + "/nar/x.nar.zst",
		"nar/x.nar?Z=a%2Bb%2F&A=1":                  up.URL + "/nar/x.nar?Z=a%2Bb%2F&A=1",
		"https://storage.example/a%2Fb?X-Amz=a%2Bb": "https://storage.example/a%2Fb?X-Amz=a%2Bb",
	} {
		text.Store(new(strings.Replace(e.Narinfo(), "URL: "+e.URL(), "URL: "+value, 1)))
		s := withUpstreams(t, up.URL)
		for _, method := range []string{"GET", "HEAD"} {
			if got := proxytest.Get(s, method, upstreamURL(t, s, e)); got.Code != 302 || got.Header().Get("Location") != want {
				t.Errorf("%s %s: got %d, %q", method, value, got.Code, got.Header().Get("Location"))
			}
		}
	}
}

// What an upstream does instead of delivering is "not found", in time; and what
// breaks off does not look complete.
func TestUpstreamNARTrouble(t *testing.T) {
	data := proxytest.RandomBytes(33, 400_000)
	e := proxytest.FileEntry("elsewhere", data)
	cut := func(n int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data[:n])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	}
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		cut    bool // after it has begun; else 404
		header []string
	}{
		"500":       {answer: proxytest.Fail(500)},
		"429":       {answer: proxytest.Fail(429)},
		"404":       {answer: proxytest.Fail(404)},
		"403":       {answer: proxytest.Fail(403)},
		"hangs":     {answer: proxytest.Hang},
		"drops":     {answer: cut(0)},
		"cut early": {answer: cut(1000)},
		"cut late":  {answer: cut(300_000), cut: true},
		"encoded": {answer: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			serveBytes(data)(w, r)
		}},
		"loop":          {answer: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }},
		"no ranges":     {answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) }, header: []string{"Range", "bytes=10-"}},
		"beyond":        {answer: serveBytes(data), header: []string{"Range", "bytes=400000-"}},
		"part unwanted": {answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(206); _, _ = w.Write(data) }},
		"stalls": {cut: true, answer: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data[:300_000])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}},
		"stalls in a body of unknown length": {cut: true, answer: func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(data[:300_000])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := streaming(t, narUpstream(t, e, tc.answer).URL)
			url := proxytest.Start(t, s) + upstreamURL(t, s, e)
			begin := time.Now()
			resp, body, err := proxytest.Fetch(t, url, tc.header...)
			switch {
			case tc.cut && (resp.StatusCode != 200 || err == nil):
				t.Errorf("got %d, %d bytes, %v; want a body that breaks off", resp.StatusCode, len(body), err)
			case !tc.cut && (resp.StatusCode != 404 || err != nil):
				t.Errorf("got %d, %v; want 404", resp.StatusCode, err)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestUpstreamNAROfUnknownLength(t *testing.T) {
	data := proxytest.RandomBytes(34, 400_000)
	e := proxytest.FileEntry("elsewhere", data)
	up := narUpstream(t, e, func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush() // chunked
		_, _ = io.Copy(w, bytes.NewReader(data))
	})
	s := streaming(t, up.URL)
	resp, body, err := proxytest.Fetch(t, proxytest.Start(t, s)+upstreamURL(t, s, e))
	if err != nil || resp.StatusCode != 200 || !bytes.Equal(body, data) || resp.Header.Get("Accept-Ranges") != "" {
		t.Errorf("got %d, %d bytes, %v, %v", resp.StatusCode, len(body), resp.Header, err)
	}
}

// Nobody can make the proxy fetch what no upstream's narinfo names.
func TestUpstreamNARPaths(t *testing.T) {
	e := proxytest.FileEntry("elsewhere", proxytest.RandomBytes(35, 100))
	up := narUpstream(t, e, serveBytes(proxytest.RandomBytes(35, 100)))
	s := streaming(t, up.URL)
	good := upstreamURL(t, s, e)
	id := s.upstreams.caches[0].id
	for _, path := range []string{
		"/upstream/", "/upstream/" + id, "/upstream/" + id + "/", "/upstream/0000000000000000/" + good[len("/upstream/")+len(id)+1:],
		"/upstream/" + id + "/nar/x.nar", "/upstream/" + id + "/../../x.nar", "/upstream/" + id + "/http://127.0.0.1/x.nar",
		strings.TrimSuffix(good, ".nar"), strings.TrimSuffix(good, ".nar") + "0.nar", good + "/x", strings.Replace(good, e.Path.HashPart, strings.Repeat("0", 32), 1),
	} {
		if got := proxytest.Get(s, "GET", path).Code; got != 404 {
			t.Errorf("%s: got %d, want 404", path, got)
		}
	}
	if got := proxytest.Get(s, "GET", good).Code; got != 200 {
		t.Errorf("%s: got %d", good, got)
	}
	if got := proxytest.Get(s, "PUT", good).Code; got != 405 {
		t.Errorf("PUT: got %d", got)
	}
}
