package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/nix/nixtest"
)

// A signature that nobody can verify, which a store may have from anywhere, costs
// neither its path nor the others.
func TestPublishLeavesOutUnreadableSignatures(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	paths := w.add("signed", "signed")
	for _, sig := range []string{"nonsense", "k-1:AAAA"} {
		p := w.add("strange", sig)[0]
		from := filepath.Join(w.Dir, "from-"+sig[:1])
		w.Nix(w, w.Dir, "copy", "--no-check-sigs", "--to", "file://"+from, p)
		narinfo := filepath.Join(from, strings.SplitN(filepath.Base(p), "-", 2)[0]+".narinfo")
		text, err := os.ReadFile(narinfo)
		if err != nil {
			t.Fatal(err)
		}
		nixtest.Write(t, from, filepath.Base(narinfo), string(text)+"Sig: "+sig+"\n")
		w.Nix(w, w.Dir, "store", "delete", p)
		w.Nix(w, w.Dir, "copy", "--no-check-sigs", "--from", "file://"+from, p)
		if got := w.Nix(w, w.Dir, "path-info", "--json", p); !strings.Contains(got, sig) {
			t.Fatalf("the store has not kept the signature: %s", got)
		}
		paths = append(paths, p)
	}
	cache := "oci:" + filepath.Join(w.Dir, "cache")
	w.publish(cache, paths...)
	for _, p := range paths {
		if e := w.entry(cache, p); strings.Contains(e.Narinfo(), "AAAA\n") || strings.Contains(e.Narinfo(), "nonsense") {
			t.Errorf("published with its signature: %s", e.Narinfo())
		}
	}
}
