package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const debugID = "0123456789abcdef0123456789abcdef01234567"

// extrasFlake has a package of each kind that has more than a NAR: with a log,
// with two outputs, with nasty names, with debug symbols, and a
// content-addressed one that needs another.
func extrasFlake(salt string) string {
	return fmt.Sprintf(`{
  outputs = { self }:
    let
      mk = name: script: more: derivation ({
        inherit name;
        system = "x86_64-linux";
        builder = "/bin/sh";
        args = [ "-c" "export PATH=/usr/bin:/bin\necho building $name for %[1]s\n${script}" ];
      } // more);
      ca = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
      lib = mk "ca-lib" "echo lib %[1]s > $out" ca;
    in {
      packages.x86_64-linux = {
        plain = mk "plain" "echo plain %[1]s > $out; echo the password is $password" { password = "correct-horse-battery"; };
        multi = mk "multi" "mkdir $out; echo %[1]s > $dev; echo $dev > $out/dev" { outputs = [ "out" "dev" ]; };
        nasty = mk "nasty" "mkdir -p \"$out/a b/ünï\" $out/empty; echo %[1]s > \"$out/a b/ünï/x\"; : > $out/none; printf x > \"$out/$(printf 'new\\nline\\001.')\"; ln -s none $out/link; printf '#!/bin/sh' > $out/run; chmod +x $out/run" { };
        symbols = mk "symbols" "mkdir -p $out/lib/debug/.build-id/%[2]s; echo %[1]s > $out/lib/debug/.build-id/%[2]s/%[3]s.debug" { };
        ca = mk "ca-app" "read x < ${lib}; echo app %[1]s ${lib} > $out; echo dev > $dev" (ca // { outputs = [ "out" "dev" ]; });
      };
    };
}
`, salt, debugID[:2], debugID[2:])
}

// fetch gets a file of a proxy; conf is what that has printed.
func (w *world) fetch(conf, path string) (int, string) {
	w.Helper()
	url, _, _ := strings.Cut(strings.TrimPrefix(conf, "extra-substituters = "), "\n")
	resp, err := http.Get(url + path)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// named is the path of an output with that name.
func (r result) named(name string) string {
	for _, p := range r.paths() {
		if strings.HasSuffix(p, "-"+name) {
			return p
		}
	}
	return "/none/" + strings.Repeat("0", 32) + "-" + name
}

func hashPart(path string) string { return filepath.Base(path)[:32] }

// What a binary cache has besides narinfos and NARs is published, served,
// used by Nix, and collected with what it belongs to.
func TestExtras(t *testing.T) {
	t.Parallel()
	caches(t, func(t *testing.T, cache string) {
		w := newWorld(t)
		w.addConf("extra-experimental-features = ca-derivations\n")
		w.Vars = append(w.Vars, "NIXOCI_PASSWORD=correct-horse-battery", "NIXOCI_USERNAME=nobody")
		text := extrasFlake("one")
		first := w.publish(cache, "--flake", w.flake(text))
		if len(first.Outputs) != 5 || len(first.paths()) != 7 {
			t.Fatalf("got %+v\n%s", first.Outputs, first.stderr)
		}
		conf := w.proxy(cache)
		w.checkListings(conf, first)
		w.checkLogs(conf, first)

		want := fmt.Sprintf(`"member":"lib/debug/.build-id/%s/%s.debug"}`, debugID[:2], debugID[2:])
		if status, body := w.fetch(conf, "/debuginfo/"+debugID); status != 200 || !strings.HasSuffix(body, want) {
			t.Errorf("debug info: got %d %s, want …%s", status, body, want)
		} else if status, _ := w.fetch(conf, path.Join("/debuginfo", archive(t, body))); status != 200 {
			t.Errorf("%s leads to no NAR: got %d", body, status)
		}

		// by the derivation, whose paths the client cannot know
		client := w.newClient(conf)
		if out, err := client.nix("build", "--no-link", "path:"+filepath.Join(w.Dir, "flake")+"#ca"); err != nil {
			t.Fatalf("substituting a content-addressed derivation: %v\n%s", err, out)
		}
		w.Cleanup(func() { makeWritable(client.root) })
		client.same(first.named("ca-app"))
		if _, err := os.Stat(client.place(first.named("plain"))); err == nil {
			t.Error("the client has more than it was asked for")
		}

		if again := w.publish(cache, "--flake", filepath.Join(w.Dir, "flake")); again.Committed != 0 || again.Uploaded.Paths != 0 {
			t.Errorf("again: got %+v", again)
		}

		// a publication replaces the first; the second one's logs are withheld
		second := w.publish(cache, "--flake", w.flake(extrasFlake("two")), "--no-logs")
		if c := w.gc(cache, atOnce...); c.code != 0 || c.Result == nil || c.Result.Removed.Paths == 0 {
			t.Fatalf("gc: got %d, %+v\n%s", c.code, c, c.stderr)
		}
		w.refresh(conf)
		w.checkListings(conf, second)
		for _, p := range []string{"/" + hashPart(first.named("nasty")) + ".ls", "/log/" + w.deriver(first.named("plain")), "/log/" + w.deriver(second.named("plain"))} {
			if status, body := w.fetch(conf, p); status != 404 {
				t.Errorf("%s: got %d %s, want 404", p, status, body)
			}
		}
		client = w.newClient(conf)
		if out, err := client.nix("build", "--no-link", "path:"+filepath.Join(w.Dir, "flake")+"#ca"); err != nil {
			t.Errorf("after gc: %v\n%s", err, out)
		}
		w.Cleanup(func() { makeWritable(client.root) })
	})
}

// checkListings compares all listings with what Nix writes for the same paths.
func (w *world) checkListings(conf string, r result) {
	w.Helper()
	dir := w.TempDir()
	for _, p := range r.paths() {
		w.Nix(w, w.Dir, "copy", "--no-check-sigs", "--to", "file://"+dir+"?write-nar-listing=1", p)
		file := "/" + hashPart(p) + ".ls"
		text, err := os.ReadFile(dir + file)
		if err != nil {
			w.Fatal(err)
		}
		status, body := w.fetch(conf, file)
		var got, want any
		if err := json.Unmarshal(text, &want); err != nil {
			w.Fatal(err)
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 || !reflect.DeepEqual(meaning(got), meaning(want)) {
			w.Errorf("%s: got %d, %s; want %s", p, status, body, text)
		}
	}
}

// meaning takes out of a listing what says nothing: since 2.35, Nix writes
// "executable": false.
func meaning(node any) any {
	members, ok := node.(map[string]any)
	if !ok {
		return node
	}
	for name, value := range members {
		if meaning(value); name == "executable" && value == false {
			delete(members, name)
		}
	}
	return members
}

func (w *world) deriver(path string) string {
	w.Helper()
	return filepath.Base(w.Env.Run(w, w.Dir, "nix-store", "--query", "--deriver", path))
}

// checkLogs asks for the logs as Nix does, on a machine that has built nothing.
func (w *world) checkLogs(conf string, r result) {
	w.Helper()
	client := w.newClient(conf)
	w.Cleanup(func() { makeWritable(client.root) })
	url, _, _ := strings.Cut(strings.TrimPrefix(conf, "extra-substituters = "), "\n")
	for _, name := range []string{"plain", "multi", "multi-dev", "ca-app"} {
		drv, _, _ := strings.Cut(name, "-dev")
		want := "building " + drv + " for one\n"
		if name == "plain" {
			want += "the password is ***\n" // that of this registry is a secret
		}
		for _, args := range [][]string{{"log", "--store", url, r.named(name)}, {"log", r.named(name)}} {
			out, err := client.nix(args...)
			if err != nil || !strings.HasSuffix(out, want) {
				w.Errorf("nix %s: got %q, %v, want …%q", strings.Join(args, " "), out, err, want)
			}
		}
		if status, body := w.fetch(conf, "/log/"+w.deriver(r.named(name))); status != 200 || body != want {
			w.Errorf("the log of %s: got %d %q, want %q", name, status, body, want)
		}
	}
}

// archive is the URL that debug info names, seen from the cache.
func archive(t *testing.T, body string) string {
	var info struct{ Archive string }
	if err := json.Unmarshal([]byte(body), &info); err != nil {
		t.Fatal(err)
	}
	return info.Archive
}
