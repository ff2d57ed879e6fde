package push_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

// tallying counts requests to a registry.
type tallying struct {
	http.RoundTripper
	n atomic.Int64
}

func (c *tallying) RoundTrip(r *http.Request) (*http.Response, error) {
	c.n.Add(1)
	return c.RoundTripper.RoundTrip(r)
}

// How many paths a second are durable, with the requests and segments that it
// takes, by the number of clients; and what it would be if each path were
// published by itself.
func BenchmarkPush(b *testing.B) {
	const paths = 128
	var cache atomic.Int64
	d := registrytest.NewDistribution(b)
	open := func(b *testing.B) (registry.Repository, *tallying) {
		c := &tallying{RoundTripper: http.DefaultTransport.(*http.Transport).Clone()}
		repo, err := registry.Open(fmt.Sprintf("%s/a/b%d", d.Addr, cache.Add(1)), registry.Options{Push: true, Transport: c})
		if err != nil {
			b.Fatal(err)
		}
		return repo, c
	}
	report := func(b *testing.B, c *tallying, segments int) {
		b.ReportMetric(float64(paths*b.N)/b.Elapsed().Seconds(), "paths/s")
		b.ReportMetric(float64(c.n.Load())/float64(paths*b.N), "requests/path")
		b.ReportMetric(float64(segments)/float64(b.N), "segments")
		b.ReportMetric(0, "ns/op")
	}
	made := func(b *testing.B, round int) (all []pushed) {
		for i := range paths {
			all = append(all, newPushed(b, fmt.Sprintf("p-%d-%d", round, i), bincache.CompressionNone, proxytest.RandomBytes(uint64(i), 3000)))
		}
		return all
	}
	for _, clients := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			repo, c := open(b)
			segments, round := 0, 0
			for b.Loop() {
				b.StopTimer()
				round++
				all := made(b, round)
				s := newPushServer(b, repo, func(o *options) { o.Logger = nil })
				ctx, cancel := context.WithCancel(context.Background())
				ended := make(chan struct{})
				b.StartTimer()
				go func() { defer close(ended); s.Run(ctx) }()
				var wg sync.WaitGroup
				for i := range clients {
					wg.Go(func() {
						for j := i; j < paths; j += clients {
							if w := copyTo(s, all[j]); w.Code != http.StatusCreated {
								b.Errorf("got %d, %s", w.Code, w.Body)
							}
						}
					})
				}
				wg.Wait()
				cancel()
				<-ended // with the root and the publication
				segments += s.push.Group().Written()
			}
			report(b, c, segments)
		})
	}
	b.Run("each by itself", func(b *testing.B) {
		repo, c := open(b)
		segments, round := 0, 0
		ctx := context.Background()
		for b.Loop() {
			round++
			for _, p := range made(b, round) {
				proxytest.PutBlob(b, repo, p.file)
				x := index.Open(repo, index.Options{Settle: time.Millisecond})
				base, err := x.Refresh(ctx)
				if err != nil {
					b.Fatal(err)
				}
				w, err := x.NewWriter(base, index.WriterOptions{})
				if err != nil {
					b.Fatal(err)
				}
				if err := w.Add(ctx, p.entry); err != nil {
					b.Fatal(err)
				}
				r, err := w.Close(ctx, nil)
				if err != nil {
					b.Fatal(err)
				}
				segments += len(r.Segments)
			}
		}
		report(b, c, segments)
	})
}
