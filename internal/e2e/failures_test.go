package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/report"
)

// A flake in which everything goes wrong that can: what is good is published, and
// of each of the others one line says why it is not.
func TestEveryKindOfFailure(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		w := newWorldIn(t, v.New(t))
		// what a substituter says of a path, and garbage in its place
		garbage := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			dir := filepath.Join(w.Dir, "substituter")
			if strings.HasSuffix(r.URL.Path, ".nar") {
				_, _ = rw.Write([]byte("this is no NAR"))
				return
			}
			http.ServeFile(rw, r, filepath.Join(dir, path.Clean("/"+r.URL.Path)))
		}))
		t.Cleanup(garbage.Close)
		flake := w.flake(fmt.Sprintf(`{ outputs = { self }: let
  mk = name: more: derivation ({ inherit name; system = "%s"; salt = "%s"; builder = "/bin/sh"; args = [ "-ec" "export PATH=/usr/bin:/bin\necho $name $salt > $out" ]; } // more);
in {
  packages.%[1]s = {
    good1 = mk "good1" { };
    aborts = mk "aborts" { x = abort "by hand"; };
    good2 = mk "good2" { dep = mk "dep" { }; };
    recurses = mk "recurses" { x = let y = y + 1; in y; };
    misses = mk "misses" { x = { }.nothing; };
    throws = mk "throws" { x = throw "not for this system"; };
    unfree = mk "unfree" { } // { meta.license.free = false; };
    huge = mk "huge" { x = toString (builtins.foldl' (a: b: a + b) 0 (builtins.genList (x: x) 30000000)); };
    feature = mk "feature" { requiredSystemFeatures = [ "antigravity" ]; };
    foreign = mk "foreign" { dep = mk "firmware" { system = "riscv64-linux"; }; };
    fetched = mk "fetched" { outputHash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="; outputHashMode = "flat"; };
    substituted = mk "substituted" { };
    good3 = mk "good3" { };
  };
  checks.%[1]s.fails = mk "fails" { args = [ "-c" "echo what the check says; exit 3" ]; };
}; }`, system, t.Name()))
		attr := "packages." + system + ".substituted"
		drv := w.Nix(t, w.Dir, "eval", "--raw", "path:"+flake+"#"+attr+".outPath")
		w.Env.Run(t, w.Dir, "nix-store", "--realise", w.Nix(t, w.Dir, "eval", "--raw", "path:"+flake+"#"+attr+".drvPath"))
		w.Nix(t, w.Dir, "copy", "--to", "file://"+filepath.Join(w.Dir, "substituter")+"?compression=none", drv)
		w.Env.Run(t, w.Dir, "nix-store", "--delete", drv)
		w.addConf("substituters = " + garbage.URL + "\nrequire-sigs = false\nextra-trusted-substituters = " + garbage.URL + "\n")

		cache := "oci:" + t.TempDir()
		r := w.tryPublish(cache, "--upstream", "none", "--sign-key-file", w.keyFile, "--deny-unfree", "--eval-memory", "256MiB", "--flake", "path:"+flake)
		if r.code != 3 {
			t.Errorf("got the exit status %d:\n%s", r.code, r.stderr)
		}
		why := map[string]string{
			"aborts": "by hand", "recurses": "infinite recursion", "misses": "nothing", "throws": "not for this system",
			"unfree": "not free", "huge": "memory", "feature": "antigravity", "foreign": "riscv64-linux", "fetched": "hash mismatch",
			"substituted": "substitut", "fails": "what the check says",
		}
		var good []string
		for _, o := range r.Outputs {
			name := o.Attr[strings.LastIndexByte(o.Attr, '.')+1:]
			want, bad := why[name]
			delete(why, name)
			switch {
			case o.Status == report.OutputBuilt && !bad:
				good = append(good, o.Paths...)
			case !bad:
				t.Errorf("%s is %s: %s: %s", o.Attr, o.Status, o.Reason, o.Message)
			case o.Status.Good() || !strings.Contains(o.Reason+o.Message+o.Log, want):
				t.Errorf("%s is %s: %q %q %q, which does not say %q", o.Attr, o.Status, o.Reason, o.Message, o.Log, want)
			}
			if bad && !strings.Contains(r.stderr, o.Attr) {
				t.Errorf("nothing is said of %s", o.Attr)
			}
		}
		if len(good) != 3 || len(why) > 0 {
			t.Errorf("good are %q; not told is %v", good, why)
		}
		w.newClient(w.proxy(cache)).substitute(good...)
		if t.Failed() {
			t.Log(r.stderr)
		}
	})
}
