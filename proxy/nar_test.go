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
	"github.com/org/nixoci-action/internal/registrytest"
)

// cut ends a body with an error after n bytes.
func cut(body io.Reader, n int64) io.ReadCloser {
	return io.NopCloser(io.MultiReader(io.LimitReader(body, n), broken{}))
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// hanging is a body in which nothing comes.
type hanging struct{ blobRead }

func (h hanging) Read([]byte) (int, error) {
	<-h.ctx.Done()
	return 0, h.ctx.Err()
}

func (hanging) Close() error { return nil }

func TestNARRanges(t *testing.T) {
	blobs := &fakeBlobs{}
	data := randomBytes(2, 300_000)
	blobs.put(data)
	e := fileEntry("ranged", data)
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
		got := get(s, "GET", "/"+e.URL(), "Range", tc.header)
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
			repo := openRepo(t, cache(t))
			large := randomBytes(3, 3<<20)
			entries := packEntries(t, "packed", 20, 5000)
			putBlob(t, repo, large)
			putBlob(t, repo, packData(20, 5000))
			publish(t, repo, format.Config{}, append(entries, fileEntry("large", large))...)
			url := start(t, newServer(t, repo))

			for i, e := range entries {
				resp, body, err := fetch(t, url+"/"+e.URL())
				if err != nil || resp.StatusCode != 200 || !bytes.Equal(body, packMember(i, 5000)) {
					t.Fatalf("packed NAR %d: got %d, %d bytes, %v", i, resp.StatusCode, len(body), err)
				}
			}
			le := fileEntry("large", large)
			at := url + "/" + le.URL()
			if resp, body, err := fetch(t, at); err != nil || resp.StatusCode != 200 || !bytes.Equal(body, large) {
				t.Errorf("large NAR: got %d, %d bytes, %v", resp.StatusCode, len(body), err)
			}
			if resp, body, err := fetch(t, at, "Range", "bytes=2000000-"); err != nil || resp.StatusCode != 206 || !bytes.Equal(body, large[2_000_000:]) {
				t.Errorf("rest of the large NAR: got %d, %d bytes, %v", resp.StatusCode, len(body), err)
			}
		})
	}
}

func TestNARFailures(t *testing.T) {
	data := randomBytes(4, 1<<20)
	wrong := bytes.Clone(data)
	wrong[len(wrong)-1] ^= 1
	for _, tc := range []struct {
		name string
		hook func(r blobRead, body io.ReadCloser) (io.ReadCloser, error)
		want string // the whole, "not found", "cut off"
		// what a client gets that comes back for the rest; "" is not tried
		rest string
	}{
		{name: "fine", want: "whole"},
		{
			name: "cut off now and then",
			hook: func(_ blobRead, body io.ReadCloser) (io.ReadCloser, error) { return cut(body, 100_000), nil },
			want: "whole",
		},
		{
			name: "ends early without an error",
			hook: func(_ blobRead, body io.ReadCloser) (io.ReadCloser, error) {
				return io.NopCloser(io.LimitReader(body, 300_000)), nil
			},
			want: "whole",
		},
		{
			name: "refused",
			hook: func(blobRead, io.ReadCloser) (io.ReadCloser, error) { return nil, errors.New("500") },
			want: "not found",
		},
		{
			name: "hangs before the answer",
			hook: func(r blobRead, _ io.ReadCloser) (io.ReadCloser, error) {
				<-r.ctx.Done()
				return nil, r.ctx.Err()
			},
			want: "not found",
		},
		{
			name: "hangs before the first byte",
			hook: func(r blobRead, _ io.ReadCloser) (io.ReadCloser, error) { return hanging{r}, nil },
			want: "not found",
		},
		{
			name: "always ends at once",
			hook: func(_ blobRead, body io.ReadCloser) (io.ReadCloser, error) { return cut(body, 0), nil },
			want: "not found",
		},
		{
			name: "gone half way",
			hook: func(r blobRead, body io.ReadCloser) (io.ReadCloser, error) {
				if r.offset > 0 {
					return nil, errors.New("connection refused")
				}
				return cut(body, 500_000), nil
			},
			want: "cut off", rest: "not found",
		},
		{
			name: "hangs half way",
			hook: func(r blobRead, body io.ReadCloser) (io.ReadCloser, error) {
				return struct {
					io.Reader
					io.Closer
				}{io.MultiReader(io.LimitReader(body, 500_000-r.offset), hanging{r}), body}, nil
			},
			want: "cut off", rest: "not found",
		},
		{
			// Nix would take the rest, find a hash mismatch, and fail the build
			name: "other bytes",
			hook: func(r blobRead, _ io.ReadCloser) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(wrong[r.offset:])), nil
			},
			want: "cut off", rest: "not found",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			blobs := &fakeBlobs{hook: tc.hook}
			blobs.put(data)
			e := fileEntry("nar", data)
			s := withBlobs(t, blobs, []format.Entry{e}, func(o *Options) { o.FirstByte, o.Stall = 300*time.Millisecond, 300*time.Millisecond })
			url := start(t, s) + "/" + e.URL()
			resp, body, err := fetch(t, url)
			if got := outcome(resp, body, err, data); got != tc.want {
				t.Errorf("got %s (%d, %d bytes, %v), want %s", got, resp.StatusCode, len(body), err, tc.want)
			}
			if tc.rest == "" {
				return
			}
			if !bytes.HasPrefix(data, body) {
				t.Error("what came before the cut is wrong")
			}
			resp, body, err = fetch(t, url, "Range", fmt.Sprintf("bytes=%d-", len(body)))
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
	data := randomBytes(5, 1000)
	blobs := &fakeBlobs{hook: func(blobRead, io.ReadCloser) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(strings.Repeat("x", 1000))), nil
	}}
	blobs.put(data)
	e := fileEntry("small", data)
	s := withBlobs(t, blobs, []format.Entry{e})
	if got := get(s, "GET", "/"+e.URL()); got.Code != 404 {
		t.Errorf("got %d with %d bytes, want 404", got.Code, got.Body.Len())
	}
}

func TestMissingBlobIsNotFound(t *testing.T) {
	blobs := &fakeBlobs{}
	data := randomBytes(6, 1000)
	blobs.put(data)
	e := fileEntry("gone", data)
	s := withBlobs(t, blobs, []format.Entry{e})
	clear(blobs.data)
	for range 5 { // an answer is an answer: the registry is not left alone for it
		if got := get(s, "GET", "/"+e.URL()); got.Code != 404 {
			t.Errorf("got %d, want 404", got.Code)
		}
	}
	if s.registry.open() {
		t.Error("missing blobs made the registry count as unwell")
	}
	if st := s.status(); st.Served.NARFailures != 5 {
		t.Errorf("got %d failures in the status, want 5", st.Served.NARFailures)
	}
}

// A thousand paths of a build do not each wait for a registry that hangs.
func TestHangingRegistryIsLeftAlone(t *testing.T) {
	blobs := &fakeBlobs{hook: func(r blobRead, _ io.ReadCloser) (io.ReadCloser, error) { return hanging{r}, nil }}
	data := randomBytes(7, 1000)
	blobs.put(data)
	e := fileEntry("hangs", data)
	s := withBlobs(t, blobs, []format.Entry{e}, func(o *Options) { o.FirstByte = 200 * time.Millisecond })
	var wg sync.WaitGroup
	for range breakerFails {
		wg.Go(func() { get(s, "GET", "/"+e.URL()) })
	}
	wg.Wait()
	before := time.Now()
	for range 1000 {
		if got := get(s, "GET", "/"+e.URL()); got.Code != 404 {
			t.Fatalf("got %d, want 404", got.Code)
		}
	}
	if took := time.Since(before); took > 2*time.Second {
		t.Errorf("a thousand NARs took %s", took)
	}
	if got := get(s, "GET", "/"+e.Path.HashPart+".narinfo").Code; got != 200 {
		t.Errorf("narinfo: got %d, want 200: Nix would remember a miss for an hour", got)
	}
}

// A client that goes away says nothing about the registry.
func TestImpatientClientsDoNotCount(t *testing.T) {
	blobs := &fakeBlobs{hook: func(r blobRead, _ io.ReadCloser) (io.ReadCloser, error) { return hanging{r}, nil }}
	data := randomBytes(8, 1000)
	blobs.put(data)
	e := fileEntry("slow", data)
	s := withBlobs(t, blobs, []format.Entry{e}, func(o *Options) { o.FirstByte = time.Minute })
	url := start(t, s) + "/" + e.URL()
	client := &http.Client{Timeout: 50 * time.Millisecond}
	for range 5 {
		if resp, err := client.Get(url); err == nil {
			resp.Body.Close()
			t.Fatal("the client got an answer")
		}
	}
	if s.registry.open() {
		t.Error("impatient clients made the registry count as unwell")
	}
}
