package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nix-community/go-nix/pkg/nar"
	"golang.org/x/sync/errgroup"
)

// cost is what a piece of work took.
type cost struct{ wall, cpu time.Duration }

// limit does what publishing cannot do without: it writes each path's NAR,
// hashes it, compresses it and hashes the result, with publish's settings and
// as many paths at a time. Nothing is stored or sent. It is written
// independently of package upload, which it is the measure of.
func limit(ctx context.Context, paths []*path, jobs int) (cost, error) {
	pool := sync.Pool{New: func() any { return newPress() }}
	// a large one that starts last would be alone at the end
	order := slices.Clone(paths)
	slices.SortStableFunc(order, func(a, b *path) int { return int(b.narSize>>25 - a.narSize>>25) })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	before, start := selfCPU(), time.Now()
	for _, p := range order {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			x := pool.Get().(*press)
			defer pool.Put(x)
			return x.path(p)
		})
	}
	err := g.Wait()
	return cost{time.Since(start), selfCPU() - before}, err
}

// press is what one path needs at a time; it is used again for the next.
type press struct {
	zstd *zstd.Encoder
	buf  *bufio.Writer // the NAR comes in tiny pieces
}

func newPress() *press {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		panic(err) // only for wrong options
	}
	return &press{e, bufio.NewWriterSize(nil, 256<<10)}
}

func (x *press) path(p *path) error {
	file, sum := &counter{w: sha256.New()}, &counter{w: sha256.New()}
	x.zstd.Reset(file)
	x.buf.Reset(io.MultiWriter(sum, x.zstd))
	if err := nar.DumpPath(x.buf, p.name); err != nil {
		return err
	}
	if err := x.buf.Flush(); err != nil {
		return err
	}
	if err := x.zstd.Close(); err != nil {
		return err
	}
	if sum.sum() != p.narHash {
		return fmt.Errorf("%s has changed", p.name)
	}
	_ = file.sum()
	return nil
}

// counter counts what it hashes.
type counter struct {
	w hash.Hash
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return c.w.Write(b)
}

func (c *counter) sum() [sha256.Size]byte { return [sha256.Size]byte(c.w.Sum(nil)) }

// selfCPU is the CPU time that this process has used.
func selfCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
