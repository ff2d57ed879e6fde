package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/reply"
)

// fakeIndex is an Index with scripted answers.
type fakeIndex struct {
	load            reading
	refresh         atomic.Pointer[reading]
	refreshes, seen atomic.Int64 // refreshes, and sweeps among them
}

type reading = func(ctx context.Context) (*index.Snapshot, error)

func newFakeIndex(load, refresh reading) *fakeIndex {
	x := &fakeIndex{load: load}
	x.set(refresh)
	return x
}

func (f *fakeIndex) set(refresh reading) { f.refresh.Store(&refresh) }

func (f *fakeIndex) Load() (*index.Snapshot, error) { return f.load(context.Background()) }

func (f *fakeIndex) Refresh(ctx context.Context) (*index.Snapshot, error) {
	f.refreshes.Add(1)
	return (*f.refresh.Load())(ctx)
}

func (f *fakeIndex) Sweep(ctx context.Context) (*index.Snapshot, error) {
	f.seen.Add(1)
	return f.Refresh(ctx)
}

func none(context.Context) (*index.Snapshot, error) { return nil, fs.ErrNotExist }
func down(context.Context) (*index.Snapshot, error) { return nil, errors.New("connection refused") }
func away(ctx context.Context) (*index.Snapshot, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func snapshotOf(tb testing.TB, names ...string) reading {
	tb.Helper()
	repo := proxytest.OpenRepo(tb, "oci:"+tb.TempDir())
	for _, name := range names {
		proxytest.PutBlob(tb, repo, []byte(name))
		proxytest.Publish(tb, repo, format.Config{}, proxytest.FileEntry(name, []byte(name)))
	}
	snap, err := index.Open(repo, index.Options{}).Refresh(context.Background())
	return func(context.Context) (*index.Snapshot, error) { return snap, err }
}

func TestPrepare(t *testing.T) {
	old, fresh := snapshotOf(t, "old"), snapshotOf(t, "old", "new")
	for _, tc := range []struct {
		name          string
		load, refresh reading
		paths         int
		warning       string
		atMost        time.Duration
	}{
		{"fresh", none, fresh, 2, "", 0},
		{"newer than the copy", old, fresh, 2, "", 0},
		{"down, with a copy", old, down, 1, "copy of the index on disk", 0},
		{"hangs, with a copy", old, away, 1, "copy of the index on disk", waitWithCopy},
		{"down, without", none, down, 0, "serving nothing", 0},
		{"hangs, without", none, away, 0, "serving nothing", waitWithoutCopy},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := New(Options{Index: newFakeIndex(tc.load, tc.refresh)})
				if err != nil {
					t.Fatal(err)
				}
				begin := time.Now()
				err = s.Prepare(t.Context())
				if took := time.Since(begin); took > tc.atMost {
					t.Errorf("took %s, want at most %s", took, tc.atMost)
				}
				if tc.warning == "" && err != nil || tc.warning != "" && (err == nil || !strings.Contains(err.Error(), tc.warning)) {
					t.Errorf("got %v, want %q", err, tc.warning)
				}
				if s.Len() != tc.paths {
					t.Errorf("serves %d paths, want %d", s.Len(), tc.paths)
				}
				// in every case it answers
				if got := proxytest.Get(s, "GET", "/nix-cache-info").Code; got != 200 {
					t.Errorf("nix-cache-info: got %d, want 200", got)
				}
				if got := proxytest.Get(s, "GET", "/"+strings.Repeat("0", 32)+".narinfo").Code; got != 404 {
					t.Errorf("a miss: got %d, want 404", got)
				}
			})
		})
	}
}

func TestRunKeepsTheIndexFresh(t *testing.T) {
	one, two := snapshotOf(t, "one"), snapshotOf(t, "one", "two")
	synctest.Test(t, func(t *testing.T) {
		x := newFakeIndex(none, one)
		var log bytes.Buffer
		s, err := New(Options{Index: x, Refresh: time.Minute, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.Run(ctx); close(done) }()
		synctest.Wait()
		if got := x.seen.Load(); got != 1 {
			t.Errorf("got %d looks at the tag list after the start, want 1", got)
		}

		x.set(down)
		time.Sleep(time.Minute + time.Second)
		if s.Len() != 1 || !strings.Contains(s.Status().Refresh.Error, "refused") {
			t.Errorf("with the registry down: %d paths, status %+v; want the old path and the error", s.Len(), s.Status().Refresh)
		}
		failed := x.refreshes.Load()
		time.Sleep(30 * time.Second)
		if x.refreshes.Load() == failed {
			t.Error("after a failure it did not try again soon")
		}

		x.set(two)
		time.Sleep(time.Minute)
		if s.Len() != 2 || s.Status().Refresh.Error != "" {
			t.Errorf("after the registry came back: %d paths, status %+v", s.Len(), s.Status().Refresh)
		}
		synctest.Wait()
		if got := log.String(); strings.Count(got, "\n") != 3 || strings.Count(got, "was not refreshed") != 1 || strings.Count(got, "answers again") != 1 || strings.Count(got, "has changed") != 1 {
			t.Errorf("what happened is not said once each:\n%s", got)
		}

		time.Sleep(time.Hour)
		if got := x.seen.Load(); got != 2 {
			t.Errorf("got %d looks at the tag list after an hour, want 2", got)
		}
		x.set(away) // cancelling ends also this
		time.Sleep(time.Minute)
		cancel()
		<-done
	})
}

func TestRefreshOnRequest(t *testing.T) {
	one, two := snapshotOf(t, "one"), snapshotOf(t, "one", "two")
	x := newFakeIndex(none, one)
	s, err := New(Options{Index: x})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}

	x.set(two)
	got := proxytest.Get(s, "POST", "/_refresh")
	var st Status
	if err := json.Unmarshal(got.Body.Bytes(), &st); err != nil || got.Code != 200 || st.Entries != 2 || len(st.Segments) != 2 || st.Root == "" {
		t.Errorf("got %d, %s, %v; want 200 and two entries", got.Code, got.Body, err)
	}
	if x.seen.Load() != 1 {
		t.Error("it did not look at the tag list")
	}

	x.set(down)
	got = proxytest.Get(s, "POST", "/_refresh")
	if err := json.Unmarshal(got.Body.Bytes(), &st); err != nil || got.Code != 502 || st.Entries != 2 || st.Refresh.Error == "" {
		t.Errorf("registry down: got %d, %s, %v; want 502, two entries and the reason", got.Code, got.Body, err)
	}

	before := x.refreshes.Load()
	for name, header := range map[string][]string{
		"another site":             {"Origin", "https://evil.example"},
		"another site, new client": {"Sec-Fetch-Site", "cross-site"},
	} {
		if got := proxytest.Get(s, "POST", "/_refresh", header...).Code; got != 403 {
			t.Errorf("%s: got %d, want 403", name, got)
		}
	}
	remote, err := http.NewRequest(http.MethodPost, "/_refresh", nil)
	if err != nil {
		t.Fatal(err)
	}
	remote.RemoteAddr = "192.0.2.1:1000"
	if reply.FromLoopback(remote) {
		t.Error("another machine counts as this one")
	}
	if x.refreshes.Load() != before {
		t.Error("a refused request made it ask the registry")
	}
}

func TestStopLetsTransfersFinish(t *testing.T) {
	data := proxytest.RandomBytes(30, 1<<20)
	release := make(chan struct{})
	blobs := &proxytest.Blobs{Hook: func(_ proxytest.BlobRead, body io.ReadCloser) (io.ReadCloser, error) {
		return struct {
			io.Reader
			io.Closer
		}{io.MultiReader(io.LimitReader(body, 500_000), proxytest.Waiting(release), body), body}, nil
	}}
	blobs.Put(data)
	e := proxytest.FileEntry("nar", data)
	s := withBlobs(t, blobs, []format.Entry{e})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- proxytest.Serve(ctx, s, l) }()
	resp, err := http.Get("http://" + l.Addr().String() + "/" + e.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cancel()
	for { // until nobody else is let in
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			break
		}
		conn.Close()
		time.Sleep(5 * time.Millisecond)
	}
	close(release)
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != int64(len(data)) {
		t.Errorf("the transfer under way: got %d bytes, %v; want all %d", n, err, len(data))
	}
	if err := <-done; err != nil {
		t.Errorf("Serve: got %v, want nil", err)
	}
}

// A proxy that has never served the cache is not kept from it by one bad segment.
func TestFreshProxyServesBesideABadSegment(t *testing.T) {
	t.Parallel()
	repo := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	content := proxytest.RandomBytes(30, 100)
	proxytest.PutBlob(t, repo, content)
	e := proxytest.FileEntry("good", content)
	proxytest.Publish(t, repo, format.Config{}, e)
	d, err := repo.PutBlob(t.Context(), []byte("noise"))
	if err != nil {
		t.Fatal(err)
	}
	d.MediaType = format.MediaEntries
	m, err := format.FormFull.Manifest(format.MediaSegment, []v1.Descriptor{d}, time.Now(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.PutManifest(t.Context(), "segment-20260101t000000z-bad", m); err != nil {
		t.Fatal(err)
	}
	s := newServer(t, repo)
	if err := s.Refresh(t.Context()); err != nil { // looks at the tags
		t.Error(err)
	}
	if got := proxytest.Get(s, "GET", "/"+e.Path.HashPart+".narinfo"); got.Code != 200 || got.Body.String() != e.Narinfo() {
		t.Errorf("got %d, %s", got.Code, got.Body)
	}
}
