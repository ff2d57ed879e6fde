package proxy

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/registry"
)

func TestExtras(t *testing.T) {
	repo := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	log := strings.Repeat("building \x1b[1mhello\x1b[0m ünï\n", 20_000) // several pieces
	e := proxytest.PublishExtras(t, repo, log)
	s := newServer(t, repo)
	url := proxytest.Start(t, s)
	const sig = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="
	old := `{"dependentRealisations":{},"id":"` + proxytest.Realisation + `","outPath":"` + e.Path.Base() + `","signatures":["test-1:` + sig + `"]}`
	debug := `{"archive":"../` + e.URL() + `","member":"lib/debug/.build-id/01/23456789abcdef0123456789abcdef01234567.debug"}`
	for _, tc := range []struct{ path, contentType, body string }{
		{"/" + e.Path.HashPart + ".ls", "application/json", proxytest.Listing},
		{"/log/" + proxytest.Drv, "text/plain; charset=utf-8", log},
		{"/log/" + strings.TrimSuffix(proxytest.Drv, ".drv"), "text/plain; charset=utf-8", log},
		{"/realisations/" + proxytest.Realisation + ".doi", "application/json", old},
		{"/realisations/" + strings.Replace(proxytest.Realisation, "!", "%21", 1) + ".doi", "application/json", old},
		{"/realisations/" + strings.NewReplacer("!", "%21", ":", "%3A").Replace(proxytest.Realisation) + ".doi", "application/json", old},
		{"/build-trace-v2/" + proxytest.Drv + "/out.doi", "application/json", `{"outPath":"` + e.Path.Base() + `","signatures":[{"keyName":"test-1","sig":"` + sig + `"}]}`},
		{"/debuginfo/" + proxytest.BuildID, "application/json", debug},
		{"/debuginfo/" + proxytest.BuildID + ".debug", "application/json", debug},

		{"/" + strings.Repeat("0", 32) + ".ls", "", ""},
		{"/x.ls", "", ""},
		{"/.ls", "", ""},
		{"/log/", "", ""},
		{"/log/../" + proxytest.Drv, "", ""},
		{"/log/" + strings.Replace(proxytest.Drv, "hello", "other", 1), "", ""}, // the same hash part
		{"/log/" + strings.Replace(proxytest.Drv, "0", "1", 1), "", ""},
		{"/log/" + e.Path.Base(), "", ""},
		{"/realisations/" + proxytest.Realisation, "", ""},
		{"/realisations/" + strings.Replace(proxytest.Realisation, "!out", "!dev", 1) + ".doi", "", ""},
		{"/realisations/.doi", "", ""},
		{"/build-trace-v2/" + proxytest.Drv + "/dev.doi", "", ""},
		{"/build-trace-v2/" + proxytest.Drv + ".doi", "", ""},
		{"/debuginfo/" + proxytest.BuildID[1:], "", ""},
		{"/debuginfo/" + strings.ToUpper(proxytest.BuildID), "", ""},
		{"/debuginfo/", "", ""},
	} {
		resp, body, err := proxytest.Fetch(t, url+tc.path)
		if err != nil {
			t.Errorf("%s: %v", tc.path, err)
			continue
		}
		if tc.body == "" {
			if resp.StatusCode != 404 {
				t.Errorf("%s: got %d, want 404", tc.path, resp.StatusCode)
			}
			continue
		}
		if resp.StatusCode != 200 || string(body) != tc.body || resp.Header.Get("Content-Type") != tc.contentType || resp.ContentLength != int64(len(tc.body)) {
			t.Errorf("%s: got %d, %s, %d bytes: %.300s; want %.300s", tc.path, resp.StatusCode, resp.Header.Get("Content-Type"), resp.ContentLength, body, tc.body)
		}
		head, err := http.Head(url + tc.path)
		if err != nil || head.StatusCode != 200 || head.ContentLength != int64(len(tc.body)) {
			t.Errorf("HEAD %s: got %+v, %v", tc.path, head, err)
		}
		head.Body.Close()
		if put := proxytest.Get(s, "PUT", tc.path); put.Code != 405 {
			t.Errorf("PUT %s: got %d", tc.path, put.Code)
		}
	}
}

// blobsFrom are the blobs of a repository, through a hook.
type blobsFrom struct {
	repo registry.Repository
	mu   sync.Mutex
	hook func(ctx context.Context, digest v1.Hash, body io.ReadCloser) (io.ReadCloser, error)
	asks int
}

func (b *blobsFrom) Blob(ctx context.Context, digest v1.Hash, offset, length int64) (io.ReadCloser, error) {
	b.mu.Lock()
	b.asks++
	b.mu.Unlock()
	body, err := b.repo.Blob(ctx, digest, offset, length)
	if err != nil || b.hook == nil {
		return body, err
	}
	return b.hook(ctx, digest, body)
}

// Whatever the registry does, a document that cannot be had is not found.
func TestExtrasFailures(t *testing.T) {
	for name, hook := range map[string]func(context.Context, v1.Hash, io.ReadCloser) (io.ReadCloser, error){
		"missing": func(context.Context, v1.Hash, io.ReadCloser) (io.ReadCloser, error) {
			return nil, registry.ErrNotFound
		},
		"refused": func(context.Context, v1.Hash, io.ReadCloser) (io.ReadCloser, error) { return nil, io.ErrClosedPipe },
		"damaged": func(_ context.Context, _ v1.Hash, body io.ReadCloser) (io.ReadCloser, error) {
			b, err := io.ReadAll(body)
			b[0]++
			return io.NopCloser(strings.NewReader(string(b))), err
		},
		"cut": func(_ context.Context, _ v1.Hash, body io.ReadCloser) (io.ReadCloser, error) {
			return proxytest.Cut(body, 10), nil
		},
		"hangs": func(ctx context.Context, _ v1.Hash, _ io.ReadCloser) (io.ReadCloser, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repo := proxytest.OpenRepo(t, "oci:"+t.TempDir())
			e := proxytest.PublishExtras(t, repo, "a log")
			blobs := &blobsFrom{repo: repo, hook: hook}
			s := newServer(t, repo, func(o *Options) { o.Blobs, o.FirstByte, o.Stall = blobs, 300*time.Millisecond, 300*time.Millisecond })
			for range 3 {
				for _, path := range []string{"/" + e.Path.HashPart + ".ls", "/log/" + proxytest.Drv} {
					if got := proxytest.Get(s, "GET", path); got.Code != 404 {
						t.Errorf("%s: got %d %q", path, got.Code, got.Body)
					}
				}
			}
			if blobs.asks > 12 {
				t.Errorf("the registry was asked %d times", blobs.asks)
			}
			if got := proxytest.Get(s, "GET", "/"+e.Path.HashPart+".narinfo"); got.Code != 200 {
				t.Errorf("the narinfo: got %d", got.Code)
			}
		})
	}
}

// Documents of one blob cost one request, however many ask at once.
func TestDocumentsAreReadOnce(t *testing.T) {
	repo := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	e := proxytest.PublishExtras(t, repo, strings.Repeat("a log ", 100_000))
	blobs := &blobsFrom{repo: repo}
	s := newServer(t, repo, func(o *Options) { o.Blobs = blobs })
	var wg sync.WaitGroup
	for i := range 50 {
		path := "/" + e.Path.HashPart + ".ls"
		if i%2 == 0 {
			path = "/log/" + proxytest.Drv
		}
		wg.Go(func() {
			if got := proxytest.Get(s, "GET", path); got.Code != 200 {
				t.Errorf("%s: got %d", path, got.Code)
			}
		})
	}
	wg.Wait()
	if blobs.asks != 1 {
		t.Errorf("the registry was asked %d times, want once", blobs.asks)
	}
	if st := s.Status(); st.Served.Documents != 50 {
		t.Errorf("got %+v served", st.Served)
	}
}
