package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/internal/storepath"
)

const (
	kB = 1000
	mB = 1000 * kB
)

// workload is a store with something to publish: a graph of paths of mixed
// sizes with one path at its top, and paths that appear later.
type workload struct {
	store *store
	top   *path
	paths []*path // all that top refers to, and top
	later []*path // each refers to one of paths
	size  int64   // of all NARs of paths
}

// ciRunSizes is what a CI run of a NixOS configuration with packages of its
// own publishes: 300 paths, most of them small, most bytes in a few.
func ciRunSizes(b *bench) []int {
	rng := seeded(1, 300)
	sizes := []int{b.scaled(190*mB, mB), b.scaled(110*mB, mB)}
	for range b.scaled(46, 3) {
		sizes = append(sizes, lognormal(rng, 15.4, 0.75, mB, 20*mB)) // median 4.9 MB
	}
	for n := b.scaled(299, 20); len(sizes) < n; {
		sizes = append(sizes, lognormal(rng, 10.6, 0.9, 4*kB, 200*kB)) // median 40 kB
	}
	rng.Shuffle(len(sizes), func(i, j int) { sizes[i], sizes[j] = sizes[j], sizes[i] })
	return sizes
}

// smallSizes is many units, scripts and configuration files.
func smallSizes(b *bench) []int {
	rng := seeded(1, 3000)
	var sizes []int
	for range b.scaled(2999, 100) {
		sizes = append(sizes, lognormal(rng, 10, 0.75, 2*kB, 150*kB)) // median 22 kB
	}
	return sizes
}

// seeded gives the same numbers on every run.
func seeded(a, b int) *rand.Rand {
	return rand.New(rand.NewPCG(uint64(a), uint64(b))) //nolint:gosec // nothing secret, and that is the point
}

func lognormal(rng *rand.Rand, mu, sigma float64, least, most int) int {
	return min(most, max(least, int(math.Exp(mu+sigma*rng.NormFloat64()))))
}

var packageNames = strings.Fields("glibc openssl zlib bash coreutils python3 perl llvm systemd firmware gtk qtbase mesa " +
	"ffmpeg rust-hello go-tool haskell-lens node-modules font-noto unit-nix-daemon.service")

// newWorkload makes a store below dir with one path for each size. It is the
// same on every run on one machine.
func (b *bench) newWorkload(ctx context.Context, dir string, sizes []int, later int) (*workload, error) {
	s, err := newStore(dir)
	if err != nil {
		return nil, err
	}
	w := &workload{store: s, top: s.path("nixos-system-host")}
	graph := seeded(2, len(sizes))
	for i := range sizes {
		name := fmt.Sprintf("%s-%d.%d", packageNames[i%len(packageNames)], 1+i%7, i)
		if i%8 == 7 { // another output of the path before
			name = filepath.Base(w.paths[i-1].name)[storepath.HashPartLen+1:] + "-dev"
		}
		p := s.path(name)
		if i%8 == 7 {
			p.refs = append(p.refs, w.paths[i-1])
		}
		for range min(i, graph.IntN(6)) {
			// mostly the same few, as all refer to glibc
			if r := w.paths[int(float64(i)*math.Pow(graph.Float64(), 2.5))]; !slices.Contains(p.refs, r) {
				p.refs = append(p.refs, r)
			}
		}
		w.paths = append(w.paths, p)
	}
	w.top.refs = w.paths
	for i := range later {
		p := s.path(fmt.Sprintf("changed-%d", i))
		p.refs = []*path{w.paths[0]}
		w.later = append(w.later, p)
	}

	c := newCorpus(b.scaled(192<<20, 48<<20), b.scaled(48<<20, 8<<20))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	fill := func(p *path, size int, seed int) {
		g.Go(func() error {
			if err := gctx.Err(); err != nil {
				return err
			}
			if err := c.write(seeded(3, seed), p, size); err != nil {
				return err
			}
			return p.measure()
		})
	}
	for i, p := range w.paths {
		fill(p, sizes[i], i)
	}
	for i, p := range w.later {
		fill(p, 150*kB, len(sizes)+i)
	}
	fill(w.top, 0, len(sizes)+later)
	if err := g.Wait(); err != nil {
		return nil, err
	}
	c.code, c.text = nil, nil
	debug.FreeOSMemory() // the load to come is measured on the same machine
	w.paths = append(w.paths, w.top)
	for _, p := range w.paths {
		w.size += p.narSize
	}
	return w, s.register(ctx, append(w.later, w.paths...))
}

// write makes the files of p: programs, libraries with links to them, texts,
// and one with the references. The first line of each is its own, so that no
// two are the same.
func (c *corpus) write(rng *rand.Rand, p *path, size int) error {
	files := 1
	switch {
	case size > 40*mB:
		files = 60
	case size > 200*kB:
		files = 4 + rng.IntN(26)
	case size > 6*kB:
		files = 1 + rng.IntN(4)
	}
	if size == 0 {
		files = 0
	}
	var refs strings.Builder
	for _, r := range p.refs {
		refs.WriteString(r.name + "\n")
	}
	if err := put(p.name+"/nix-support/refs", 0o444, filepath.Base(p.name), []byte(refs.String())); err != nil {
		return err
	}
	shares := make([]float64, files)
	sum := 0.0
	for i := range shares {
		shares[i] = math.Pow(rng.Float64(), 3) + 0.01
		sum += shares[i]
	}
	for i, share := range shares {
		n := max(200, int(float64(size)*share/sum))
		salt := fmt.Sprintf("%s %d", filepath.Base(p.name), i)
		var err error
		switch {
		case rng.Float64() < 0.22:
			err = put(fmt.Sprintf("%s/share/doc/f%d.txt", p.name, i), 0o444, salt, cut(rng, c.text, n))
		case i%3 == 0:
			err = put(fmt.Sprintf("%s/bin/tool%d", p.name, i), 0o555, salt, cut(rng, c.code, n))
		default:
			lib := fmt.Sprintf("%s/lib/lib%d.so", p.name, i)
			if err = put(lib+".1", 0o444, salt, cut(rng, c.code, n)); err == nil {
				err = os.Symlink(filepath.Base(lib)+".1", lib)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func put(name string, mode os.FileMode, salt string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil { //nolint:gosec // as in a store
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(salt + "\n"); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Close()
}
