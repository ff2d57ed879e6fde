package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// ask is one HTTP request.
type ask struct {
	method string
	path   string
	// offset and size ask for a part; size 0 for the whole.
	offset, size int64
}

// load sends requests over connections that stay open, as Nix does. It speaks
// just enough HTTP to be cheap: it shares the machine with what it measures.
type load struct {
	addr  string
	conns int
	asks  []ask
	// window is how long to repeat the requests; 0 means each is sent once.
	window time.Duration
	// status is the answer expected; 0 means 200, or 206 for a part.
	status int
}

// answers is what a load got.
type answers struct {
	took  time.Duration
	bytes int64           // of bodies
	times []time.Duration // of each request, sorted
}

func (a answers) perSecond() float64 { return float64(len(a.times)) / a.took.Seconds() }
func (a answers) megabytes() float64 { return float64(a.bytes) / 1e6 / a.took.Seconds() }
func (a answers) millis(q float64) float64 {
	i := min(len(a.times)-1, int(q*float64(len(a.times))))
	return float64(a.times[i].Nanoseconds()) / 1e6
}

// loadTimeout bounds what a load takes beyond its window.
const loadTimeout = 3 * time.Minute

func (l load) run(ctx context.Context) (answers, error) {
	var next atomic.Int64
	var mu sync.Mutex
	var all answers
	start := time.Now()
	more := func() (ask, bool) {
		i := int(next.Add(1)) - 1
		if l.window == 0 && i >= len(l.asks) || l.window > 0 && time.Since(start) > l.window {
			return ask{}, false
		}
		return l.asks[i%len(l.asks)], true
	}
	g, ctx := errgroup.WithContext(ctx)
	for range l.conns {
		g.Go(func() error {
			one, err := l.connection(ctx, start, more)
			mu.Lock()
			defer mu.Unlock()
			all.bytes += one.bytes
			all.times = append(all.times, one.times...)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return answers{}, fmt.Errorf("loading %s: %w", l.addr, err)
	}
	all.took = time.Since(start)
	if len(all.times) == 0 {
		return answers{}, errors.New("no request was made")
	}
	slices.Sort(all.times)
	return all, nil
}

func (l load) connection(ctx context.Context, start time.Time, more func() (ask, bool)) (answers, error) {
	var a answers
	c, err := (&net.Dialer{Timeout: startTimeout}).DialContext(ctx, "tcp", l.addr)
	if err != nil {
		return a, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := c.SetDeadline(start.Add(l.window + loadTimeout)); err != nil {
		return a, err
	}
	in := bufio.NewReaderSize(c, 256<<10)
	var out []byte
	for {
		q, ok := more()
		if !ok {
			return a, nil
		}
		sent := time.Now()
		out = q.append(out[:0], l.addr)
		if _, err := c.Write(out); err != nil {
			return a, err
		}
		n, err := q.answer(in, l.status)
		if err != nil {
			return a, fmt.Errorf("%s %s: %w", q.method, q.path, err)
		}
		a.bytes += n
		a.times = append(a.times, time.Since(sent))
	}
}

func (q ask) append(b []byte, host string) []byte {
	b = fmt.Appendf(b, "%s %s HTTP/1.1\r\nHost: %s\r\n", q.method, q.path, host)
	if q.size > 0 {
		b = fmt.Appendf(b, "Range: bytes=%d-%d\r\n", q.offset, q.offset+q.size-1)
	}
	return append(b, "\r\n"...)
}

// answer reads the answer to q and returns the length of its body.
func (q ask) answer(in *bufio.Reader, want int) (int64, error) {
	if want == 0 {
		want = 200
		if q.size > 0 {
			want = 206
		}
	}
	line, err := in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if fields := bytes.Fields(line); len(fields) < 2 || string(fields[1]) != strconv.Itoa(want) {
		return 0, fmt.Errorf("answered %q, want status %d", bytes.TrimSpace(line), want)
	}
	length := -1
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if line = bytes.TrimSpace(line); len(line) == 0 {
			break
		}
		if key, value, _ := bytes.Cut(line, []byte(":")); bytes.EqualFold(key, []byte("content-length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, err
			}
		}
	}
	if length < 0 {
		return 0, errors.New("the answer does not tell its length")
	}
	if q.method == "HEAD" {
		return 0, nil
	}
	n, err := in.Discard(length)
	return int64(n), err
}
