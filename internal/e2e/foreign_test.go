package e2e

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

// theirIndex is nixcache-oci's index.
type theirIndex struct {
	Version   int                   `json:"version"`
	Entries   map[string]theirEntry `json:"entries"`
	GCRoots   []string              `json:"gc_roots"`
	PublicKey string                `json:"public_key"`
}

type theirEntry struct {
	Name      string `json:"name"`
	Narinfo   string `json:"narinfo"`
	NarDigest string `json:"nar_digest"`
	NarSize   int64  `json:"nar_size"`
	Added     string `json:"added"`
}

// theirs does what nixcache-oci does in a repository.
type theirs struct {
	*world
	repo registry.Repository
}

func (w *world) theirs(cache string) *theirs {
	w.Helper()
	repo, err := registry.Open(cache, registry.Options{Push: true})
	if err != nil {
		w.Fatal(err)
	}
	return &theirs{w, repo}
}

func (n *theirs) put(b []byte) v1.Descriptor {
	n.Helper()
	d, err := n.repo.PutBlob(context.Background(), b)
	if err != nil {
		n.Fatal(err)
	}
	return d
}

// write writes an index with what it has and the paths in files, a binary
// cache that Nix has made. NARs become blobs that no manifest names.
func (n *theirs) write(idx theirIndex, files string, paths []string) theirIndex {
	n.Helper()
	idx.Entries = maps.Clone(idx.Entries)
	if idx.Entries == nil {
		idx.Entries = map[string]theirEntry{}
	}
	for _, p := range paths {
		hashPart, name, _ := strings.Cut(filepath.Base(p), "-")
		narinfo, err := os.ReadFile(filepath.Join(files, hashPart+".narinfo"))
		if err != nil {
			n.Fatal(err)
		}
		_, url, _ := strings.Cut(string(narinfo), "URL: ")
		url, _, _ = strings.Cut(url, "\n")
		nar, err := os.ReadFile(filepath.Join(files, url))
		if err != nil {
			n.Fatal(err)
		}
		d := n.put(nar)
		idx.Entries[hashPart] = theirEntry{name, string(narinfo), d.Digest.String(), d.Size, "2026-01-02T03:04:05Z"}
		idx.GCRoots = append(idx.GCRoots, hashPart)
	}
	b, err := json.Marshal(idx)
	if err != nil {
		n.Fatal(err)
	}
	layer, config := n.put(b), n.put([]byte("{}\n"))
	layer.MediaType, config.MediaType = "application/vnd.nix.cache.index.v1+json", "application/vnd.oci.image.config.v1+json"
	manifest, err := json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config, Layers: []v1.Descriptor{layer}})
	if err != nil {
		n.Fatal(err)
	}
	if _, err := n.repo.PutManifest(context.Background(), "cache-index", registry.Manifest{MediaType: string(types.OCIManifestSchema1), Raw: manifest}); err != nil {
		n.Fatal(err)
	}
	return idx
}

// index reads the index as nixcache-oci's proxy does: the first layer, whatever
// else there is.
func (n *theirs) index() theirIndex {
	n.Helper()
	ctx := context.Background()
	m, err := n.repo.Manifest(ctx, "cache-index")
	if err != nil {
		n.Fatal(err)
	}
	var im v1.Manifest
	if err := json.Unmarshal(m.Raw, &im); err != nil {
		n.Fatal(err)
	}
	b, err := registry.ReadBlob(ctx, n.repo, im.Layers[0].Digest, im.Layers[0].Size)
	if err != nil {
		n.Fatal(err)
	}
	var idx theirIndex
	if err := json.Unmarshal(b, &idx); err != nil {
		n.Fatal(err)
	}
	return idx
}

// serve serves the index that is there now, and returns the lines for nix.conf.
// It answers narinfos by their hash part, and a NAR with the whole blob of the
// entry whose narinfo names it.
func (n *theirs) serve() string {
	n.Helper()
	idx := n.index()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/nix-cache-info" {
			_, _ = io.WriteString(w, "StoreDir: "+n.Store+"\nWantMassQuery: 1\nPriority: 40\n")
			return
		}
		if hashPart, ok := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/"), ".narinfo"); ok {
			if e, ok := idx.Entries[hashPart]; ok {
				_, _ = io.WriteString(w, e.Narinfo)
				return
			}
		}
		for _, e := range idx.Entries {
			if !strings.Contains(e.Narinfo, "URL: "+strings.TrimPrefix(r.URL.Path, "/")+"\n") {
				continue
			}
			d, err := v1.NewHash(e.NarDigest)
			if err != nil {
				break
			}
			blob, err := n.repo.Blob(r.Context(), d, 0, -1)
			if err != nil {
				break
			}
			defer blob.Close()
			_, _ = io.Copy(w, blob)
			return
		}
		http.NotFound(w, r)
	}))
	n.Cleanup(s.Close)
	return "extra-substituters = " + s.URL + "\nextra-trusted-public-keys = " + idx.PublicKey + "\n"
}

// A cache of nixcache-oci is served as it is, and taken over by the first
// publish, which sends nothing of what it has. nixcache-oci can use it all the
// time, also to publish. The narinfos and NARs here are Nix's own.
func TestTakesOverNixcacheOCI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flake := w.flake(flakeText(t.Name(), ""))
	files := filepath.Join(w.Dir, "files")
	build := func(attr string) []string {
		w.Nix(t, flake, "copy", "--to", "file://"+files+"?compression=xz&secret-key="+w.keyFile, "path:"+flake+"#"+attr)
		return strings.Fields(w.Env.Run(t, flake, "nix-store", "--query", "--requisites", w.Nix(t, flake, "eval", "--raw", "path:"+flake+"#"+attr+".outPath")))
	}
	d := registrytest.NewDistribution(t)
	cache := d.Addr + "/a/b"
	their := w.theirs(cache)
	app := build("app")
	before := their.write(theirIndex{Version: 1, PublicKey: strings.TrimSpace(w.publicKey)}, files, app)

	w.newClient(w.proxy(cache)).substitute(app...)
	w.newClient(their.serve()).substitute(app...)

	if c := w.gc(cache); c.code != 1 || !strings.Contains(c.stderr, "publish into it once") || len(their.index().Entries) != len(app) {
		t.Errorf("gc of a cache that is all theirs: got %d\n%s", c.code, c.stderr)
	}
	dry := w.tryPublish(cache, "--upstream", "none", "--flake", flake, "--dry-run")
	if dry.code != 0 || dry.Adopted.Paths != len(app) || len(their.index().Entries) != len(app) {
		t.Errorf("dry run: got %d, %+v\n%s", dry.code, dry.Adopted, dry.stderr)
	}
	r := w.publish(cache, "--flake", flake)
	if r.Adopted.Paths != len(app) || r.InCache.Paths != len(app) || r.Uploaded.Paths != r.Closure.Paths-len(app) || !strings.Contains(r.stderr, "taken over") {
		t.Errorf("taking over %d paths: got %+v\n%s", len(app), r, r.stderr)
	}
	if again := w.publish(cache, "--flake", flake); again.Adopted.Paths != 0 || again.Uploaded.Paths != 0 {
		t.Errorf("again: got %+v", again)
	}
	d.Collect(t)
	w.newClient(w.proxy(cache)).substitute(r.paths()...)
	w.newClient(their.serve()).substitute(r.paths()...)
	if idx := their.index(); len(idx.Entries) != r.Closure.Paths || len(idx.GCRoots) == 0 || idx.PublicKey != strings.TrimSpace(w.publicKey) {
		t.Errorf("got an index of %d entries with the roots %v and the key %q", len(idx.Entries), idx.GCRoots, idx.PublicKey)
	}

	// nixcache-oci goes on from the index that it read long ago
	w.flake(flakeText(t.Name(), "changed"))
	changed := build("app")
	new := slices.DeleteFunc(slices.Clone(changed), func(p string) bool { return slices.Contains(app, p) })
	their.write(before, files, new)
	w.newClient(w.proxy(cache)).substitute(append(r.paths(), changed...)...)
	repaired := w.publish(cache, "--flake", flake)
	if repaired.Adopted.Paths != len(new) || repaired.InCache.Paths < len(changed) {
		t.Errorf("repairing: got %+v", repaired)
	}
	d.Collect(t)
	for _, conf := range []string{w.proxy(cache), their.serve()} {
		w.newClient(conf).substitute(slices.Concat(r.paths(), changed, repaired.paths())...)
	}

	// gc repairs, too, and keeps what is not old; a dry run changes nothing
	w.flake(flakeText(t.Name(), "changed again"))
	last := build("app")
	new = slices.DeleteFunc(slices.Clone(last), func(p string) bool { return slices.Contains(app, p) || slices.Contains(changed, p) })
	their.write(before, files, new)
	if c := w.gc(cache, "--dry-run"); c.code != 1 || !strings.Contains(c.stderr, "overwritten") || len(their.index().Entries) != len(before.Entries)+len(new) {
		t.Errorf("gc --dry-run: got %d\n%s", c.code, c.stderr)
	}
	if c := w.gc(cache); c.code != 0 || !strings.Contains(c.stderr, "taken over") {
		t.Errorf("gc: got %d\n%s", c.code, c.stderr)
	}
	d.Collect(t)
	w.newClient(w.proxy(cache)).substitute(slices.Concat(r.paths(), changed, new)...)

	w.flake(flakeText(t.Name(), "changed"))
	off := w.publish(cache, "--flake", flake, "--compat-index", "off")
	if idx := their.index(); off.Uploaded.Paths != 0 || len(idx.Entries) != 0 || idx.Version != 1 {
		t.Errorf("off: got %+v, an index of %d entries", off, len(idx.Entries))
	}
	w.newClient(w.proxy(cache)).substitute(slices.Concat(r.paths(), changed)...)
}

// Who has configured nixcache-oci's proxy changes the program and nothing else.
func TestNixcacheVariables(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flake := w.flake(flakeText(t.Name(), ""))
	files := filepath.Join(w.Dir, "files")
	w.Nix(t, flake, "copy", "--to", "file://"+files+"?compression=xz&secret-key="+w.keyFile, "path:"+flake+"#app")
	app := strings.Fields(w.Env.Run(t, flake, "nix-store", "--query", "--requisites", w.Nix(t, flake, "eval", "--raw", "path:"+flake+"#app.outPath")))
	addr := registrytest.GGCR(t)
	w.theirs(addr+"/own/repo/nix-cache").write(theirIndex{Version: 1, PublicKey: strings.TrimSpace(w.publicKey)}, files, app)
	w.Vars = append(w.Vars, "NIXCACHE_REPO=Own/repo", "NIXCACHE_REGISTRY="+addr, "NIXCACHE_INDEX_TTL=60", "NIXCACHE_UPSTREAM=http://127.0.0.1:1")
	conf, _ := w.runProxy(2)
	w.newClient(conf).substitute(app...)

	url, _, _ := strings.Cut(strings.TrimPrefix(conf, "extra-substituters = "), "\n")
	resp, err := http.Get(url + "/_status")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var status struct {
		Entries  int      `json:"index_entries"`
		TTL      int      `json:"index_ttl"`
		Upstream []string `json:"upstream"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil || status.Entries != len(app) || status.TTL != 60 || !slices.Equal(status.Upstream, []string{"http://127.0.0.1:1"}) {
		t.Errorf("got %+v, %v", status, err)
	}
}

// A cache with packs serves nixcache-oci what it can read, once it is asked to.
func TestCompatIndexOfAnOldCache(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := "oci:" + t.TempDir()
	their := w.theirs(cache)
	first := w.publish(cache, "--flake", w.flake(flakeText(t.Name(), "")))
	if n := len(their.index().Entries); n != 0 {
		t.Errorf("auto: got %d entries", n)
	}
	on := w.publish(cache, "--flake", filepath.Join(w.Dir, "flake"), "--compat-index", "on")
	if n := len(their.index().Entries); on.Uploaded.Paths != 0 || n >= first.Closure.Paths || !strings.Contains(on.stderr, "does not see") {
		t.Errorf("on: got %d of %d entries\n%s", n, first.Closure.Paths, on.stderr)
	}
	w.flake(flakeText(t.Name()+"-new", ""))
	r := w.publish(cache, "--flake", filepath.Join(w.Dir, "flake"))
	w.newClient(their.serve()).substitute(r.paths()...)
	if !strings.Contains(r.stderr, "does not see") || strings.Count(r.stderr, "does not see") != 1 {
		t.Errorf("on from then on: got\n%s", r.stderr)
	}
}
