package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/nix/nixtest"
)

// What a flake asks for in its nixConfig is used where it is accepted, for the
// evaluation and the builds, and its cache is an upstream one. Elsewhere a line
// says that it is not.
func TestFlakeConfig(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		w := newWorldIn(t, v.New(t))
		flake := func(config string) string {
			return w.flake(fmt.Sprintf(`{ %s
  outputs = { self }: let d = name: s: derivation { inherit name; system = "%s"; builder = "/bin/sh"; args = [ "-c" s ]; }; in {
    packages.%[2]s = {
      slow = d "slow" "read line < %[3]s/only-once && echo $line > $out";
      ifd = d (import (d "gen.nix" "echo '\"from-ifd\"' > $out")) "echo ifd > $out";
    };
  }; }`, config, system, w.Dir))
		}
		url := func(cache string) string {
			line, _, _ := strings.Cut(w.proxy(cache), "\n")
			return strings.TrimPrefix(line, "extra-substituters = ")
		}
		theirs, others := "oci:"+filepath.Join(t.TempDir(), "theirs"), "oci:"+filepath.Join(t.TempDir(), "others")
		nixtest.Write(t, w.Dir, "only-once", "slow\n")
		slow := w.publish(theirs, "--flake", flake(""), "--include", "slow").paths()[0]
		w.publish(others, w.add("other", t.Name())...)
		if err := os.Remove(filepath.Join(w.Dir, "only-once")); err != nil {
			t.Fatal(err)
		}
		other := url(others)
		dir := flake(fmt.Sprintf(`nixConfig = { extra-substituters = [ "%s" ]; extra-trusted-public-keys = "%s"; allow-import-from-derivation = true; };`,
			url(theirs), strings.TrimSpace(w.publicKey)))
		w.addConf("allow-import-from-derivation = false\n")

		const refused = "the flake's nixConfig is not used (allow-import-from-derivation, extra-substituters, extra-trusted-public-keys)"
		for _, tc := range []struct {
			name, conf, upstream string
			args                 []string
			used                 bool
			theirs               int
		}{
			{name: "not accepted", upstream: other},
			{name: "flag", upstream: other, args: []string{"--accept-flake-config"}, used: true, theirs: 1},
			{name: "no upstream", upstream: "none", args: []string{"--accept-flake-config"}, used: true},
			{name: "nix.conf", conf: "experimental-features = nix-command flakes\naccept-flake-config = true\n", upstream: other, used: true, theirs: 1},
		} {
			w.Env.Run(t, w.Dir, "nix-store", "--delete", slow)
			w.addConf(tc.conf)
			cmd := w.command("publish", append(tc.args, "--json", "--flake", dir, "--cache", "oci:"+filepath.Join(t.TempDir(), "ours"), "--upstream", tc.upstream)...)
			r := w.finish(cmd)
			if strings.Contains(r.stderr, refused) == tc.used || tc.used != (r.code == 0) || r.OnUpstream.Paths != tc.theirs {
				t.Errorf("%s: got %d, %d paths on upstream caches\n%s", tc.name, r.code, r.OnUpstream.Paths, r.stderr)
			}
			if published := 2 - tc.theirs; tc.used && r.Uploaded.Paths != published {
				t.Errorf("%s: got %d paths uploaded, want %d", tc.name, r.Uploaded.Paths, published)
			}
		}
	})
}
