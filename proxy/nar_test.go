package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/registrytest"
)

func TestNARRanges(t *testing.T) {
	blobs := &proxytest.Blobs{}
	data := proxytest.RandomBytes(2, 300_000)
	blobs.Put(data)
	e := proxytest.FileEntry("ranged", data)
	s := withBlobs(t, blobs, []format.Entry{e})
	for _, tc := range []struct {
		header       string
		status       int
		from, to     int // of data
		contentRange string
	}{
		{"", 200, 0, 300_000, ""},
		{"bytes=0-0", 206, 0, 1, "bytes 0-0/300000"},
		{"bytes=200000-", 206, 200_000, 300_000, "bytes 200000-299999/300000"},
		{"bytes=100000-299999", 206, 100_000, 300_000, "bytes 100000-299999/300000"},
		{"bytes=-7", 206, 299_993, 300_000, "bytes 299993-299999/300000"},
		{"bytes=1-2,4-5", 200, 0, 300_000, ""},
		{"bytes=300000-", 416, 0, 0, "bytes */300000"},
	} {
		got := proxytest.Get(s, "GET", "/"+e.URL(), "Range", tc.header)
		if got.Code != tc.status || got.Header().Get("Content-Range") != tc.contentRange {
			t.Errorf("%q: got %d, %q; want %d, %q", tc.header, got.Code, got.Header().Get("Content-Range"), tc.status, tc.contentRange)
		}
		if tc.status == 416 {
			continue
		}
		if !bytes.Equal(got.Body.Bytes(), data[tc.from:tc.to]) {
			t.Errorf("%q: got %d other bytes", tc.header, got.Body.Len())
		}
		if got.Header().Get("Accept-Ranges") != "bytes" || got.Header().Get("Content-Length") != fmt.Sprint(tc.to-tc.from) {
			t.Errorf("%q: got headers %v", tc.header, got.Header())
		}
	}
}

// Registries differ in how they send ranges, so each kind is read for real.
func TestNARsFromRegistries(t *testing.T) {
	for name, cache := range map[string]func(t *testing.T) string{
		"oci":          func(t *testing.T) string { return "oci:" + t.TempDir() },
		"ggcr":         func(t *testing.T) string { return registrytest.GGCR(t) + "/a/b" },
		"distribution": func(t *testing.T) string { return registrytest.NewDistribution(t).Addr + "/a/b" },
	} {
		t.Run(name, func(t *testing.T) {
			repo := proxytest.OpenRepo(t, cache(t))
			large := proxytest.RandomBytes(3, 3<<20)
			entries := proxytest.PackEntries(t, "packed", 20, 5000)
			proxytest.PutBlob(t, repo, large)
			proxytest.PutBlob(t, repo, proxytest.PackData(20, 5000))
			proxytest.Publish(t, repo, format.Config{}, append(entries, proxytest.FileEntry("large", large))...)
			url := proxytest.Start(t, newServer(t, repo))

			for i, e := range entries {
				resp, body, err := proxytest.Fetch(t, url+"/"+e.URL())
				if err != nil || resp.StatusCode != 200 || !bytes.Equal(body, proxytest.PackMember(i, 5000)) {
					t.Fatalf("packed NAR %d: got %d, %d bytes, %v", i, resp.StatusCode, len(body), err)
				}
			}
			le := proxytest.FileEntry("large", large)
			at := url + "/" + le.URL()
			if resp, body, err := proxytest.Fetch(t, at); err != nil || resp.StatusCode != 200 || !bytes.Equal(body, large) {
				t.Errorf("large NAR: got %d, %d bytes, %v", resp.StatusCode, len(body), err)
			}
			if resp, body, err := proxytest.Fetch(t, at, "Range", "bytes=2000000-"); err != nil || resp.StatusCode != 206 || !bytes.Equal(body, large[2_000_000:]) {
				t.Errorf("rest of the large NAR: got %d, %d bytes, %v", resp.StatusCode, len(body), err)
			}
		})
	}
}

func TestNARFailures(t *testing.T) {
	data := proxytest.RandomBytes(4, 1<<20)
	wrong := bytes.Clone(data)
	wrong[len(wrong)-1] ^= 1
	for _, tc := range []struct {
		name string
		hook func(r proxytest.BlobRead, body io.ReadCloser) (io.ReadCloser, error)
		want string // the whole, "not found", "cut off"
		// what a client gets that comes back for the rest; "" is not tried
		rest string
	}{
		{name: "fine", want: "whole"},
		{
			name: "cut off now and then",
			hook: func(_ proxytest.BlobRead, body io.ReadCloser) (io.ReadCloser, error) {
				return proxytest.Cut(body, 100_000), nil
			},
			want: "whole",
		},
		{
			name: "ends early without an error",
			hook: func(_ proxytest.BlobRead, body io.ReadCloser) (io.ReadCloser, error) {
				return io.NopCloser(io.LimitReader(body, 300_000)), nil
			},
			want: "whole",
		},
		{
			name: "refused",
			hook: func(proxytest.BlobRead, io.ReadCloser) (io.ReadCloser, error) { return nil, errors.New("500") },
			want: "not found",
		},
		{
			name: "hangs before the answer",
			hook: func(r proxytest.BlobRead, _ io.ReadCloser) (io.ReadCloser, error) {
				<-r.Ctx.Done()
				return nil, r.Ctx.Err()
			},
			want: "not found",
		},
		{
			name: "hangs before the first byte",
			hook: func(r proxytest.BlobRead, _ io.ReadCloser) (io.ReadCloser, error) {
				return proxytest.Hanging{BlobRead: r}, nil
			},
			want: "not found",
		},
		{
			name: "always ends at once",
			hook: func(_ proxytest.BlobRead, body io.ReadCloser) (io.ReadCloser, error) {
				return proxytest.Cut(body, 0), nil
			},
			want: "not found",
		},
		{
			name: "gone half way",
			hook: func(r proxytest.BlobRead, body io.ReadCloser) (io.ReadCloser, error) {
				if r.Offset > 0 {
					return nil, errors.New("connection refused")
				}
				return proxytest.Cut(body, 500_000), nil
			},
			want: "cut off", rest: "not found",
		},
		{
			name: "hangs half way",
			hook: func(r proxytest.BlobRead, body io.ReadCloser) (io.ReadCloser, error) {
				return struct {
					io.Reader
					io.Closer
				}{io.MultiReader(io.LimitReader(body, 500_000-r.Offset), proxytest.Hanging{BlobRead: r}), body}, nil
			},
			want: "cut off", rest: "not found",
		},
		{
			// Nix would take the rest, find a hash mismatch, and fail the build
			name: "other bytes",
			hook: func(r proxytest.BlobRead, _ io.ReadCloser) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(wrong[r.Offset:])), nil
			},
			want: "cut off", rest: "not found",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			blobs := &proxytest.Blobs{Hook: tc.hook}
			blobs.Put(data)
			e := proxytest.FileEntry("nar", data)
			s := withBlobs(t, blobs, []format.Entry{e}, func(o *Options) { o.FirstByte, o.Stall = 300*time.Millisecond, 300*time.Millisecond })
			url := proxytest.Start(t, s) + "/" + e.URL()
			resp, body, err := proxytest.Fetch(t, url)
			if got := outcome(resp, body, err, data); got != tc.want {
				t.Errorf("got %s (%d, %d bytes, %v), want %s", got, resp.StatusCode, len(body), err, tc.want)
			}
			if tc.rest == "" {
				return
			}
			if !bytes.HasPrefix(data, body) {
				t.Error("what came before the cut is wrong")
			}
			resp, body, err = proxytest.Fetch(t, url, "Range", fmt.Sprintf("bytes=%d-", len(body)))
			if got := outcome(resp, body, err, data); got != tc.rest {
				t.Errorf("the rest: got %s (%d, %d bytes, %v), want %s", got, resp.StatusCode, len(body), err, tc.rest)
			}
		})
	}
}

func outcome(resp *http.Response, body []byte, err error, data []byte) string {
	switch {
	case resp.StatusCode == 404 && err == nil:
		return "not found"
	case resp.StatusCode == 200 && err == nil && bytes.Equal(body, data):
		return "whole"
	case resp.StatusCode < 300 && errors.Is(err, io.ErrUnexpectedEOF) && len(body) < len(data):
		return "cut off"
	}
	return "something else"
}

// A small NAR is checked before anything of it goes out.
func TestSmallCorruptNARIsNotFound(t *testing.T) {
	data := proxytest.RandomBytes(5, 1000)
	blobs := &proxytest.Blobs{Hook: func(proxytest.BlobRead, io.ReadCloser) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(strings.Repeat("x", 1000))), nil
	}}
	blobs.Put(data)
	e := proxytest.FileEntry("small", data)
	s := withBlobs(t, blobs, []format.Entry{e})
	if got := proxytest.Get(s, "GET", "/"+e.URL()); got.Code != 404 {
		t.Errorf("got %d with %d bytes, want 404", got.Code, got.Body.Len())
	}
}

func TestMissingBlobIsNotFound(t *testing.T) {
	blobs := &proxytest.Blobs{}
	data := proxytest.RandomBytes(6, 1000)
	blobs.Put(data)
	e := proxytest.FileEntry("gone", data)
	s := withBlobs(t, blobs, []format.Entry{e})
	clear(blobs.Data)
	for range 5 { // an answer is an answer: the registry is not left alone for it
		if got := proxytest.Get(s, "GET", "/"+e.URL()); got.Code != 404 {
			t.Errorf("got %d, want 404", got.Code)
		}
	}
	if s.registry.Open() {
		t.Error("missing blobs made the registry count as unwell")
	}
	if st := s.Status(); st.Served.NARFailures != 5 {
		t.Errorf("got %d failures in the status, want 5", st.Served.NARFailures)
	}
}

// A thousand paths of a build do not each wait for a registry that hangs.
func TestHangingRegistryIsLeftAlone(t *testing.T) {
	blobs := &proxytest.Blobs{Hook: func(r proxytest.BlobRead, _ io.ReadCloser) (io.ReadCloser, error) {
		return proxytest.Hanging{BlobRead: r}, nil
	}}
	data := proxytest.RandomBytes(7, 1000)
	blobs.Put(data)
	e := proxytest.FileEntry("hangs", data)
	s := withBlobs(t, blobs, []format.Entry{e}, func(o *Options) { o.FirstByte = 200 * time.Millisecond })
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { proxytest.Get(s, "GET", "/"+e.URL()) })
	}
	wg.Wait()
	before := time.Now()
	for range 1000 {
		if got := proxytest.Get(s, "GET", "/"+e.URL()); got.Code != 404 {
			t.Fatalf("got %d, want 404", got.Code)
		}
	}
	if took := time.Since(before); took > 2*time.Second {
		t.Errorf("a thousand NARs took %s", took)
	}
	if got := proxytest.Get(s, "GET", "/"+e.Path.HashPart+".narinfo").Code; got != 200 {
		t.Errorf("narinfo: got %d, want 200: Nix would remember a miss for an hour", got)
	}
}

// A client that goes away says nothing about the registry.
func TestImpatientClientsDoNotCount(t *testing.T) {
	blobs := &proxytest.Blobs{Hook: func(r proxytest.BlobRead, _ io.ReadCloser) (io.ReadCloser, error) {
		return proxytest.Hanging{BlobRead: r}, nil
	}}
	data := proxytest.RandomBytes(8, 1000)
	blobs.Put(data)
	e := proxytest.FileEntry("slow", data)
	s := withBlobs(t, blobs, []format.Entry{e}, func(o *Options) { o.FirstByte = time.Minute })
	url := proxytest.Start(t, s) + "/" + e.URL()
	client := &http.Client{Timeout: 50 * time.Millisecond}
	for range 5 {
		if resp, err := client.Get(url); err == nil {
			resp.Body.Close()
			t.Fatal("the client got an answer")
		}
	}
	if s.registry.Open() {
		t.Error("impatient clients made the registry count as unwell")
	}
}
