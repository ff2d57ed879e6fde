// Package nix tests the flake, the package and the modules in this folder with
// a real Nix, and a nixpkgs that is as small as they allow: see testdata.
package nix

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/nix-community/go-nix/pkg/nar"
)

var update = flag.Bool("update", false, "write the hash of the vendored modules to package.nix")

// The hash of package.nix is that of what "go mod vendor" makes of go.mod and
// go.sum, which is what nixpkgs' buildGoModule downloads and compares.
func TestVendorHash(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vendor")
	cmd := exec.Command("go", "mod", "vendor", "-o", dir)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go mod vendor: %v\n%s", err, out)
	}
	sum := sha256.New()
	buffered := bufio.NewWriterSize(sum, 1<<18)
	if err := nar.DumpPath(buffered, dir); err != nil {
		t.Fatal(err)
	}
	if err := buffered.Flush(); err != nil {
		t.Fatal(err)
	}
	want := "sha256-" + base64.StdEncoding.EncodeToString(sum.Sum(nil))

	text, err := os.ReadFile("package.nix")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`vendorHash = "(.*)";`)
	found := line.FindAllSubmatch(text, -1)
	if len(found) != 1 {
		t.Fatalf("package.nix has %d lines with the hash, want 1", len(found))
	}
	if *update {
		text = line.ReplaceAllLiteral(text, []byte(`vendorHash = "`+want+`";`))
		if err := os.WriteFile("package.nix", text, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got := string(found[0][1]); got != want {
		t.Errorf("package.nix has the hash %s, but go.mod and go.sum make it %s; to write it: go test ./nix -run TestVendorHash -update", got, want)
	}
}
