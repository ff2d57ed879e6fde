package page

import (
	"context"
	"net/http/httptest"
	"runtime"
	"testing"

	"github.com/org/nixoci-action/index/collect"
)

func BenchmarkPage(b *testing.B) {
	const paths = 100_000
	f := newFake(b)
	f.large(paths, layered)
	p := f.page()
	heap := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / 1e6
	}
	hash := f.refs[paths/2][:32]
	get := func(b *testing.B, url string) {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest("GET", url, nil))
		if w.Code != 200 || w.Body.Len() < 1000 {
			b.Fatalf("%s: got %d, %d bytes", url, w.Code, w.Body.Len())
		}
	}
	before := heap()
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			p.catalogue = nil
			get(b, "/")
		}
		b.ReportMetric(heap()-before, "MB")
	})
	closures := p.mustCurrent().order(byClosure)
	b.Logf("closures: median %d paths, largest %d", p.mustCurrent().closures[closures[paths/2]].Paths, p.mustCurrent().closures[closures[0]].Paths)
	for name, url := range map[string]string{
		"home": "/", "search": "/_page/paths?q=numpy", "words": "/_page/paths?q=numpy+1.2&sort=closure", "nothing": "/_page/paths?q=nothing-like-it",
		"letter": "/_page/paths?q=e&sort=added&page=100", "all": "/_page/paths", "last": "/_page/paths?page=2000&sort=file", "hash": "/_page/paths?q=" + hash,
		"path": "/_page/path/" + hash, "publications": "/_page/publications", "publication": "/_page/paths?q=1&publication=" + p.mustCurrent().publications[0].ID,
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				get(b, url)
			}
		})
	}
}

func (p *Page) mustCurrent() *catalogue { return p.current(context.Background()) }

func BenchmarkClosures(b *testing.B) {
	for name, pick := range map[string]func(*fake) string{"layered": layered, "tangled": tangled} {
		b.Run(name, func(b *testing.B) {
			f := newFake(b)
			f.large(100_000, pick)
			paths := collect.NewCatalogue(f.snapshot(), collect.PlanOptions{}).Paths
			for b.Loop() {
				closures(paths)
			}
		})
	}
}
