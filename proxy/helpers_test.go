package proxy

import (
	"context"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/registry"
)

// newServer is a prepared server over a repository, with short time-outs.
func newServer(tb testing.TB, repo registry.Repository, change ...func(*Options)) *Server {
	tb.Helper()
	o := Options{
		Index: index.Open(repo, index.Options{}), Blobs: repo, Cache: repo.String(), Version: "test",
		FirstByte: 2 * time.Second, Stall: 2 * time.Second, UpstreamTimeout: time.Second,
	}
	for _, f := range change {
		f(&o)
	}
	s, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.Prepare(context.Background()); err != nil {
		tb.Fatal(err)
	}
	return s
}

// withBlobs is a server whose index lists entries, and whose blobs are fake.
func withBlobs(tb testing.TB, blobs *proxytest.Blobs, entries []format.Entry, change ...func(*Options)) *Server {
	tb.Helper()
	repo := proxytest.OpenRepo(tb, "oci:"+tb.TempDir())
	for _, e := range entries { // the layout insists on what a segment names
		if data := blobs.Data[e.NAR.Blob]; data != nil {
			proxytest.PutBlob(tb, repo, data)
		}
	}
	proxytest.Publish(tb, repo, format.Config{}, entries...)
	return newServer(tb, repo, append([]func(*Options){func(o *Options) { o.Blobs = blobs }}, change...)...)
}
