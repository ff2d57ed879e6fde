package inspect

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/storepath"
)

func noEnv(string) string { return "" }

// inspected runs the command.
func inspected(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	status = Run(t.Context(), append([]string{"--cache-dir", t.TempDir()}, args...), noEnv, nil, &out, &err)
	return status, out.String(), err.String()
}

func hash(s string) string { return strings.Repeat(s, 52)[:52] }

// sample is a cache with two paths, of which one refers to the other.
func sample(t *testing.T) (cache string, app, lib format.Entry) {
	t.Helper()
	cache = "oci:" + filepath.Join(t.TempDir(), "cache")
	repo, err := registry.Open(cache, registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	blob, err := repo.PutBlob(t.Context(), make([]byte, 1000))
	if err != nil {
		t.Fatal(err)
	}
	entry := func(c, name string, refs ...string) format.Entry {
		return format.Entry{
			Path: storepath.Path{Dir: storepath.DefaultDir, HashPart: strings.Repeat(c, 32), Name: name}, NarHash: "sha256:0" + hash(c)[1:], NarSize: 3000, References: refs,
			Compression: bincache.CompressionZstd, FileHash: "sha256:1" + hash(c)[1:], NAR: format.Location{Blob: blob.Digest, BlobSize: 1000, Size: 500},
		}
	}
	lib = entry("a", "lib-1")
	app = entry("b", "app-2", lib.Path.Base())
	c := index.Open(repo, index.Options{Settle: time.Nanosecond})
	base, err := c.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(base, index.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []format.Entry{lib, app} {
		if err := w.Add(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(t.Context(), &format.Publication{Time: time.Now(), Ref: "refs/heads/main\x1b[31m", Roots: []format.Root{{Attr: "app", Path: app.Path.Base()}}}); err != nil {
		t.Fatal(err)
	}
	return cache, app, lib
}

func TestConfig(t *testing.T) {
	t.Parallel()
	env := func(name string) string { return map[string]string{"HOME": "/home/u", "NIXOCI_JSON": "true"}[name] }
	got, err := parseConfig([]string{"--cache", "oci:/c", "hello"}, env)
	if want := (config{cache: "oci:/c", query: "hello", json: true, cacheDir: "/home/u/.cache/nixoci", deadline: 5 * time.Minute}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	_, err = parseConfig([]string{"--cache", "nowhere", "a", "b", "--timeout", "0s"}, env)
	for _, part := range []string{"nowhere", `unexpected argument "b"`, "--timeout"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want an error with %q", err, part)
		}
	}
	if _, err = parseConfig([]string{"--cache", "oci:/c", "--export", "x", "hello"}, env); err == nil || cli.Report(t.Context(), err, env, io.Discard, io.Discard) != cli.ExitUsage {
		t.Errorf("--export with a path: got %v", err)
	}
}

func TestSummaryAndPath(t *testing.T) {
	t.Parallel()
	cache, app, lib := sample(t)
	status, out, _ := inspected(t, "--cache", cache)
	if status != 0 || !strings.Contains(out, "2 store paths, 1.0 kB in the registry, 6.0 kB unpacked") || !strings.Contains(out, "newest of main") || strings.Contains(out, "\x1b") {
		t.Errorf("got %d, %s", status, out)
	}
	for _, query := range []string{"lib-1", "lib", lib.Path.HashPart, lib.Path.String(), lib.Path.Base()} {
		status, out, _ = inspected(t, "--cache", cache, query)
		if status != 0 || !strings.HasPrefix(out, lib.Path.String()+"\n") || !strings.Contains(out, "referrers: 1\n  "+app.Path.Base()) || !strings.Contains(out, "signed by    nobody") {
			t.Errorf("%s: got %d, %s", query, status, out)
		}
	}
	status, out, _ = inspected(t, "--cache", cache, "--json", "app-2")
	var r struct {
		Path       string
		Closure    index.Total
		References []string
		Keep       bool
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || status != 0 || r.Path != app.Path.String() || r.Closure.Paths != 2 || len(r.References) != 1 || !r.Keep {
		t.Errorf("got %d, %+v, %v", status, r, err)
	}
	if status, out, _ = inspected(t, "--cache", cache, "-"); status != 0 || !strings.HasPrefix(out, "2 store paths have this in their names") {
		t.Errorf("several: got %d, %s", status, out)
	}
	status, _, stderr := inspected(t, "--cache", cache, "nothing")
	if status != cli.ExitFailed || !strings.Contains(stderr, `error: the cache has no store path "nothing"`) || !strings.Contains(stderr, "hint:") {
		t.Errorf("a name that is not there: got %d, %s", status, stderr)
	}
}

// An export replaces an export and nothing else, and leaves nothing beside it.
func TestExport(t *testing.T) {
	t.Parallel()
	cache, app, _ := sample(t)
	parent := t.TempDir()
	dir := filepath.Join(parent, "new", "site")
	for range 2 {
		if status, _, stderr := inspected(t, "--cache", cache, "--export", dir); status != 0 || !strings.Contains(stderr, "files, ") {
			t.Fatalf("got %d, %s", status, stderr)
		}
		body, err := os.ReadFile(filepath.Join(dir, "path", app.Path.HashPart+".html"))
		if err != nil || !strings.Contains(string(body), app.Path.String()) {
			t.Errorf("got %q, %v", body, err)
		}
		if _, err := os.Stat(filepath.Join(dir, ".nojekyll")); err != nil {
			t.Error(err)
		}
		if list, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(list) != 1 {
			t.Errorf("beside it: got %v, %v", list, err)
		}
	}
	other := filepath.Join(parent, "other")
	if err := os.MkdirAll(other, 0o700); err != nil {
		t.Fatal(err)
	}
	if status, _, stderr := inspected(t, "--cache", cache, "--export", other); status != 0 {
		t.Errorf("an empty folder: got %d, %s", status, stderr)
	}
	if err := os.Remove(filepath.Join(other, marker)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "mine"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	status, _, stderr := inspected(t, "--cache", cache, "--export", other)
	if status != cli.ExitFailed || !strings.Contains(stderr, "is not empty, and no export has made it") {
		t.Errorf("somebody else's folder: got %d, %s", status, stderr)
	}
	if body, err := os.ReadFile(filepath.Join(other, "mine")); err != nil || string(body) != "x" {
		t.Errorf("got %q, %v", body, err)
	}
}
