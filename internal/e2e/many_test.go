package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/registrytest"
)

// A private cache in a real registry, by a proxy that has no login itself: Nix
// brings one, from a netrc file or in the substituter's URL.
func TestPrivateCacheWithTheClientsLogin(t *testing.T) {
	t.Parallel()
	reg := registrytest.NewLocked(t)
	cache := reg.Addr + "/owner/repo/nix-cache"
	w := newWorld(t)
	cmd := w.command("publish", "--json", "--cache", cache, "--upstream", "none", "--sign-key-file", w.keyFile, "--flake", w.flake(flakeText(t.Name(), "")))
	cmd.Env = append(cmd.Env, "NIXOCI_USERNAME="+registrytest.LockedUser, "NIXOCI_PASSWORD="+registrytest.LockedPassword)
	published := w.finish(cmd)
	if published.code != 0 {
		t.Fatalf("publish ended with %d:\n%s", published.code, published.stderr)
	}

	printed, messages := w.runProxy(1, "--allow", reg.Addr+"/owner/**")
	_, port, _ := strings.Cut(strings.TrimSpace(printed), "127.0.0.1:")
	port, _, _ = strings.Cut(port, "/")
	if printed != "# extra-substituters = http://127.0.0.1:"+port+"/HOST/NAME\n" {
		t.Fatalf("the proxy printed %q", printed)
	}
	conf := func(login, more string) string {
		return "substituters = http://" + login + "127.0.0.1:" + port + "/" + cache + "\ntrusted-public-keys = " + w.publicKey + "\n" + more
	}
	netrc := func(password string) string {
		file := filepath.Join(t.TempDir(), "netrc")
		if err := os.WriteFile(file, []byte("machine 127.0.0.1 login "+registrytest.LockedUser+" password "+password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return "netrc-file = " + file + "\n"
	}
	refused := func(conf string) {
		t.Helper()
		if out, err := w.newClient(conf).nix("build", "--no-link", published.paths()[0]); err == nil || strings.Contains(out, "is corrupt") {
			t.Errorf("without the right password: got %v\n%s", err, out)
		}
	}
	refused(conf("", ""))
	w.newClient(conf("", netrc(registrytest.LockedPassword))).substitute(published.paths()...)
	refused(conf("", ""))
	refused(conf("", netrc("wonderlan")))
	refused(conf(registrytest.LockedUser+":Wonderland@", ""))
	w.newClient(conf(registrytest.LockedUser+":"+registrytest.LockedPassword+"@", "")).substitute(published.paths()...)

	said, err := os.ReadFile(messages)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(said); strings.Contains(text, registrytest.LockedPassword) || !strings.Contains(text, "ready: caches that match "+reg.Addr+"/owner/**") {
		t.Errorf("the proxy said: %s", text)
	}
	// nor does anything of it stay on the disk
	if files, err := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(messages)), "*", "index", "*")); err != nil || len(files) > 0 {
		t.Errorf("it left %v, %v", files, err)
	}
}

// Two caches with keys of their own are one substituter, and the one that is
// left serves when the other has gone.
func TestTwoCachesAsOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reg := registrytest.NewDistribution(t)
	one, two := reg.Addr+"/team/one", "oci:"+filepath.Join(t.TempDir(), "two")
	otherKey, otherPublic := filepath.Join(w.Dir, "other-key"), filepath.Join(w.Dir, "other-public")
	w.Env.Run(t, w.Dir, "nix-store", "--generate-binary-cache-key", "other-1", otherKey, otherPublic)

	first := w.publish(one, "--flake", w.flake(flakeText(t.Name()+"1", "")))
	second := w.tryPublish(two, "--upstream", "none", "--sign-key-file", otherKey, "--flake", w.flake(flakeText(t.Name()+"2", "")))
	if second.code != 0 {
		t.Fatalf("publish ended with %d:\n%s", second.code, second.stderr)
	}
	b, err := os.ReadFile(otherPublic)
	if err != nil {
		t.Fatal(err)
	}
	conf, _ := w.runProxy(2, "--cache", one, "--cache", two)
	if want := "extra-trusted-public-keys = " + w.publicKey + " " + string(b) + "\n"; !strings.HasSuffix(conf, want) {
		t.Errorf("the proxy printed %q, want %q", conf, want)
	}
	w.newClient(conf).substitute(append(first.paths(), second.paths()...)...)

	reg.Stop()
	w.newClient(conf).substitute(second.paths()...)
}
