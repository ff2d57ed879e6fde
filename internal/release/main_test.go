package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// programs makes dist/bin as scripts/release does, at some time.
func programs(t *testing.T, made time.Time) string {
	dir := t.TempDir()
	for _, p := range platforms {
		bin := filepath.Join(dir, "bin", p.goos+"-"+p.goarch)
		if err := os.MkdirAll(bin, 0o700); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(bin, program)
		if err := errors.Join(os.WriteFile(file, []byte(program+p.node), 0o700), os.Chtimes(file, made, made)); err != nil {
			t.Fatal(err)
		}
	}
	man := filepath.Join(dir, "share", "man", "man1")
	if err := errors.Join(os.MkdirAll(man, 0o700), os.WriteFile(filepath.Join(man, "nixoci.1"), []byte("a page"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func packed(t *testing.T, made time.Time) (dir string, r release) {
	t.Helper()
	dir = programs(t, made)
	if err := pack(dir, "https://x/v1.0.0", release{Version: "v1.0.0", Go: "go1", Files: map[string]file{}}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "release.json"))
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir, r
}

// The same programs give the same archives, whenever they were made.
func TestPack(t *testing.T) {
	dir, r := packed(t, time.Now())
	_, again := packed(t, time.Now().Add(-time.Hour))
	for _, node := range []string{"linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64"} {
		if r.Files[node] == (file{}) || r.Files[node] != again.Files[node] {
			t.Errorf("%s: got %v, then %v", node, r.Files[node], again.Files[node])
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "nixoci-linux-amd64.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	want := file{URL: "https://x/v1.0.0/nixoci-linux-amd64.tar.gz", SHA256: fmt.Sprintf("%x", sha256.Sum256(text)), Program: fmt.Sprintf("%x", sha256.Sum256([]byte("nixocilinux-x64")))}
	if got := r.Files["linux-x64"]; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	z, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	a := tar.NewReader(z)
	for _, want := range []struct {
		name, text string
		mode       int64
	}{{"nixoci", "nixocilinux-x64", 0o755}, {"share/man/man1/nixoci.1", "a page", 0o644}} {
		h, err := a.Next()
		if err != nil || h.Name != want.name || h.Mode != want.mode {
			t.Fatalf("got %+v, %v, want %s", h, err, want.name)
		}
		if got, err := io.ReadAll(a); err != nil || string(got) != want.text {
			t.Errorf("%s: got %q, %v", want.name, got, err)
		}
	}
	if _, err := a.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the end", err)
	}
}

func TestPackNeedsPrograms(t *testing.T) {
	dir := programs(t, time.Now())
	bin := filepath.Join(dir, "bin", "darwin-arm64")
	if err := errors.Join(os.RemoveAll(bin), os.Mkdir(bin, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := pack(dir, "", release{Files: map[string]file{}}); err == nil {
		t.Error("a platform without programs was packed")
	}
}
