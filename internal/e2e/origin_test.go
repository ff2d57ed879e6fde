package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

// oneOutput is a flake whose only output has a name of its own.
func oneOutput(name string) string {
	return fmt.Sprintf(`{ outputs = _: { packages.%s.default = derivation {
  name = "%s"; system = "%s"; builder = "/bin/sh"; args = [ "-c" "echo %s > $out" ];
}; }; }
`, system, name, system, name)
}

// inCI are the variables of a job of a repository.
func (w *world) inCI(repository, ref string) []string {
	return []string{
		"GITHUB_ACTIONS=true", "GITHUB_SERVER_URL=https://git.example.org", "GITHUB_REPOSITORY=" + repository, "GITHUB_REF=" + ref, "GITHUB_RUN_ID=1",
		"GITHUB_WORKFLOW=ci", "GITHUB_JOB=build",
	}
}

// publishIn publishes in a folder, with variables.
func (w *world) publishIn(dir string, env []string, cache string, args ...string) result {
	w.Helper()
	cmd := w.command("publish", append([]string{"--json", "--cache", cache, "--upstream", "none", "--sign-key-file", w.keyFile}, args...)...)
	cmd.Dir, cmd.Env = dir, append(cmd.Env, env...)
	r := w.finish(cmd)
	if r.code != 0 {
		w.Fatalf("publish %s in %s, %q ended with %d:\n%s", args, dir, env, r.code, r.stderr)
	}
	return r
}

// matrixIn builds and records a whole matrix.
func (w *world) matrixIn(dir string, env []string, cache string) result {
	w.Helper()
	plan := w.publishIn(dir, env, cache, "--flake", ".", "--matrix", "plan")
	for _, j := range plan.Matrix.Include {
		text, err := json.Marshal(map[string]string{"name": j.Name, "system": j.System, "outputs": j.Outputs, "systems": j.Systems, "series": j.Series})
		if err != nil {
			w.Fatal(err)
		}
		w.publishIn(dir, env, cache, "--flake", ".", "--part", string(text))
	}
	return w.publishIn(dir, env, cache, "--flake", ".", "--matrix", "record")
}

// Repositories and folders that share a cache have a newest of their own: of each
// branch, of each pin, of a matrix. What a newer one of the same has replaced
// goes.
func TestOneCacheForAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := registrytest.NewDistribution(t).Addr + "/owner/repo/nix-cache"
	newest := map[string][]string{} // paths by whose they are
	for _, version := range []string{"old", "new"} {
		for _, branch := range []string{"main", "dev"} {
			for _, repository := range []string{"me/one", "me/two", "org/one"} {
				name := strings.ReplaceAll(repository, "/", "-") + "-" + branch
				dir := filepath.Join(w.Dir, "ci", name)
				nixtest.Write(t, dir, "flake.nix", oneOutput(version+"-"+name))
				r := w.publishIn(dir, w.inCI(repository, "refs/heads/"+branch), cache, "--flake", ".")
				newest[name] = r.paths()
			}
		}
		for _, repository := range []string{"me/one", "me/two"} {
			name := strings.ReplaceAll(repository, "/", "-") + "-matrix"
			dir := filepath.Join(w.Dir, "ci", name)
			nixtest.Write(t, dir, "flake.nix", oneOutput(version+"-"+name))
			newest[name] = w.matrixIn(dir, w.inCI(repository, "refs/heads/main"), cache).paths()

			name = strings.ReplaceAll(repository, "/", "-") + "-pin"
			dir = filepath.Join(w.Dir, "ci", name)
			nixtest.Write(t, dir, "flake.nix", oneOutput(version+"-"+name))
			newest[name] = w.publishIn(dir, w.inCI(repository, "refs/heads/release-"+version), cache, "--flake", ".", "--pin", "production").paths()
		}
	}
	folders := filepath.Join(w.Dir, "local")
	for _, version := range []string{"old", "new"} {
		for _, name := range []string{"a", "b"} {
			dir := filepath.Join(folders, name)
			nixtest.Write(t, dir, "flake.nix", oneOutput(version+"-"+name), "sub/flake.nix", oneOutput(version+"-sub-"+name))
			w.Git(t, dir)
			flake := "." // the same folder in other words
			if version == "new" {
				flake = dir
			}
			newest[name] = w.publishIn(dir, nil, cache, "--flake", flake).paths()
			newest["sub "+name] = w.publishIn(dir, nil, cache, "--flake", "./sub").paths()
		}
		// two clones of one repository
		dir := filepath.Join(folders, "clone-"+version)
		nixtest.Write(t, dir, "flake.nix", oneOutput(version+"-clone"))
		w.Git(t, dir)
		remote := map[string]string{"old": "git@example.org:me/clone.git", "new": "https://me:s3cret@example.org/me/clone"}[version]
		w.Env.Run(t, dir, "git", "remote", "add", "origin", remote)
		newest["clone"] = w.publishIn(dir, nil, cache, "--flake", ".").paths()
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	host = strings.ToLower(host)
	origins := map[string]int{}
	for _, p := range publications(t, cache) {
		origins[p.Origin]++
		if text, err := json.Marshal(p); err != nil || strings.Contains(string(text), "s3cret") {
			t.Errorf("a secret is published: %s, %v", text, err)
		}
	}
	for _, want := range []string{
		"git.example.org/me/one", "git.example.org/me/two", "git.example.org/org/one", "example.org/me/clone",
		host + ":" + folders + "/a", host + ":" + folders + "/b", host + ":" + folders + "/a?dir=sub", host + ":" + folders + "/b?dir=sub",
	} {
		if origins[want] < 2 {
			t.Errorf("got %d publications of %s, want those of both versions; all: %v", origins[want], want, origins)
		}
	}

	c := w.gc(cache, atOnce...)
	if c.code != 0 {
		t.Fatalf("got %d\n%s", c.code, c.stderr)
	}
	for _, name := range strings.Fields(c.removed()) {
		if !strings.HasPrefix(name, "old-") {
			t.Errorf("the newest is removed: %s", name)
		}
	}
	kept := map[string]bool{}
	for _, p := range c.Paths {
		kept[p.Path] = p.Keep
		_, name, _ := strings.Cut(filepath.Base(p.Path), "-")
		if p.Keep && strings.HasPrefix(name, "old-") && !strings.HasSuffix(name, "-pin") { // which is the newest of its branch
			t.Errorf("%s is kept: %s", name, p.Reason)
		}
	}
	var all []string
	for name, paths := range newest {
		for _, p := range paths {
			if !kept[p] {
				t.Errorf("%s of %s is removed", p, name)
			}
		}
		all = append(all, paths...)
	}
	for name, reason := range map[string]string{
		"new-me-one-main": "newest of main in git.example.org/me/one", "new-org-one-dev": "newest of dev in git.example.org/org/one",
		"new-me-two-pin": "pin production in git.example.org/me/two", "new-b": "newest of " + host + ":" + folders + "/b", "new-clone": "newest of example.org/me/clone",
	} {
		if got := c.reason(name); got != reason {
			t.Errorf("%s: got %q, want %q", name, got, reason)
		}
	}
	slices.Sort(all)
	w.fresh(cache, slices.Compact(all))
}

// What older programs have recorded, without an origin, stays, but for what a
// newer publication certainly replaces. So does what is newer, when an older
// program publishes beside it.
func TestPublicationsWithoutAnOrigin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := "oci:" + filepath.Join(w.Dir, "cache")
	dir := filepath.Join(w.Dir, "flake")
	pathOf := map[string]string{}
	publish := func(name string, env []string) {
		t.Helper()
		nixtest.Write(t, dir, "flake.nix", oneOutput(name))
		pathOf[name] = w.publishIn(dir, env, cache, "--flake", ".").paths()[0]
	}
	older := func(name, repository string) {
		t.Helper()
		repo, err := registry.Open(cache, registry.Options{Push: true})
		if err != nil {
			t.Fatal(err)
		}
		c := index.Open(repo, index.Options{})
		base, err := c.Sweep(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		writer, err := c.NewWriter(base, index.WriterOptions{Config: format.Config{StoreDir: w.Store}})
		if err != nil {
			t.Fatal(err)
		}
		p := format.Publication{
			Time: time.Now().UTC().Truncate(time.Millisecond), Flake: ".", Systems: []string{system},
			Roots: []format.Root{{Attr: "packages." + system + ".default", Path: filepath.Base(pathOf[name])}},
		}
		if repository != "" {
			p.Ref, p.Selection, p.RunURL = "refs/heads/main", "flake=.&job=build&workflow=ci", "https://git.example.org/"+repository+"/actions/runs/1"
		}
		if _, err := writer.Close(t.Context(), &p); err != nil {
			t.Fatal(err)
		}
	}
	removed := func() string {
		t.Helper()
		c := w.gc(cache, append(atOnce, "--pr-retention", "0s")...)
		if c.code != 0 {
			t.Fatalf("got %d\n%s", c.code, c.stderr)
		}
		return c.removed()
	}
	request := w.inCI("me/zero", "refs/pull/1/merge") // brings the paths, and keeps none
	for _, name := range []string{"one", "two", "folder", "two-again", "one-folder"} {
		publish(name, request)
	}
	older("one", "me/one")
	older("two", "me/two")
	older("folder", "")
	older("two-again", "me/three")
	older("one-folder", "me/four")
	if got := removed(); got != "" {
		t.Errorf("%s is removed, of what older programs have published", got)
	}
	publish("one-new", w.inCI("me/one", "refs/heads/main"))
	publish("folder-new", nil)
	if got := removed(); got != "one" {
		t.Errorf("beside newer ones %q is removed, want one, which is replaced", got)
	}
	older("two-again", "me/two")
	older("one-folder", "")
	if got := removed(); got != "folder two" {
		t.Errorf("after an older program has published again %q is removed, want folder and two", got)
	}
	delete(pathOf, "one")
	delete(pathOf, "two")
	delete(pathOf, "folder")
	w.fresh(cache, slices.Collect(maps.Values(pathOf)))
}
