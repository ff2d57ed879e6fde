package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/report"
)

func publishCIRun(ctx context.Context, b *bench) ([]section, error) {
	return b.publishing(ctx, "publish: a CI run", ciRunSizes(b))
}

func publishSmall(ctx context.Context, b *bench) ([]section, error) {
	return b.publishing(ctx, "publish: many small paths", smallSizes(b))
}

// publishing measures publish on a store with paths of the given sizes.
func (b *bench) publishing(ctx context.Context, title string, sizes []int) ([]section, error) {
	dir, remove, err := b.work("publish")
	if err != nil {
		return nil, err
	}
	defer remove()
	b.log("%s: making %s", title, ui.Count(len(sizes), "path"))
	w, err := b.newWorkload(ctx, dir, sizes, b.reps)
	if err != nil {
		return nil, err
	}
	if _, err := limit(ctx, w.paths, b.jobs); err != nil { // fills the page cache
		return nil, err
	}
	s := section{Title: title}
	for rep := range b.reps {
		b.log("%s: repetition %d of %d", title, rep+1, b.reps)
		if err := b.waitQuiet(ctx); err != nil {
			return nil, err
		}
		if err := b.publishOnce(ctx, &s, w, dir, rep); err != nil {
			return nil, err
		}
	}
	return []section{s}, nil
}

// publishOnce takes one sample of everything, the limit first.
func (b *bench) publishOnce(ctx context.Context, s *section, w *workload, dir string, rep int) error {
	dir = filepath.Join(dir, "run"+strconv.Itoa(rep))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	d, err := startDistribution(ctx, dir)
	if err != nil {
		return err
	}
	defer d.stop()

	lim, err := limit(ctx, w.paths, b.jobs)
	if err != nil {
		return err
	}
	layout, err := b.runPublish(ctx, w, d, "oci:"+filepath.Join(dir, "layout"), w.top)
	if err != nil {
		return err
	}
	cold, err := b.runPublish(ctx, w, d, d.cache("a"), w.top)
	if err != nil {
		return err
	}
	after, err := limit(ctx, w.paths, b.jobs)
	if err != nil {
		return err
	}
	if after.wall < lim.wall { // whatever slowed the other down was not the machine's limit
		lim = after
	}
	again, err := b.runPublish(ctx, w, d, d.cache("a"), w.top)
	if err != nil {
		return err
	}
	changed, err := b.runPublish(ctx, w, d, d.cache("a"), w.top, w.later[rep])
	if err != nil {
		return err
	}
	if n := len(w.paths); cold.uploaded != n || layout.uploaded != n || again.uploaded != 0 || changed.uploaded != 1 {
		return fmt.Errorf("publish uploaded %d, %d, %d and %d paths; want %d, %d, 0 and 1", cold.uploaded, layout.uploaded, again.uploaded, changed.uploaded, n, n)
	}

	gb := float64(w.size) / 1e9
	rate := func(c cost) float64 { return gb * 1000 / c.wall.Seconds() }
	s.About = fmt.Sprintf("%s, %.0f MB of NARs, %.0f MB compressed; %d at a time.",
		ui.Count(len(w.paths), "path"), gb*1000, float64(cold.fileSize)/1e6, b.jobs)
	s.add("the limit: dump, hash, compress, hash", "MB/s", rate(lim))
	s.add("publish into oci:", "MB/s", rate(layout.cost))
	s.add("publish into the registry", "MB/s", rate(cold.cost))
	s.add("oci: / limit", "", rate(layout.cost)/rate(lim))
	s.add("registry / limit", "", rate(cold.cost)/rate(lim))
	s.add("publish into the registry, wall time", "s", cold.wall.Seconds())
	s.add("cores that the limit could use", "", lim.cpu.Seconds()/lim.wall.Seconds())
	s.add("CPU a GB of NARs, the limit", "s", lim.cpu.Seconds()/gb)
	s.add("CPU a GB of NARs, publish into the registry", "s", cold.cpu.Seconds()/gb)
	s.add("CPU, publish / limit", "", cold.cpu.Seconds()/lim.cpu.Seconds())
	s.add("peak memory", "MB", float64(cold.memory)/1e6)
	s.add("requests", "", float64(cold.requests))
	s.add("requests a path", "", float64(cold.requests)/float64(len(w.paths)))
	s.add("second publish, nothing new", "s", again.wall.Seconds())
	s.add("second publish, requests", "", float64(again.requests))
	s.add("publish after one changed path", "s", changed.wall.Seconds())
	s.add("publish after one changed path, requests", "", float64(changed.requests))
	return nil
}

// published is one run of publish.
type published struct {
	finished
	uploaded int   // paths
	fileSize int64 // compressed bytes sent
	requests int64 // that the registry has answered
}

// runPublish publishes roots. It has no local copy of the index, like the job
// of a CI run.
func (b *bench) runPublish(ctx context.Context, w *workload, d *distribution, cache string, roots ...*path) (published, error) {
	return b.publish(ctx, w, d, cache, nil, roots...)
}

func (b *bench) publish(ctx context.Context, w *workload, d *distribution, cache string, flags []string, roots ...*path) (published, error) {
	local, remove, err := b.work("cache")
	if err != nil {
		return published{}, err
	}
	defer remove()
	before, err := d.requests(ctx)
	if err != nil {
		return published{}, err
	}
	var names strings.Builder
	for _, r := range roots {
		names.WriteString(r.name + "\n")
	}
	args := append([]string{"publish", "--cache", cache, "--upstream", "none", "--jobs", strconv.Itoa(b.jobs), "--cache-dir", local, "--json"}, flags...)
	f, err := execute(ctx, w.store.env, names.String(), b.program, append(args, "-")...)
	if err != nil {
		return published{}, err
	}
	after, err := d.requests(ctx)
	if err != nil {
		return published{}, err
	}
	var r report.Publish
	if err := json.Unmarshal(f.stdout, &r); err != nil {
		return published{}, fmt.Errorf("decoding publish's result: %w", err)
	}
	return published{f, r.Uploaded.Paths, r.Uploaded.FileSize, after - before}, nil
}
