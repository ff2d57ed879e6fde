package e2e

import (
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/registrytest"
)

// Everything that a cache is for works wherever a cache can be, and in
// registries that take certain media types only.
func TestConformance(t *testing.T) {
	t.Parallel()
	caches(t, func(t *testing.T, cache string) { conforms(newWorld(t), cache) })
	for name, rules := range map[string]registrytest.Rules{"gitlab": registrytest.GitLab(), "oldgitlab": registrytest.OldGitLab(), "quay": registrytest.Quay()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := registrytest.NewStrict(t, rules)
			cache := s.Addr + "/owner/repo/nix-cache"
			w := newWorld(t)
			w.publish(cache, w.add("first", "first")...)
			tried := len(s.Refused())
			conforms(w, cache)
			if n := len(s.Refused()); n != tried {
				t.Errorf("%d manifests were refused although the root tells the form", n-tried)
			}
		})
	}
}

func conforms(w *world, cache string) {
	w.Helper()
	r := w.publish(cache, "--flake", w.flake(flakeText(w.Name(), "")))
	if again := w.publish(cache, "--flake", w.flake(flakeText(w.Name(), ""))); again.Uploaded.Paths != 0 {
		w.Errorf("again: got %+v", again.Uploaded)
	}
	w.newClient(w.proxy(cache)).substitute(r.paths()...)
	conf := w.startProxy(cache, 2, w.signPushes()...)
	pushed := w.chain("pushed", 2000, 700_000)
	w.copyTo(substituter(conf), pushed[1])
	w.newClient(conf).substitute(pushed...)
	changed := w.publish(cache, "--flake", w.flake(flakeText(w.Name(), "changed")))
	if c := w.gc(cache, "--retention", "0s", "--keep-last", "1", "--delay", "0s"); c.code != 0 || !strings.Contains(c.stderr, "removed") {
		w.Errorf("gc ended with %d:\n%s", c.code, c.stderr)
	}
	w.newClient(w.proxy(cache)).substitute(changed.paths()...)
	out, err := w.command("inspect", "--cache", cache).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "e2e-1:") {
		w.Errorf("inspect: %v\n%s", err, out)
	}
	checkClosed(w.T, cache)

	// nixcache-oci's readers find the index: they take the first layer
	w.publish(cache, "--flake", w.flake(flakeText(w.Name(), "changed")), "--compat-index", "on")
	if idx := w.theirs(cache).index(); idx.Version != 1 || idx.Entries == nil {
		w.Errorf("got %+v", idx)
	}
}

// A cache of nixcache-oci is taken over in such a registry, too.
func TestStrictRegistryIsTakenOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := registrytest.NewStrict(t, registrytest.GitLab()).Addr + "/owner/repo/nix-cache"
	paths := w.add("theirs", "theirs")
	files := t.TempDir()
	w.copyTo("file://"+files+"?compression=zstd&secret-key="+w.keyFile, paths...)
	w.theirs(cache).write(theirIndex{Version: 1, PublicKey: strings.TrimSpace(w.publicKey)}, files, paths)
	if r := w.publish(cache, w.add("ours", "ours")...); r.Adopted.Paths != 1 {
		t.Errorf("got %+v", r.Adopted)
	}
	w.newClient(w.proxy(cache)).substitute(paths...)
}

// A registry that takes no form is known before anything is built, and by a
// proxy before it serves.
func TestRegistryTakesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := registrytest.NewStrict(t, registrytest.NoArtifacts())
	cache := s.Addr + "/a/b"
	r := w.tryPublish(cache, "--upstream", "none", "--flake", w.flake(flakeText(t.Name(), "")))
	if r.code != 1 || r.Status != "failed" || r.Uploaded.Paths != 0 || r.Committed != 0 {
		t.Errorf("got %d, %+v", r.code, r)
	}
	for _, want := range []string{"registry " + s.Addr, "MANIFEST_INVALID", "hint: have the registry's administrator allow"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("%q is not in\n%s", want, r.stderr)
		}
	}
	if strings.Contains(r.stderr, "building '") {
		t.Errorf("something was built:\n%s", r.stderr)
	}
	if p := w.finish(w.command("proxy", "--cache", cache, "--allow-push", "--listen", "127.0.0.1:0")); p.code != 1 || !strings.Contains(p.stderr, "hint: have the registry's administrator allow") {
		t.Errorf("proxy: got %d\n%s", p.code, p.stderr)
	}
}

// Where all is sent and the index is refused in the end, nothing is said to be
// published.
func TestRefusedAfterUploading(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := registrytest.NewStrict(t, registrytest.Rules{})
	cache := s.Addr + "/a/b"
	s.Become(registrytest.NoArtifacts(), 0)
	args := append([]string{"--upstream", "none", "--pin", "prod"}, w.add("sent", "sent")...)
	r := w.tryPublish(cache, args...)
	if r.code != 1 || r.Status != "failed" || r.Committed != 0 || r.Uploaded.Paths != 1 || r.Pin != "" {
		t.Errorf("got %d, %+v", r.code, r)
	}
	if len(r.Failures) != 1 || !strings.Contains(r.Failures[0].Error, "not published") {
		t.Errorf("got the failures %+v", r.Failures)
	}
	for _, want := range []string{"sent, not published", "nothing is published", "hint: "} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("%q is not in\n%s", want, r.stderr)
		}
	}
	if strings.Contains(r.stderr, "\nuploaded ") || strings.Contains(r.stderr, "pinned:") {
		t.Errorf("got\n%s", r.stderr)
	}
}
