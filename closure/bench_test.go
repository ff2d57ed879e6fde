package closure_test

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/upstreamtest"
	"github.com/org/nixoci-action/upstream"
)

// bigClosure is n paths with ten references each, about what a large NixOS
// system has.
func bigClosure(n int) ([]nix.PathInfo, []string) {
	rng := rand.New(rand.NewPCG(1, 2))
	paths := make([]string, n)
	infos := make([]nix.PathInfo, n)
	for i := range infos {
		paths[i] = storePath("package-" + strconv.Itoa(i))
		infos[i] = nix.PathInfo{Path: paths[i], NarSize: 1000}
		if i > 0 {
			infos[i].References = append(infos[i].References, paths[i-1])
			for range 9 {
				infos[i].References = append(infos[i].References, paths[rng.IntN(i)])
			}
		}
	}
	return infos, paths[n-1:]
}

func BenchmarkNew100k(b *testing.B) {
	infos, roots := bigClosure(100_000)
	for b.Loop() {
		if _, err := closure.New(infos, roots); err != nil {
			b.Fatal(err)
		}
	}
}

// Without upstream caches: what Filter itself costs.
func BenchmarkFilter100k(b *testing.B) {
	infos, roots := bigClosure(100_000)
	set, err := closure.New(infos, roots)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if got := filter(b, set, closure.Options{Exclude: []string{"none-*"}}).Total(closure.KindNew).Paths; got != 100_000 {
			b.Fatalf("got %d new paths", got)
		}
	}
}

func benchmarkUpstream(b *testing.B, url string, opts upstream.Options) {
	const n = 10_000
	set := newSet(b, manyRoots(n), many(n)...)
	for b.Loop() {
		p := filter(b, set, closure.Options{Upstreams: []closure.Upstream{ask(b, url, opts)}})
		if r := p.Upstreams[0]; r.Asked != n || r.Unknown > 0 {
			b.Fatalf("got report %+v", r)
		}
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "lookups/s")
}

// The server shares the machine.
func BenchmarkFilter10kHTTP1(b *testing.B) {
	benchmarkUpstream(b, upstreamtest.Serve(b).URL, upstream.Options{})
}

func BenchmarkFilter10kHTTP2(b *testing.B) {
	s := upstreamtest.New()
	tr := upstream.NewTransport()
	upstreamtest.StartTLS(b, s, tr)
	benchmarkUpstream(b, s.URL, upstream.Options{Transport: tr})
}
