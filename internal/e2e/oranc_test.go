package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/oranc"
	"github.com/org/nixoci-action/internal/oranctest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

// orancTags are the tags that are none of ours.
func (w *world) orancTags(repo registry.Repository) []string {
	w.Helper()
	tags, err := repo.Tags(context.Background())
	if err != nil {
		w.Fatal(err)
	}
	tags = slices.DeleteFunc(tags, func(tag string) bool { return tag == "cache-index" || strings.HasPrefix(tag, "segment-") })
	slices.Sort(tags)
	return tags
}

// What Nix has copied to oranc is imported without sending it again: then Nix
// substitutes it from our proxy, publish and gc count on it, and no collector
// takes it, also when oranc's tags are gone. The narinfos and NARs here are Nix's
// own; the repository is made as oranc makes it.
func TestImportsOranc(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flake := w.flake(flakeText(t.Name(), ""))
	files := filepath.Join(w.Dir, "files")
	copyTo := func(attr, compression string) []string {
		w.Nix(t, flake, "copy", "--to", "file://"+files+"?compression="+compression+"&secret-key="+w.keyFile, "path:"+flake+"#"+attr)
		return strings.Fields(w.Env.Run(t, flake, "nix-store", "--query", "--requisites", w.Nix(t, flake, "eval", "--raw", "path:"+flake+"#"+attr+".outPath")))
	}
	d := registrytest.NewDistribution(t)
	cache := d.Addr + "/a/b"
	repo, err := registry.Open(cache, registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	app := copyTo("app", "xz")
	oranctest.Copy(t, repo, files, oranc.OldTag)
	if err := os.RemoveAll(files); err != nil {
		t.Fatal(err)
	}
	w.flake(flakeText(t.Name(), "changed"))
	changed := copyTo("app", "zstd")
	oranctest.Copy(t, repo, files, oranc.Tag) // what both need is there twice
	both := slices.Concat(app, changed)
	slices.Sort(both)
	both = slices.Compact(both)
	tags := w.orancTags(repo)

	dry := w.tryPublish(cache, "--import-oranc", "--upstream", "none", "--dry-run")
	if dry.code != 0 || dry.Imported.Paths != len(both) || !slices.Equal(w.orancTags(repo), tags) {
		t.Errorf("dry run: got %d, %+v\n%s", dry.code, dry.Imported, dry.stderr)
	}
	if all, _ := repo.Tags(context.Background()); len(all) != len(tags) {
		t.Errorf("a dry run wrote tags: %v", all)
	}
	before := d.Size(t)
	im := w.tryPublish(cache, "--import-oranc", "--upstream", "none")
	if im.code != 0 || im.Imported.Paths != len(both) || im.Imported.SignedBy["e2e-1"] != len(both) || im.Imported.Unsigned != 0 {
		t.Errorf("got %d, %+v\n%s", im.code, im.Imported, im.stderr)
	}
	if !strings.Contains(im.stderr, "signatures do not tell the public key") || !strings.Contains(im.stderr, "e2e-1") {
		t.Errorf("nothing is said of the key: %s", im.stderr)
	}
	if grown := d.Size(t) - before; grown > 64<<10 {
		t.Errorf("the registry has grown by %d bytes", grown)
	}
	conf := w.startProxy(cache, 1) // the key is not known
	w.newClient(conf + "extra-trusted-public-keys = " + w.publicKey).substitute(both...)

	again := w.tryPublish(cache, "--import-oranc", "--upstream", "none", "--sign-key-file", w.keyFile)
	if again.code != 0 || again.Imported.Paths != 0 || again.Imported.Present != len(both) {
		t.Errorf("again: got %d, %+v\n%s", again.code, again.Imported, again.stderr)
	}
	if conf := w.proxy(cache); !strings.Contains(conf, strings.TrimSpace(w.publicKey)) {
		t.Errorf("the key is not kept: %s", conf)
	}
	r := w.publish(cache, "--flake", flake)
	if r.InCache.Paths < len(changed) || r.Uploaded.Paths != r.Closure.Paths-r.InCache.Paths {
		t.Errorf("publishing: got %+v", r)
	}
	// young enough to stay, whether published or not
	if c := w.gc(cache); c.code != 0 {
		t.Errorf("gc: got %d\n%s", c.code, c.stderr)
	}
	if got := w.orancTags(repo); !slices.Equal(got, tags) {
		t.Errorf("oranc's tags: got %v, want %v", got, tags)
	}
	d.Collect(t)
	w.newClient(w.proxy(cache)).substitute(slices.Concat(r.paths(), both)...)

	for _, tag := range tags {
		digest, err := repo.Resolve(context.Background(), tag)
		if errors.Is(err, registry.ErrNotFound) { // went with another tag of it
			continue
		}
		if err == nil {
			err = repo.DeleteManifest(context.Background(), tag, digest)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	d.Collect(t)
	w.newClient(w.proxy(cache)).substitute(slices.Concat(r.paths(), both)...)
	if c := w.gc(cache, "--retention", "0s", "--delay", "0s"); c.code != 0 {
		t.Errorf("gc of what is not published: got %d\n%s", c.code, c.stderr)
	}
	d.Collect(t)
	w.newClient(w.proxy(cache)).substitute(r.paths()...)
	if _, err := w.newClient(w.proxy(cache)).nix("build", "--no-link", app[len(app)-1]); err == nil {
		t.Error("what nobody has published, and is old, is still there")
	}
}

// A path without what it refers to is left out, and told of.
func TestImportsOrancPartly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flake := w.flake(flakeText(t.Name(), ""))
	files := filepath.Join(w.Dir, "files")
	w.Nix(t, flake, "copy", "--to", "file://"+files, "path:"+flake+"#app")
	path := w.Nix(t, flake, "eval", "--raw", "path:"+flake+"#app.outPath")
	all := strings.Fields(w.Env.Run(t, flake, "nix-store", "--query", "--requisites", path))
	gone := strings.Fields(w.Env.Run(t, flake, "nix-store", "--query", "--references", path))[0]
	cache := "oci:" + t.TempDir()
	repo, err := registry.Open(cache, registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	if c := w.tryPublish(cache, "--import-oranc"); c.code != 1 || !strings.Contains(c.stderr, "has stored no paths") {
		t.Errorf("nothing of oranc's: got %d\n%s", c.code, c.stderr)
	}
	if err := os.Remove(filepath.Join(files, filepath.Base(gone)[:32]+".narinfo")); err != nil {
		t.Fatal(err)
	}
	oranctest.Copy(t, repo, files, oranc.Tag)
	im := w.tryPublish(cache, "--import-oranc", "--upstream", "none")
	if im.code != 3 || im.Status != "partly" || !slices.Contains(im.Imported.Incomplete, path) || im.Imported.Paths != len(all)-1-len(im.Imported.Incomplete) {
		t.Errorf("got %d, %s, %+v\n%s", im.code, im.Status, im.Imported, im.stderr)
	}
	if !strings.Contains(im.stderr, "without a signature: ") || !strings.Contains(im.stderr, "hint: --json names them") {
		t.Errorf("got %s", im.stderr)
	}
}

// What content-addressed derivations have become is imported: a client gets it by
// the derivation, whose paths it cannot know.
func TestImportsOrancRealisations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addConf("extra-experimental-features = ca-derivations\n")
	flake := "path:" + w.flake(extrasFlake(t.Name())) + "#ca"
	files := filepath.Join(w.Dir, "files")
	w.Nix(t, w.Dir, "build", "--no-link", flake)
	w.Nix(t, w.Dir, "copy", "--to", "file://"+files+"?secret-key="+w.keyFile, flake)
	cache := registrytest.NewDistribution(t).Addr + "/a/b"
	repo, err := registry.Open(cache, registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	oranctest.Copy(t, repo, files, oranc.Tag)
	im := w.tryPublish(cache, "--import-oranc", "--upstream", "none", "--sign-key-file", w.keyFile)
	if im.code != 0 || im.Imported.Realisations == 0 || im.Imported.Other != 0 {
		t.Errorf("got %d, %+v\n%s", im.code, im.Imported, im.stderr)
	}
	client := w.newClient(w.proxy(cache))
	if out, err := client.nix("build", "--no-link", flake); err != nil {
		t.Errorf("substituting a content-addressed derivation: %v\n%s", err, out)
	}
	w.Cleanup(func() { makeWritable(client.root) })
}
