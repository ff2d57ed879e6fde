package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/org/nixoci-action/internal/ui"
)

const (
	// registryRoundTrip is about that between a runner and a registry far away.
	registryRoundTrip = 50 * time.Millisecond
	// upstreamRoundTrip is about that to the next node of a large cache.
	upstreamRoundTrip = 20 * time.Millisecond
)

// latencies measures what round trips cost.
func latencies(ctx context.Context, b *bench) ([]section, error) {
	var all []section
	for _, x := range []struct {
		title string
		sizes []int
	}{
		{"latency: a CI run", ciRunSizes(b)},
		{"latency: many small paths", smallSizes(b)},
	} {
		s, err := b.distant(ctx, x.title, x.sizes)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	s, err := b.distantUpstream(ctx)
	return append(all, s), err
}

// distant measures publish with a registry that is near, and far away. All
// requests go through a relay, also those that it does not delay.
func (b *bench) distant(ctx context.Context, title string, sizes []int) (section, error) {
	s := section{Title: title}
	dir, remove, err := b.work("latency")
	if err != nil {
		return s, err
	}
	defer remove()
	b.log("%s: making %s", title, ui.Count(len(sizes), "path"))
	w, err := b.newWorkload(ctx, dir, sizes, 0)
	if err != nil {
		return s, err
	}
	key := filepath.Join(dir, "key")
	if _, err := execute(ctx, w.store.env, "", "nix-store", "--generate-binary-cache-key", "bench-1", key, key+".public"); err != nil {
		return s, err
	}
	// without that, publish would sign none: nothing was built here
	if _, err := execute(ctx, w.store.env, "", "nix", "store", "sign", "--all", "--key-file", key); err != nil {
		return s, err
	}
	if _, err := limit(ctx, w.paths, b.jobs); err != nil { // fills the page cache
		return s, err
	}
	s.About = fmt.Sprintf("%s, %.0f MB of NARs, signed; a round trip takes %v or no time.", ui.Count(len(w.paths), "path"), float64(w.size)/1e6, registryRoundTrip)
	for rep := range b.reps {
		b.log("%s: repetition %d of %d", title, rep+1, b.reps)
		if err := b.waitQuiet(ctx); err != nil {
			return s, err
		}
		if err := b.distantOnce(ctx, &s, w, filepath.Join(dir, "run"+strconv.Itoa(rep)), key); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (b *bench) distantOnce(ctx context.Context, s *section, w *workload, dir, key string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	d, err := startDistribution(ctx, dir)
	if err != nil {
		return err
	}
	defer d.stop()
	type pair struct{ cold, again published }
	measure := func(name string, roundTrip time.Duration) (p pair, err error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		r, err := startRelay(ctx, d.addr, roundTrip)
		if err != nil {
			return p, err
		}
		cache := r.addr + "/bench/" + name
		if p.cold, err = b.publish(ctx, w, d, cache, []string{"--sign-key-file", key}, w.top); err != nil {
			return p, err
		}
		if p.again, err = b.publish(ctx, w, d, cache, []string{"--sign-key-file", key}, w.top); err != nil {
			return p, err
		}
		if p.cold.uploaded != len(w.paths) || p.again.uploaded != 0 {
			err = fmt.Errorf("publish uploaded %d and %d paths; want %d and 0", p.cold.uploaded, p.again.uploaded, len(w.paths))
		}
		return p, err
	}
	near, err := measure("near", 0)
	if err != nil {
		return err
	}
	far, err := measure("far", registryRoundTrip)
	if err != nil {
		return err
	}
	s.add("publish, no latency", "s", near.cold.wall.Seconds())
	s.add("publish, far away", "s", far.cold.wall.Seconds())
	s.add("publish, far away / no latency", "", far.cold.wall.Seconds()/near.cold.wall.Seconds())
	s.add("publish, round trips", "", (far.cold.wall-near.cold.wall).Seconds()/registryRoundTrip.Seconds())
	s.add("publish, far away, requests", "", float64(far.cold.requests))
	s.add("publish, far away, CPU", "s", far.cold.cpu.Seconds())
	s.add("nothing new, no latency", "s", near.again.wall.Seconds())
	s.add("nothing new, far away", "s", far.again.wall.Seconds())
	s.add("nothing new, round trips", "", (far.again.wall-near.again.wall).Seconds()/registryRoundTrip.Seconds())
	s.add("nothing new, requests", "", float64(far.again.requests))
	s.add("nothing new, CPU", "s", far.again.cpu.Seconds())
	return nil
}

// distantUpstream measures how long it takes to learn that an upstream cache
// has nothing.
func (b *bench) distantUpstream(ctx context.Context) (section, error) {
	s := section{Title: "latency: an upstream cache"}
	dir, remove, err := b.work("upstream")
	if err != nil {
		return s, err
	}
	defer remove()
	sizes := make([]int, b.scaled(4999, 100))
	w, err := b.newWorkload(ctx, dir, sizes, 0)
	if err != nil {
		return s, err
	}
	up := httptest.NewServer(http.NotFoundHandler())
	defer up.Close()
	r, err := startRelay(ctx, up.Listener.Addr().String(), upstreamRoundTrip)
	if err != nil {
		return s, err
	}
	defer r.Close()
	s.About = fmt.Sprintf("A dry run with %s of which the upstream cache has none, over HTTP/1.1; a round trip to it takes %v.", ui.Count(len(w.paths), "path"), upstreamRoundTrip)
	for range b.reps {
		if err := b.waitQuiet(ctx); err != nil {
			return s, err
		}
		var took []time.Duration
		for _, upstream := range []string{"none", "http://" + r.addr} {
			f, err := execute(ctx, w.store.env, w.top.name+"\n", b.program,
				"publish", "--cache", "oci:"+filepath.Join(dir, "cache"), "--upstream", upstream, "--cache-dir", filepath.Join(dir, "local"), "--dry-run", "-")
			if err != nil {
				return s, err
			}
			took = append(took, f.wall)
		}
		s.add("without it", "s", took[0].Seconds())
		s.add("with it", "s", took[1].Seconds())
		s.add("looked for", "/s", float64(len(w.paths))/(took[1]-took[0]).Seconds())
	}
	return s, nil
}
