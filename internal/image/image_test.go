package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/org/nixoci-action/internal/registrytest"
)

// binaries is a folder with something in the place of each program.
func binaries(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, arch := range []string{"amd64", "arm64"} {
		file := filepath.Join(dir, "linux-"+arch, program)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(program+" for "+arch), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func build(t *testing.T, bin, version, to string) string {
	t.Helper()
	digest, err := run(t.Context(), []string{"build", "-bin", bin, "-version", version, "-revision", "c0ffee", "-to", to})
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

func TestReproducible(t *testing.T) {
	t.Parallel()
	bin, dir := binaries(t), t.TempDir()
	first := build(t, bin, "v1.0.0", filepath.Join(dir, "a"))
	if again := build(t, binaries(t), "v1.0.0", filepath.Join(dir, "b")); again != first {
		t.Errorf("the same programs give %s, then %s", first, again)
	}
	if again := build(t, bin, "v1.0.0", filepath.Join(dir, "a")); again != first { // over what is there
		t.Errorf("the same programs give %s, then %s", first, again)
	}
	if other := build(t, bin, "v1.0.1", filepath.Join(dir, "b")); other == first {
		t.Error("another version gives the same image")
	}
	if err := os.WriteFile(filepath.Join(bin, "linux-arm64", program), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if other := build(t, bin, "v1.0.0", filepath.Join(dir, "b")); other == first {
		t.Error("other programs give the same image")
	}
}

func TestImage(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "image")
	digest := build(t, binaries(t), "v1.2.3", dir)
	reference := registrytest.NewDistribution(t).Addr + "/org/nixoci/proxy"
	if pushed, err := run(t.Context(), []string{"push", "-from", dir, reference + ":v1.2.3", reference + ":v1"}); err != nil || pushed != digest {
		t.Fatalf("pushed %s, %v, want %s", pushed, err, digest)
	}

	ref, err := name.ParseReference(reference + ":v1")
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		img, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}))
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Architecture != arch || config.Config.User != "65532:65532" || strings.Join(config.Config.Entrypoint, " ") != "/bin/nixoci proxy" ||
			config.Config.Labels["org.opencontainers.image.version"] != "v1.2.3" || config.Config.Labels["org.opencontainers.image.revision"] != "c0ffee" {
			t.Errorf("got %+v", config)
		}
		if env := strings.Join(config.Config.Env, " "); !strings.Contains(env, "NIXOCI_LISTEN=0.0.0.0:37515") || !strings.Contains(env, "NIXOCI_CACHE_DIR=/cache") {
			t.Errorf("got the variables %s", env)
		}
		seen, links := map[string]string{}, map[string]string{}
		r := mutate.Extract(img)
		for files := tar.NewReader(r); ; {
			h, err := files.Next()
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(files)
			if err != nil {
				t.Fatal(err)
			}
			seen[h.Name], links[h.Name] = string(text), h.Linkname
			if h.ModTime.Unix() != 0 || h.Uname != "" {
				t.Errorf("%s tells when or by whom it was made: %v", h.Name, h)
			}
			writable := h.Name == "cache" || h.Name == "home/nixoci" || h.Name == "tmp"
			if owned := h.Uid == userID || h.Mode&0o002 != 0; owned != writable {
				t.Errorf("%s has the owner %d and the mode %o", h.Name, h.Uid, h.Mode)
			}
		}
		r.Close()
		if seen["bin/nixoci"] != "nixoci for "+arch || links["bin/proxy"] != "nixoci" || links["bin/gc"] != "nixoci" {
			t.Errorf("got the program %q and the links %q", seen["bin/nixoci"], links)
		}
		pool, certificates := x509.NewCertPool(), []byte(seen["etc/ssl/certs/ca-certificates.crt"])
		if n := bytes.Count(certificates, []byte("BEGIN CERTIFICATE")); !pool.AppendCertsFromPEM(certificates) || n < 100 {
			t.Errorf("got %d certificates", n)
		}
	}
}

func TestWrongUsage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	none := t.TempDir()
	path, err := layout.Write(none, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{}, {"run"}, {"build", "-to", dir, "-what"}, {"push", "-from", dir}, {"push", "-from", none, "127.0.0.1:1/a/b:c"},
		{"push", "-from", string(path) + "/nowhere", "127.0.0.1:1/a/b:c"},
	} {
		if got, err := run(t.Context(), args); err == nil {
			t.Errorf("%q: got %s", args, got)
		}
	}
	if _, err := run(t.Context(), []string{"build", "-bin", dir, "-to", filepath.Join(dir, "x")}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "linux-amd64/nixoci") {
		t.Errorf("without programs: got %v", err)
	}
	image := filepath.Join(dir, "image")
	build(t, binaries(t), "v1.0.0", image)
	// what is not an image is not replaced by one
	other := binaries(t)
	if _, err := run(t.Context(), []string{"build", "-bin", other, "-to", other}); err == nil || !strings.Contains(err.Error(), other) {
		t.Errorf("into a folder with something else: got %v", err)
	}
	if _, err := os.Stat(filepath.Join(other, "linux-amd64", program)); err != nil {
		t.Error(err)
	}
	// a tag is what people name: without one it would be "latest", silently
	if _, err := run(t.Context(), []string{"push", "-from", image, "127.0.0.1:1/a/b"}); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1/a/b") {
		t.Errorf("without a tag: got %v", err)
	}
}
