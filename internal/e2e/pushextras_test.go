package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/org/nixoci-action/report"
)

// What nix copy sends besides narinfos and NARs, and nix store copy-log, is
// served like what publish has stored, and kept.
func TestPushExtras(t *testing.T) {
	t.Parallel()
	caches(t, func(t *testing.T, cache string) {
		w := newWorld(t)
		w.addConf("extra-experimental-features = ca-derivations\n")
		w.publish(cache, w.add("first", "first")...) // so that the cache is for this test's store
		flake := "path:" + w.flake(extrasFlake("one"))
		conf := w.startProxy(cache, 2, w.signPushes()...)
		url := substituter(conf)
		var built result
		attrs := []string{"plain", "multi", "multi.dev", "nasty", "symbols", "ca", "ca.dev"}
		for _, attr := range attrs {
			out := w.Nix(w, w.Dir, "build", "--no-link", "--json", flake+"#"+attr)
			built.Outputs = append(built.Outputs, outputsIn(t, out)...)
		}
		if out, err := w.tryCopyLog(url, flake+"#plain"); err == nil || !strings.Contains(out, "409") {
			t.Errorf("a log before its path: got %v\n%s", err, out)
		}
		for _, attr := range attrs {
			if out, err := w.tryCopyTo(url+"?compression=zstd&write-nar-listing=1&index-debug-info=1", flake+"#"+attr); err != nil {
				t.Fatalf("%s: %v\n%s", attr, err, out)
			}
		}
		for _, p := range built.paths() { // Nix 2.8 finds no other name for the log of a content-addressed one
			if out, err := w.tryCopyLog(url, filepath.Join(w.Store, w.deriver(p))); err != nil {
				t.Errorf("the log of %s: %v\n%s", p, err, out)
			}
		}
		check := func(conf string) {
			t.Helper()
			w.checkListings(conf, built)
			for _, p := range built.paths() {
				if status, body := w.fetch(conf, "/log/"+w.deriver(p)); status != 200 || !strings.HasPrefix(body, "building ") {
					t.Errorf("the log of %s: got %d %q", p, status, body)
				}
			}
			want := fmt.Sprintf(`"member":"lib/debug/.build-id/%s/%s.debug"}`, debugID[:2], debugID[2:])
			if status, body := w.fetch(conf, "/debuginfo/"+debugID); status != 200 || !strings.HasSuffix(body, want) {
				t.Errorf("debug info: got %d %s, want …%s", status, body, want)
			} else if status, _ := w.fetch(conf, path.Join("/debuginfo", archive(t, body))); status != 200 {
				t.Errorf("%s leads to no NAR: got %d", body, status)
			}
			client := w.newClient(conf)
			w.Cleanup(func() { makeWritable(client.root) })
			if out, err := client.nix("build", "--no-link", "path:"+filepath.Join(w.Dir, "flake")+"#ca"); err != nil {
				t.Fatalf("substituting a content-addressed derivation: %v\n%s", err, out)
			}
		}
		check(conf)
		if s := w.pushStatus(url); s.Pushed.Refused != 1 || s.Pushed.Paths < 7 {
			t.Errorf("got %+v", s.Pushed)
		}
		again := w.startProxy(cache, 2, "--refresh", "1s")
		w.refresh(again)
		check(again)
	})
}

// tryCopyLog runs nix store copy-log.
func (w *world) tryCopyLog(url, installable string) (string, error) {
	cmd := exec.Command("nix", "--extra-experimental-features", "nix-command flakes", "store", "copy-log", "--to", url, installable)
	cmd.Dir, cmd.Env = w.Dir, w.Vars
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// outputsIn reads what nix build --json prints.
func outputsIn(t *testing.T, text string) (outputs []report.Output) {
	t.Helper()
	var built []struct{ Outputs map[string]string }
	if err := json.Unmarshal([]byte(text), &built); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	for _, b := range built {
		for _, p := range b.Outputs {
			outputs = append(outputs, report.Output{Paths: []string{p}})
		}
	}
	return outputs
}
