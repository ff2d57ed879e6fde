package proxy

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/registrytest"
)

// connections are as many as Nix opens.
const connections = 25

func client() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = connections
	t.DisableCompression = true
	t.ReadBufferSize = 128 << 10
	return &http.Client{Transport: t}
}

// download reads url to its end and returns how many bytes there were.
func download(b *testing.B, c *http.Client, url string) int64 {
	resp, err := c.Get(url)
	if err != nil {
		b.Error(err)
		return 0
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.Errorf("%s: got %s, %v", url, resp.Status, err)
	}
	return n
}

func perSecond(b *testing.B, what string) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), what+"/s")
}

// BenchmarkNarinfo asks for narinfos of a cache with 20,000 paths, over HTTP on
// the loopback interface. The client takes about half of the time.
func BenchmarkNarinfo(b *testing.B) {
	const n = 20_000
	repo := proxytest.OpenRepo(b, "oci:"+b.TempDir())
	proxytest.PutBlob(b, repo, []byte("x"))
	entries := make([]format.Entry, n)
	for i := range entries {
		entries[i] = proxytest.FileEntry(fmt.Sprintf("p-%d", i), []byte("x"), "00000000000000000000000000000000-a", "00000000000000000000000000000001-b")
	}
	proxytest.Publish(b, repo, format.Config{}, entries...)
	url := proxytest.Start(b, newServer(b, repo))
	c := client()
	defer c.CloseIdleConnections()
	b.SetParallelism(connections)
	for _, bc := range []struct {
		name string
		path func(i int) string
		want int
	}{
		{"hit", func(i int) string { return entries[i%n].Path.HashPart }, 200},
		{"miss", func(i int) string { return fmt.Sprintf("%032d", i%n) }, 404},
	} {
		b.Run(bc.name, func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i += 7919 {
					resp, err := c.Get(url + "/" + bc.path(i) + ".narinfo")
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if resp.StatusCode != bc.want {
						b.Errorf("got %d, want %d", resp.StatusCode, bc.want)
					}
				}
			})
			perSecond(b, "narinfos")
		})
	}
}

// BenchmarkNAR reads a large NAR from a real registry, and the same through the
// proxy, which checks its hash, also where it keeps NARs on disk.
func BenchmarkNAR(b *testing.B) {
	addr := registrytest.NewDistribution(b).Addr
	repo := proxytest.OpenRepo(b, addr+"/a/b")
	data := proxytest.RandomBytes(50, 128<<20)
	proxytest.PutBlob(b, repo, data)
	e := proxytest.FileEntry("large", data)
	proxytest.Publish(b, repo, format.Config{}, e)
	url := proxytest.Start(b, newServer(b, repo))
	disk := openDisk(b, repo, b.TempDir(), 1<<30)
	lan := proxytest.Start(b, newServer(b, repo, func(o *Options) { o.Blobs = disk }))
	for name, at := range map[string]string{
		"registry":  fmt.Sprintf("http://%s/v2/a/b/blobs/%s", addr, e.NAR.Blob),
		"proxy":     url + "/" + e.URL(),
		"nar-cache": lan + "/" + e.URL(),
	} {
		b.Run(name, func(b *testing.B) {
			c := client()
			defer c.CloseIdleConnections()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				download(b, c, at)
			}
		})
	}
}

// BenchmarkPackedNARs reads a thousand NARs of 4 KB from a pack in a real
// registry, with as many connections as Nix has. "apart" reads the same ones
// where each has a blob of its own.
func BenchmarkPackedNARs(b *testing.B) {
	const n, size = 1000, 4 << 10
	cache := registrytest.NewDistribution(b).Addr + "/a/b"
	repo := proxytest.OpenRepo(b, cache)
	packed := proxytest.PackEntries(b, "p", n, size)
	proxytest.PutBlob(b, repo, proxytest.PackData(n, size))
	apart := make([]format.Entry, n)
	for i := range apart {
		data := proxytest.RandomBytes(uint64(5000+i), size)
		proxytest.PutBlob(b, repo, data)
		apart[i] = proxytest.FileEntry(fmt.Sprintf("apart-%d", i), data)
	}
	proxytest.Publish(b, repo, format.Config{}, append(packed, apart...)...)
	for _, bc := range []struct {
		name    string
		entries []format.Entry
	}{{"packed", packed}, {"apart", apart}} {
		b.Run(bc.name, func(b *testing.B) {
			c := client()
			defer c.CloseIdleConnections()
			for b.Loop() {
				// a new proxy has nothing in memory
				url := proxytest.Start(b, newServer(b, repo))
				work := make(chan format.Entry)
				done := make(chan struct{})
				for range connections {
					go func() {
						for e := range work {
							download(b, c, url+"/"+e.URL())
						}
						done <- struct{}{}
					}()
				}
				for _, e := range bc.entries {
					work <- e
				}
				close(work)
				for range connections {
					<-done
				}
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "NARs/s")
		})
	}
}
