package proxy

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

type login authn.Basic

func (l login) Resolve(authn.Resource) (authn.Authenticator, error) {
	return &authn.Basic{Username: l.Username, Password: l.Password}, nil
}

func TestRedirects(t *testing.T) {
	reg := registrytest.NewRedirecting(t)
	repo, err := registry.Open(reg.Addr+"/a/b", registry.Options{Push: true, Keychain: login{Username: reg.User, Password: reg.Password}})
	if err != nil {
		t.Fatal(err)
	}
	large := proxytest.RandomBytes(80, 1<<20)
	proxytest.PutBlob(t, repo, large)
	proxytest.PutBlob(t, repo, proxytest.PackData(3, 1000))
	e := proxytest.FileEntry("large", large)
	packed := proxytest.PackEntries(t, "p", 3, 1000)
	proxytest.Publish(t, repo, format.Config{}, append(packed, e)...)
	questions := &asked{Redirector: repo.(Redirector)}
	asked := func() int64 { return questions.n.Swap(0) }
	s := newServer(t, repo, func(o *Options) { o.Redirect = questions })
	url := proxytest.Start(t, s)
	// The client's own credentials, for the proxy, reach nobody else.
	resp, body, err := proxytest.Fetch(t, url+"/"+e.URL(), "Authorization", "Basic c2VjcmV0")
	if err != nil || resp.StatusCode != 200 || !bytes.Equal(body, large) {
		t.Errorf("got %s, %d bytes, %v", resp.Status, len(body), err)
	}
	if host := resp.Request.URL.Host; "http://"+host == url || host == reg.Addr {
		t.Errorf("the NAR came from %s", host)
	}
	resp, body, err = proxytest.Fetch(t, url+"/"+e.URL(), "Range", "bytes=1000000-")
	if err != nil || resp.StatusCode != 206 || !bytes.Equal(body, large[1_000_000:]) {
		t.Errorf("a part: got %s, %d bytes, %v", resp.Status, len(body), err)
	}
	if n := asked(); n != 1 {
		t.Errorf("the registry was asked %d times for a URL that is valid for an hour", n)
	}
	head := proxytest.Get(s, http.MethodHead, "/"+e.URL())
	if head.Code != 200 || head.Header().Get("Content-Length") != fmt.Sprint(len(large)) || head.Header().Get("Accept-Ranges") != "bytes" || asked() != 0 {
		t.Errorf("HEAD: got %d, %v", head.Code, head.Header())
	}
	r := proxytest.Get(s, http.MethodGet, "/"+e.URL())
	if r.Code != 307 || r.Body.Len() != 0 || r.Header().Get("Cache-Control") != "no-store" || r.Header().Get("Accept-Ranges") != "" {
		t.Errorf("GET: got %d, %v", r.Code, r.Header())
	}
	for i, p := range packed {
		if got := proxytest.Get(s, http.MethodGet, "/"+p.URL()); got.Code != 200 || !bytes.Equal(got.Body.Bytes(), proxytest.PackMember(i, 1000)) {
			t.Errorf("packed: got %d, %d bytes", got.Code, got.Body.Len())
		}
	}
	if got := s.Status().Served; got.NARRedirects != 3 || got.NARs != 3 {
		t.Errorf("got %+v", got)
	}

	// a URL that is about to expire is used once
	reg.Lifetime.Store(60)
	s.redirects.mu.Lock()
	s.redirects.known.Clear()
	s.redirects.mu.Unlock()
	for range 2 {
		if resp, body, err := proxytest.Fetch(t, url+"/"+e.URL()); err != nil || resp.StatusCode != 200 || !bytes.Equal(body, large) {
			t.Errorf("got %s, %d bytes, %v", resp.Status, len(body), err)
		}
	}
	if n := asked(); n != 2 {
		t.Errorf("the registry was asked %d times for a URL that is valid for a minute, want each time", n)
	}
	if reg.Refused.Load() != 0 {
		t.Errorf("the storage refused %d requests", reg.Refused.Load())
	}
}

// asked counts the questions.
type asked struct {
	Redirector
	n atomic.Int64
}

func (c *asked) BlobURL(ctx context.Context, digest v1.Hash) (string, time.Time, error) {
	c.n.Add(1)
	return c.Redirector.BlobURL(ctx, digest)
}

// A registry that sends blobs itself is asked for another's URL now and then
// only.
func TestRedirectsToNobody(t *testing.T) {
	reg := registrytest.NewDistribution(t)
	repo := proxytest.OpenRepo(t, reg.Addr+"/a/b")
	data := proxytest.RandomBytes(82, 300_000)
	proxytest.PutBlob(t, repo, data)
	e := proxytest.FileEntry("nar", data)
	proxytest.Publish(t, repo, format.Config{}, e)
	asked := &asked{Redirector: repo.(Redirector)}
	s := newServer(t, repo, func(o *Options) { o.Redirect = asked })
	for range 5 {
		if got := proxytest.Get(s, http.MethodGet, "/"+e.URL()); got.Code != 200 || !bytes.Equal(got.Body.Bytes(), data) {
			t.Errorf("got %d, %d bytes", got.Code, got.Body.Len())
		}
	}
	if n := asked.n.Load(); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	reg.Stop() // then it is as without redirects
	s.redirects = newRedirects(asked)
	for range 3 {
		if got := proxytest.Get(s, http.MethodGet, "/"+e.URL()); got.Code != 404 {
			t.Errorf("without a registry: got %d, want 404", got.Code)
		}
	}
}
