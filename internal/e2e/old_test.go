package e2e

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

// An old cache, as the commands of 26 November 2026 wrote it: two publications of
// main in github.com/me/one, the first of another app, and a pinned one of base
// from outside CI. All of it is signed with oldKey. numbers is not compressed, the
// rest is in packs.
const (
	oldCache   = "testdata/cache-v1.tar.zst"
	oldKey     = "old-cache-1:bln+Fuo4pGDKOHRTHeua0R+iAPv78YGNANP+zKkkYK4="
	oldApp     = "/nix/store/1li4biwrli6n2d5rdjfkkq0vp4aavhzl-app"
	oldNewApp  = "/nix/store/0lb7pz5inhpibc1cw191663wgvia8cds-app"
	oldLib     = "/nix/store/881l5kw573ia1b0x5hsm85icwpla27zh-lib"
	oldNumbers = "/nix/store/y329m61r3krm0p6lcw83g7f9hap0bkz5-numbers"
	oldBase    = "/nix/store/ry1v46rylc7i41p1pfjaiw5d0vqshk41-base"
)

// unpackOld writes the old cache to a folder.
func unpackOld(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cache")
	f, err := os.Open(oldCache)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for a := tar.NewReader(z); ; {
		h, err := a.Next()
		if errors.Is(err, io.EOF) {
			return dir
		} else if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(name, 0o755)
		} else {
			var text []byte
			if text, err = io.ReadAll(a); err == nil {
				err = os.WriteFile(name, text, 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// copyCache copies all that has a tag from one repository to another.
func copyCache(ctx context.Context, from, to string) error {
	src, err := registry.Open(from, registry.Options{})
	if err != nil {
		return err
	}
	dst, err := registry.Open(to, registry.Options{Push: true})
	if err != nil {
		return err
	}
	tags, err := src.Tags(ctx)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		m, err := src.Manifest(ctx, tag)
		if err != nil {
			return err
		}
		var decoded v1.Manifest
		if err := json.Unmarshal(m.Raw, &decoded); err != nil {
			return err
		}
		for _, l := range append(decoded.Layers, decoded.Config) {
			body, err := src.Blob(ctx, l.Digest, 0, l.Size)
			if err != nil {
				return err
			}
			text, err := io.ReadAll(body)
			body.Close()
			if err != nil {
				return err
			}
			if _, err := dst.PutBlob(ctx, text); err != nil {
				return err
			}
		}
		if _, err := dst.PutManifest(ctx, tag, m); err != nil {
			return err
		}
	}
	if len(tags) < 4 {
		return fmt.Errorf("only %d tags", len(tags))
	}
	return nil
}

// useMachinesStore has Nix use the machine's own store, at /nix/store, because the
// old cache is for that.
func (w *world) useMachinesStore() {
	w.Vars = slices.DeleteFunc(w.Vars, func(v string) bool {
		return strings.HasPrefix(v, "NIX_STORE_DIR=") || strings.HasPrefix(v, "NIX_STATE_DIR=") || strings.HasPrefix(v, "NIX_LOG_DIR=")
	})
	if remote, ok := os.LookupEnv("NIX_REMOTE"); ok {
		w.Vars = append(w.Vars, "NIX_REMOTE="+remote)
	}
}

// An old cache is read, served, published to and collected.
func TestOldCache(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"directory", "registry"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			cache := "oci:" + unpackOld(t)
			if where == "registry" {
				to := registrytest.NewDistribution(t).Addr + "/owner/repo/nix-cache"
				if err := copyCache(t.Context(), cache, to); err != nil {
					t.Fatal(err)
				}
				cache = to
			}
			w := newWorld(t)
			w.useMachinesStore()
			gets := func(paths ...string) {
				t.Helper()
				c := w.newClient(w.proxy(cache) + "extra-trusted-public-keys = " + oldKey + "\n")
				out, err := c.nix(append([]string{"build", "--no-link"}, paths...)...)
				t.Cleanup(func() { makeWritable(c.root) })
				if err != nil {
					t.Errorf("substituting: %v\n%s", err, out)
				}
			}
			lacks := func(path string) {
				t.Helper()
				c := w.newClient(w.proxy(cache) + "extra-trusted-public-keys = " + oldKey + "\n")
				if out, err := c.nix("build", "--no-link", path); err == nil {
					t.Errorf("%s is still there\n%s", path, out)
				}
			}

			shown, err := w.command("inspect", "--cache", cache).CombinedOutput()
			if err != nil || !strings.Contains(string(shown), "5 store paths") || !strings.Contains(string(shown), "3 publications") || !strings.Contains(string(shown), "pin kept") {
				t.Errorf("inspect: %v\n%s", err, shown)
			}
			gets(oldApp, oldNewApp, oldLib, oldNumbers, oldBase)

			// what is published now pushes out nothing of the old
			published := w.publish(cache, "--flake", w.flake(flakeText(t.Name(), "")))
			if published.Status != "done" {
				t.Errorf("got %s\n%s", published.Status, published.stderr)
			}
			gets(oldApp, oldNewApp, oldLib, oldNumbers, oldBase)
			w.newClient(w.proxy(cache)).substitute(published.paths()...)

			// a collection removes what the old program's own publication has replaced
			if c := w.gc(cache, "--retention", "0s", "--delay", "0s"); c.code != 0 {
				t.Errorf("gc ended with %d\n%s", c.code, c.stderr)
			}
			gets(oldNewApp, oldLib, oldNumbers, oldBase)
			lacks(oldApp)
			w.newClient(w.proxy(cache)).substitute(published.paths()...)
			checkClosed(t, cache)

			// the old pin ends, and with it nothing that main needs
			if c := w.gc(cache, "--retention", "0s", "--delay", "0s", "--unpin", "kept"); c.code != 0 {
				t.Errorf("gc ended with %d\n%s", c.code, c.stderr)
			}
			gets(oldNewApp, oldNumbers)
		})
	}
}
