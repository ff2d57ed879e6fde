package e2e

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/report"
)

// statuses are the outputs by status, each list in the order of attributes.
func (r result) statuses() map[report.OutputStatus][]string {
	m := map[report.OutputStatus][]string{}
	for _, o := range r.Outputs {
		if o.Status != report.OutputSkipped {
			m[o.Status] = append(m[o.Status], o.Attr[strings.LastIndexByte(o.Attr, '.')+1:])
		}
	}
	return m
}

// reasonOf is the reason given for a package.
func (r result) reasonOf(name string) string {
	for _, o := range r.Outputs {
		if o.Attr == "packages."+system+"."+name {
			return o.Reason
		}
	}
	return "none"
}

// absent checks that the store has none of the paths.
func (w *world) absent(paths []string) {
	w.Helper()
	paths = slices.Compact(slices.Sorted(slices.Values(paths)))
	missing := strings.Fields(w.Env.Run(w, w.Dir, "nix-store", append([]string{"--check-validity", "--print-invalid"}, paths...)...))
	if len(missing) != len(paths) {
		w.Errorf("the store has %d of %d paths", len(paths)-len(missing), len(paths))
	}
}

// aged copies a cache to a directory in which all entries are so old.
func (w *world) aged(cache string, age time.Duration) string {
	w.Helper()
	ctx := context.Background()
	open := func(name string) registry.Repository {
		repo, err := registry.Open(name, registry.Options{Push: true})
		if err != nil {
			w.Fatal(err)
		}
		return repo
	}
	from, name := open(cache), "oci:"+filepath.Join(w.TempDir(), "aged")
	s, err := index.Open(from, index.Options{}).Sweep(ctx)
	if err != nil {
		w.Fatal(err)
	}
	to := open(name)
	c := index.Open(to, index.Options{Settle: time.Millisecond, Now: func() time.Time { return time.Now().Add(-age) }})
	empty, err := c.Sweep(ctx)
	if err != nil {
		w.Fatal(err)
	}
	writer, err := c.NewWriter(empty, index.WriterOptions{Config: s.Config()})
	if err != nil {
		w.Fatal(err)
	}
	for e := range s.All {
		body, err := from.Blob(ctx, e.NAR.Blob, 0, -1)
		if err != nil {
			w.Fatal(err)
		}
		blob, err := io.ReadAll(body)
		body.Close()
		if err == nil {
			_, err = to.PutBlob(ctx, blob)
		}
		if err == nil {
			err = writer.Add(ctx, e)
		}
		if err != nil {
			w.Fatal(err)
		}
	}
	if r, err := writer.Close(ctx, nil); err != nil || r.Committed != s.Len() {
		w.Fatalf("got %+v, %v", r, err)
	}
	return name
}

// What the cache has is published without being built or fetched; what it lacks
// is built, and both together are one publication.
func TestSkipCached(t *testing.T) {
	t.Parallel()
	caches(t, func(t *testing.T, cache string) {
		w := newWorld(t)
		flake := w.flake(flakeText(t.Name(), ""))
		first := w.publish(cache, "--flake", flake)
		w.forget()
		again := w.publish(cache, "--flake", flake, "--skip-cached")
		if got := again.statuses(); len(got["cached"]) != 8 || len(got) != 1 {
			t.Errorf("got the outputs %v, want 8 cached", got)
		}
		if again.InCache != first.Closure || again.Closure != first.Closure || again.Uploaded.Paths+again.Committed != 0 {
			t.Errorf("got %+v, want the closure %+v in the cache", again, first.Closure)
		}
		if again.Outputs[0].Reason != "in cache" || strings.Contains(again.stderr, "building '") {
			t.Errorf("got the reason %q, and\n%s", again.Outputs[0].Reason, again.stderr)
		}
		w.absent(first.paths())
		if n := len(publications(t, cache)); n != 1 {
			t.Errorf("got %d publications, want that of the first publish", n)
		}

		w.flake(flakeText(t.Name(), "changed"))
		plan := w.publish(cache, "--flake", flake, "--skip-cached", "--dry-run")
		if got := plan.statuses(); len(got["cached"]) != 4 || len(got["not built"]) != 4 {
			t.Errorf("dry run: got the outputs %v", got)
		}
		listed := 0
		for _, p := range plan.Paths {
			if p.Reason == "in cache" && p.NarSize > 0 {
				listed++
			}
		}
		if listed != 5 || plan.InCache.Paths != 5 { // base, lib, shell and the two of multi
			t.Errorf("dry run: got the paths %v", plan.Paths)
		}
		changed := w.publish(cache, "--flake", flake, "--skip-cached")
		got := changed.statuses()
		if want := []string{"default", "base", "lib", "multi"}; !slices.Equal(got["cached"], want) || len(got["built"]) != 4 {
			t.Errorf("one changed package: got the outputs %v, want %v cached", got, want)
		}
		if changed.Uploaded.Paths+changed.Reused.Paths != 3 || changed.Closure.Paths != first.Closure.Paths {
			t.Errorf("one changed package: got %+v", changed)
		}
		pubs := publications(t, cache)
		if last := pubs[len(pubs)-1]; len(pubs) != 2 || last.Partial || len(last.Roots) != len(changed.paths()) {
			t.Errorf("one changed package: got the publication %+v, want %d roots", last, len(changed.paths()))
		}
		w.fresh(cache, changed.paths())
	})
}

// fresh has a client with an empty store get paths that this machine may lack.
func (w *world) fresh(cache string, paths []string) {
	w.Helper()
	c := w.newClient(w.proxy(cache))
	if out, err := c.nix(append([]string{"build", "--no-link"}, paths...)...); err != nil {
		w.Errorf("substituting: %v\n%s", err, out)
	}
	w.Cleanup(func() { makeWritable(c.root) })
}

// What is old is made young again with all that it refers to: a collection must
// not take it.
func TestSkipCachedRepeats(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flake := w.flake(flakeText(t.Name(), ""))
	cache := "oci:" + filepath.Join(w.Dir, "cache")
	first := w.publish(cache, "--flake", flake)
	w.forget()
	for age, want := range map[time.Duration]int{20 * time.Hour: 3, 11 * time.Hour: 0} {
		old := w.aged(cache, age)
		r := w.publish(old, "--flake", flake, "--include", "packages.*.app", "--skip-cached")
		if r.Repeated != want || r.Committed != want || len(r.statuses()["cached"]) != 1 {
			t.Errorf("after %v: got %+v, want app and the two below it repeated: %d", age, r, want)
		}
		if c := w.gc(old, "--json", "--retention", "0s", "--delay", "5h"); c.code != 0 || c.Kept.Paths != 3 {
			t.Errorf("after %v: got %d, %+v\n%s", age, c.code, c, c.stderr)
		}
		w.fresh(old, r.paths())
	}
	w.absent(first.paths())

	// a NAR that the registry has lost cannot be promised again, and cannot be
	// sent, either
	old := w.aged(cache, 20*time.Hour)
	for _, blob := range w.blobsOf(old, "-lib") {
		if err := os.Remove(filepath.Join(strings.TrimPrefix(old, "oci:"), "blobs/sha256", blob)); err != nil {
			t.Fatal(err)
		}
	}
	lost := []string{"--upstream", "none", "--sign-key-file", w.keyFile, "--flake", flake, "--include", "packages.*.app"}
	if r := w.tryPublish(old, append(lost, "--skip-cached")...); r.code == 0 || !strings.Contains(r.stderr, "has lost the NAR of ") || !strings.Contains(r.stderr, "hint: publish once without --skip-cached") {
		t.Errorf("a lost NAR: got %d\n%s", r.code, r.stderr)
	}
	if n := len(publications(t, old)); n != 0 {
		t.Errorf("a lost NAR: got %d publications", n)
	}
	if r := w.tryPublish(old, lost...); r.code != 0 {
		t.Errorf("without --skip-cached: got %d\n%s", r.code, r.stderr)
	}
}

// blobsOf are the digests of the blobs, without the algorithm, that the NARs of
// paths whose names end so are in.
func (w *world) blobsOf(cache, suffix string) (blobs []string) {
	w.Helper()
	repo, err := registry.Open(cache, registry.Options{})
	if err != nil {
		w.Fatal(err)
	}
	s, err := index.Open(repo, index.Options{}).Sweep(context.Background())
	if err != nil {
		w.Fatal(err)
	}
	for e := range s.All {
		if strings.HasSuffix(e.Path.String(), suffix) {
			blobs = append(blobs, e.NAR.Blob.Hex)
		}
	}
	return blobs
}

// An entry that our key has not signed is no reason to skip: anybody who can
// write to the registry could have made it. It is signed after a build has given
// the same.
func TestSkipCachedSigns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := "oci:" + filepath.Join(w.Dir, "cache")
	flake := w.flake(flakeText(t.Name(), ""))
	if r := w.tryPublish(cache, "--upstream", "none", "--flake", flake); r.code != 0 {
		t.Fatal(r.stderr)
	}
	w.forget()
	signed := w.publish(cache, "--flake", flake, "--skip-cached")
	if got := signed.statuses(); len(got["built"]) != 8 || signed.Uploaded.Paths != 0 || signed.Repeated != signed.Closure.Paths {
		t.Errorf("unsigned: got %+v", signed)
	}
	w.forget()
	if again := w.publish(cache, "--flake", flake, "--skip-cached"); len(again.statuses()["cached"]) != 8 || again.Repeated != 0 {
		t.Errorf("signed: got %+v", again)
	}
	w.fresh(cache, signed.paths())
}

// What is on an upstream cache is skipped as well, and what refers to paths that
// no upstream has, or could not say that it has, is built.
func TestSkipCachedAsksUpstream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flake := w.flake(flakeText(t.Name(), ""))
	below, cache := "oci:"+filepath.Join(w.Dir, "upstream"), "oci:"+filepath.Join(w.Dir, "cache")
	w.publish(below, "--flake", flake, "--include", "packages.*.lib")
	conf := w.proxy(below)
	line, _, _ := strings.Cut(conf, "\n")
	upstream := strings.TrimPrefix(line, "extra-substituters = ")
	publish := func(upstream string, args ...string) result {
		t.Helper()
		r := w.tryPublish(cache, append([]string{"--flake", flake, "--sign-key-file", w.keyFile, "--cache-dir", w.TempDir(), "--include", "packages.*.app", "--include", "packages.*.lib", "--upstream", upstream}, args...)...)
		if r.code != 0 {
			t.Fatalf("publish ended with %d:\n%s", r.code, r.stderr)
		}
		return r
	}
	if r := publish(upstream); r.Uploaded.Paths != 1 || r.OnUpstream.Paths != 2 {
		t.Fatalf("got %+v, want app uploaded and lib on the upstream", r)
	}
	w.forget()
	r := publish(upstream, "--skip-cached")
	if r.reasonOf("app") != "in cache" || r.reasonOf("lib") != "on "+upstream || len(r.statuses()["cached"]) != 2 {
		t.Errorf("got the outputs %+v, want both cached, lib on %s", r.Outputs, upstream)
	}
	w.absent(r.paths())
	pubs := publications(t, cache)
	if last := pubs[len(pubs)-1]; len(last.Roots) != 2 {
		t.Errorf("got the publication %+v, want both as roots", last)
	}

	const gone = "http://127.0.0.1:9" // nobody listens there
	if r := publish(gone, "--skip-cached"); len(r.statuses()["built"]) != 2 || !strings.Contains(r.stderr, "could not say") {
		t.Errorf("without the upstream: got the outputs %+v, want both built\n%s", r.Outputs, r.stderr)
	}
}
