package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/ui"
)

// nixConnections is how many connections Nix opens to a cache by default.
const nixConnections = 25

// servingProxy is a proxy that serves.
type servingProxy struct {
	*service
	addr  string
	ready time.Duration // from the start of the process until it serves
}

func (r *servingProxy) memory(field string) float64 {
	return float64(memory(r.cmd.Process.Pid, field)) / 1e6
}

// startProxy starts the proxy with its copy of the index in local.
func (b *bench) startProxy(w *store, cache, local string) (*servingProxy, error) {
	began := time.Now()
	s, first, err := start(w.env, b.program, "proxy", "--cache", cache, "--listen", "127.0.0.1:0", "--cache-dir", local)
	if err != nil {
		return nil, err
	}
	r := &servingProxy{service: s}
	var line string
	select {
	case line = <-first:
		r.ready = time.Since(began)
	case <-s.exited:
	case <-time.After(startTimeout):
	}
	_, address, _ := strings.Cut(line, "extra-substituters = ")
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		r.addr = u.Host
		return r, nil
	}
	s.stop()
	return nil, fmt.Errorf("starting the proxy: it said %q: %s", line, strings.TrimSpace(s.stderr.String()))
}

// proxyCIRun measures the proxy on what publish has put into the registry.
func proxyCIRun(ctx context.Context, b *bench) ([]section, error) {
	dir, remove, err := b.work("proxy")
	if err != nil {
		return nil, err
	}
	defer remove()
	b.log("proxy: making a cache")
	w, err := b.newWorkload(ctx, dir, ciRunSizes(b), 0)
	if err != nil {
		return nil, err
	}
	d, err := startDistribution(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer d.stop()
	if _, err := b.runPublish(ctx, w, d, d.cache("a"), w.top); err != nil {
		return nil, err
	}
	repo, err := registry.Open(d.cache("a"), registry.Options{Push: true})
	if err != nil {
		return nil, err
	}
	snap, err := index.Open(repo, index.Options{}).Refresh(ctx)
	if err != nil {
		return nil, err
	}
	p, err := b.startProxy(w.store, d.cache("a"), dir+"/local")
	if err != nil {
		return nil, err
	}
	defer p.stop()
	r, reference, err := startReference(d)
	if err != nil {
		return nil, err
	}
	defer r.stop()

	narinfos := section{Title: "proxy: narinfos", About: ui.Count(snap.Len(), "path") + "; the client shares the cores."}
	if err := b.narinfos(ctx, &narinfos, p, reference, d, repo, snap); err != nil {
		return nil, err
	}
	nars, err := b.nars(ctx, p, reference, d, snap)
	if err != nil {
		return nil, err
	}
	nars.add("the proxy's memory afterwards", "MB", p.memory("VmRSS"))
	nars.add("the proxy's peak memory", "MB", p.memory("VmHWM"))
	return []section{narinfos, nars}, nil
}

// window is how long a rate is measured.
func (b *bench) window() time.Duration {
	return min(2*time.Second, time.Duration(b.scaled(int(2*time.Second), int(200*time.Millisecond))))
}

// narinfos measures requests for narinfos, against the same text as a blob of
// the registry, and against a server that does nothing but answer.
func (b *bench) narinfos(ctx context.Context, s *section, p *servingProxy, reference string, d *distribution, repo registry.Repository, snap *index.Snapshot) error {
	var hits, heads, misses, blobs []ask
	for e := range snap.All {
		hit := ask{method: "GET", path: "/" + e.Path.HashPart + ".narinfo"}
		hits, heads = append(hits, hit), append(heads, ask{method: "HEAD", path: hit.path})
		back := []byte(e.Path.HashPart)
		slices.Reverse(back)
		misses = append(misses, ask{method: "GET", path: "/" + string(back) + ".narinfo"})
		desc, err := repo.PutBlob(ctx, []byte(e.Narinfo()))
		if err != nil {
			return err
		}
		blobs = append(blobs, ask{method: "GET", path: "/v2/bench/a/blobs/" + desc.Digest.String()})
	}
	for rep := range b.reps {
		b.log("proxy: narinfos, repetition %d of %d", rep+1, b.reps)
		if err := b.waitQuiet(ctx); err != nil {
			return err
		}
		rates := map[string]float64{}
		for _, l := range []struct {
			name string
			load
		}{
			{"net/http, one text from memory", load{addr: reference, asks: []ask{{method: "GET", path: "/"}}}},
			{"the registry, narinfos as blobs", load{addr: d.addr, asks: blobs}},
			{"the proxy, GET", load{addr: p.addr, asks: hits}},
			{"the proxy, HEAD", load{addr: p.addr, asks: heads}},
			{"the proxy, GET of what it lacks", load{addr: p.addr, asks: misses, status: http.StatusNotFound}},
		} {
			l.conns, l.window = nixConnections, b.window()
			a, err := l.run(ctx)
			if err != nil {
				return err
			}
			rates[l.name] = a.perSecond()
			s.add(l.name, "/s", a.perSecond())
			if l.name == "the proxy, GET" {
				s.add("the proxy, GET, 25 connections, half within", "ms", a.millis(0.5))
				s.add("the proxy, GET, 25 connections, 99 of 100 within", "ms", a.millis(0.99))
			}
		}
		one, err := load{addr: p.addr, asks: hits, conns: 1, window: b.window() / 2}.run(ctx)
		if err != nil {
			return err
		}
		s.add("the proxy, GET, 1 connection, half within", "ms", one.millis(0.5))
		s.add("the proxy, GET, 1 connection, 99 of 100 within", "ms", one.millis(0.99))
		s.add("proxy / net/http", "", rates["the proxy, GET"]/rates["net/http, one text from memory"])
		s.add("proxy / registry", "", rates["the proxy, GET"]/rates["the registry, narinfos as blobs"])
	}
	return nil
}

// nars measures NARs through the proxy against the same bytes from the
// registry.
func (b *bench) nars(ctx context.Context, p *servingProxy, reference string, d *distribution, snap *index.Snapshot) (section, error) {
	var large, largeBlobs, small, smallParts []ask
	var largeSize, smallSize int64
	for e := range snap.All {
		blob := "/v2/bench/a/blobs/sha256:" + e.NAR.Blob.Hex
		nar := ask{method: "GET", path: "/" + e.URL()}
		if e.NAR.Packed() {
			small = append(small, nar)
			smallParts = append(smallParts, ask{method: "GET", path: blob, offset: e.NAR.Offset, size: e.NAR.Size})
			smallSize += e.NAR.Size
		} else {
			large = append(large, nar)
			largeBlobs = append(largeBlobs, ask{method: "GET", path: blob})
			largeSize += e.NAR.Size
		}
	}
	s := section{Title: "proxy: NARs", About: fmt.Sprintf("%s with a blob of their own, %.0f MB; %s in packs, %.0f MB.",
		ui.Count(len(large), "NAR"), float64(largeSize)/1e6, ui.Count(len(small), "NAR"), float64(smallSize)/1e6)}
	if len(large) == 0 || len(small) == 0 {
		return s, errors.New("the cache lacks large or small NARs")
	}
	for rep := range b.reps {
		b.log("proxy: NARs, repetition %d of %d", rep+1, b.reps)
		if err := b.waitQuiet(ctx); err != nil {
			return s, err
		}
		for _, kind := range []struct {
			name            string
			conns           int
			unit            string
			value           func(answers) float64
			registry, proxy []ask
		}{
			{"1 stream", 1, "MB/s", answers.megabytes, largeBlobs, large},
			{"8 streams", 8, "MB/s", answers.megabytes, largeBlobs, large},
			{"small NARs, 25 connections", nixConnections, "/s", answers.perSecond, smallParts, small},
		} {
			direct, err := load{addr: d.addr, conns: kind.conns, asks: kind.registry}.run(ctx)
			if err != nil {
				return s, err
			}
			plain, err := load{addr: reference, conns: kind.conns, asks: kind.registry}.run(ctx)
			if err != nil {
				return s, err
			}
			through, err := load{addr: p.addr, conns: kind.conns, asks: kind.proxy}.run(ctx)
			if err != nil {
				return s, err
			}
			if direct.bytes != through.bytes {
				return s, fmt.Errorf("the registry sent %d bytes, the proxy %d", direct.bytes, through.bytes)
			}
			s.add(kind.name+", the registry directly", kind.unit, kind.value(direct))
			s.add(kind.name+", through a proxy that checks nothing", kind.unit, kind.value(plain))
			s.add(kind.name+", through the proxy", kind.unit, kind.value(through))
			s.add(kind.name+", proxy / registry", "", kind.value(through)/kind.value(direct))
			s.add(kind.name+", proxy / proxy that checks nothing", "", kind.value(through)/kind.value(plain))
		}
	}
	return s, nil
}
