package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/nixoci-action/internal/hint"
)

// writerDir makes this test binary a process that writes into a layout.
const writerDir = "NIXOCI_TEST_WRITER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		err := writeImages(os.Stdout, newLayout(dir), os.Args[1], 1_000_000)
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if dir := os.Getenv(collectorDir); dir != "" {
		collectForEver(dir, os.Stderr)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// putImage stores an image of two layers under a tag.
func putImage(ctx context.Context, r Repository, tag string) error {
	config, err := r.PutBlob(ctx, []byte("{}"))
	if err != nil {
		return err
	}
	config.MediaType = types.OCIConfigJSON
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config}
	for i := range 2 {
		layer, err := r.WriteBlob(ctx, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "layer %d of %s %s", i, tag, strings.Repeat("x", 50_000))
			return err
		})
		if err != nil {
			return err
		}
		layer.MediaType = types.OCIUncompressedLayer
		m.Layers = append(m.Layers, layer)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = r.PutManifest(ctx, tag, Manifest{MediaType: string(types.OCIManifestSchema1), Raw: raw})
	return err
}

// writeImages stores n images and says so of each.
func writeImages(said io.Writer, r Repository, name string, n int) error {
	for i := range n {
		tag := fmt.Sprintf("%s-%d", name, i)
		if err := putImage(context.Background(), r, tag); err != nil {
			return err
		}
		fmt.Fprintln(said, tag)
	}
	return nil
}

// checkLayout makes sure that a directory is a valid OCI image layout, for
// others too, and that it has the tags.
func checkLayout(t *testing.T, dir string, tags []string) {
	t.Helper()
	p, err := ggcrlayout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := p.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	im, err := idx.IndexManifest()
	if err != nil || im.SchemaVersion != 2 {
		t.Fatalf("got index %+v, %v", im, err)
	}
	for _, desc := range im.Manifests {
		readImage(t, p, desc)
	}
	r := newLayout(dir)
	have, err := r.Tags(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range tags {
		if !slices.Contains(have, tag) {
			t.Errorf("tag %s is lost", tag)
		}
	}
	for _, tag := range have {
		m, err := r.Manifest(t.Context(), tag)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range blobsOf(m) {
			size, err := r.BlobSize(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ReadBlob(t.Context(), r, b, size); err != nil {
				t.Error(err)
			}
		}
	}
}

// readImage reads an image as others do.
func readImage(t *testing.T, p ggcrlayout.Path, desc v1.Descriptor) {
	t.Helper()
	img, err := p.Image(desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if size, err := img.Size(); err != nil || size != desc.Size {
		t.Errorf("image %s has %d bytes, its descriptor says %d, %v", desc.Digest, size, desc.Size, err)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 2 {
		t.Fatalf("got %d layers, %v", len(layers), err)
	}
	for _, l := range layers {
		want, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		body, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := v1.SHA256(body)
		body.Close()
		if err != nil || got != want {
			t.Errorf("layer %s has the digest %s, %v", want, got, err)
		}
	}
}

// Anybody who knows the image layout can read ours.
func TestLayoutIsStandard(t *testing.T) {
	dir := t.TempDir() + "/[odd] name*"
	r, err := Open("oci:"+dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if tags, err := r.Tags(t.Context()); err != nil || tags != nil {
		t.Errorf("got tags %q, %v of a layout that is not there", tags, err)
	}
	if err := writeImages(io.Discard, r, "a", 3); err != nil {
		t.Fatal(err)
	}
	checkLayout(t, dir, []string{"a-0", "a-1", "a-2"})
	// a tag that moves
	if err := putImage(t.Context(), r, "a-1"); err != nil {
		t.Fatal(err)
	}
	if tags, err := r.Tags(t.Context()); err != nil || len(tags) != 3 {
		t.Errorf("got tags %q, %v", tags, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{lockName, "blobs", "index.json", "oci-layout"}; !slices.Equal(names, want) {
		t.Errorf("the directory has %q, want %q", names, want)
	}
}

// Files are replaced, not changed: who has one open reads it to its end.
func TestLayoutReplacesFiles(t *testing.T) {
	dir := t.TempDir()
	r := newLayout(dir)
	if err := putImage(t.Context(), r, "v1"); err != nil {
		t.Fatal(err)
	}
	manifest, err := r.Resolve(t.Context(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"index.json", "blobs/sha256/" + manifest.Hex} {
		name = filepath.Join(dir, name)
		before, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := putImage(t.Context(), r, "v1"); err != nil {
			t.Fatal(err)
		}
		if after, err := os.Stat(name); err != nil || os.SameFile(before, after) {
			t.Errorf("%s was written in place (%v)", name, err)
		}
	}
}

func TestLayoutConcurrentGoroutines(t *testing.T) {
	dir := t.TempDir() + "/cache"
	var wg sync.WaitGroup
	var want []string
	for i := range 8 {
		name := fmt.Sprintf("w%d", i)
		for n := range 5 {
			want = append(want, fmt.Sprintf("%s-%d", name, n))
		}
		wg.Go(func() {
			if err := writeImages(io.Discard, newLayout(dir), name, 5); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	checkLayout(t, dir, want)
}

// Processes write at once, each is killed in the middle: what they said they
// had written is there, and the layout is whole.
func TestLayoutKilled(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() + "/cache"
	var mu sync.Mutex
	var said []string
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			time.Sleep(time.Duration(i/4) * 60 * time.Millisecond) // in three waves
			cmd := exec.Command(exe, fmt.Sprintf("p%d", i))
			cmd.Env = append(os.Environ(), writerDir+"="+dir)
			var out syncBuffer
			var errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			if err := cmd.Start(); err != nil {
				t.Error(err)
				return
			}
			if i%2 == 0 { // the others die while they start, perhaps
				waitFor(t, func() bool { return out.String() != "" })
			}
			time.Sleep(rand.N(100 * time.Millisecond))
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			if errs.Len() > 0 {
				t.Errorf("process %d: %s", i, errs.String())
			}
			whole, _, ok := cutLast(out.String(), "\n")
			if ok {
				mu.Lock()
				defer mu.Unlock()
				said = append(said, strings.Split(whole, "\n")...)
			}
		})
	}
	wg.Wait()
	t.Logf("%d images were acknowledged", len(said))
	if len(said) == 0 {
		t.Fatal("nobody wrote anything")
	}
	// the next process goes on where they left off
	if err := writeImages(io.Discard, newLayout(dir), "after", 1); err != nil {
		t.Fatal(err)
	}
	checkLayout(t, dir, append(said, "after-0"))
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// Where a process died while it made the layout, the next one goes on.
func TestLayoutHalfMade(t *testing.T) {
	for name, files := range map[string][]string{
		"only blobs":        {"blobs/sha256/"},
		"blobs and lock":    {"blobs/sha256/", lockName},
		"no marker":         {"blobs/sha256/", lockName, "index.json", ".upload-123"},
		"a foreign layout":  {"blobs/sha256/", "oci-layout", "README"},
		"no blobs":          {"oci-layout"},
		"an empty folder":   {},
		"abandoned uploads": {"blobs/sha256/.upload-1", "oci-layout"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, f := range files {
				f = filepath.Join(dir, f) + strings.Repeat("/", strings.Count(f[len(f)-1:], "/"))
				if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
					t.Fatal(err)
				}
				text := ""
				switch filepath.Base(f) {
				case "oci-layout":
					text = `{"imageLayoutVersion":"1.0.0"}`
				case "index.json":
					text = `{"schemaVersion":2,"manifests":[]}`
				}
				if !strings.HasSuffix(f, "/") {
					if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := writeImages(io.Discard, newLayout(dir), "a", 1); err != nil {
				t.Fatal(err)
			}
			checkLayout(t, dir, []string{"a-0"})
		})
	}
}

func TestLayoutForeignDirectory(t *testing.T) {
	for _, file := range []string{"README", "index.json", ".git/config", "blobs2/x"} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
		r := newLayout(dir)
		_, err := r.PutBlob(t.Context(), []byte("x"))
		if err == nil || !strings.Contains(err.Error(), "no OCI image layout") || hint.Of(err) == "" {
			t.Errorf("%s: got %v", file, err)
		}
		_, err = r.WriteBlob(t.Context(), func(io.Writer) error { return nil })
		if err == nil {
			t.Errorf("%s: a stream was taken", file)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("%s: something was written: %v", file, entries)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := newLayout(file).PutBlob(t.Context(), nil); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("a file in place of the directory: got %v", err)
	}
}

func TestLayoutDamage(t *testing.T) {
	dir := t.TempDir()
	r := newLayout(dir)
	data := content(100_000)
	desc, err := r.PutBlob(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	if err := putImage(t.Context(), r, "v1"); err != nil {
		t.Fatal(err)
	}
	manifest, err := r.Resolve(t.Context(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "blobs", "sha256", desc.Digest.Hex)
	damage := map[string]func() error{
		"flipped bit": func() error {
			b := bytes.Clone(data)
			b[77_777] ^= 1
			return os.WriteFile(file, b, 0o644)
		},
		"cut off": func() error { return os.Truncate(file, 50_000) },
		"empty":   func() error { return os.Truncate(file, 0) },
		"longer":  func() error { return os.WriteFile(file, append(bytes.Clone(data), 'x'), 0o644) },
	}
	for name, do := range damage {
		if err := do(); err != nil {
			t.Fatal(err)
		}
		body, err := r.Blob(t.Context(), desc.Digest, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, body); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("%s: read %d bytes, %v", name, n, err)
		}
		body.Close()
		// writing it again repairs it
		if _, err := r.PutBlob(t.Context(), data); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadBlob(t.Context(), r, desc.Digest, desc.Size); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: not repaired: %v", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", manifest.Hex), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Manifest(t.Context(), "v1"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("damaged manifest: got %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "blobs", "sha256", manifest.Hex)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Manifest(t.Context(), "v1"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("lost manifest of a tag: got %v", err)
	}
	if _, err := r.Manifest(t.Context(), manifest.String()); !errors.Is(err, ErrNotFound) {
		t.Errorf("lost manifest by digest: got %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte(`{"manifests":`), 0o644); err != nil {
		t.Fatal(err)
	}
	if tags, err := r.Tags(t.Context()); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("damaged index.json: got %q, %v", tags, err)
	}
	if err := putImage(t.Context(), r, "v2"); err == nil {
		t.Error("a damaged index.json was overwritten")
	}
}

func TestLayoutLookups(t *testing.T) {
	r := newLayout(t.TempDir())
	for name, l := range lookups {
		if err := l.do(t, r); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	desc, err := r.PutBlob(t.Context(), content(100))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range [][2]int64{{0, 100}, {0, 10}, {90, 10}, {50, -1}} {
		body, err := r.Blob(t.Context(), desc.Digest, part[0], part[1])
		if err != nil {
			t.Fatal(err)
		}
		want := content(100)[part[0]:]
		if part[1] >= 0 {
			want = want[:part[1]]
		}
		if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: got %d bytes, %v", part, len(got), err)
		}
		body.Close()
	}
	for _, part := range [][2]int64{{0, 101}, {101, -1}, {-1, 5}, {5, 0}, {1, 100}} {
		if _, err := r.Blob(t.Context(), desc.Digest, part[0], part[1]); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("%v: got %v", part, err)
		}
	}
}

// A digest from elsewhere is never a way out of the directory.
func TestLayoutTraversal(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := newLayout(filepath.Join(dir, "cache"))
	if _, err := r.PutBlob(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for _, h := range []v1.Hash{
		{Algorithm: "sha256", Hex: "../../../secret"},
		{Algorithm: "sha256", Hex: ""},
		{Algorithm: "sha256", Hex: "../" + strings.Repeat("a", 61)},
		{Algorithm: "../..", Hex: "secret"},
		{Algorithm: "sha512", Hex: strings.Repeat("a", 128)},
		{Algorithm: "sha256", Hex: strings.Repeat("A", 64)},
		{},
	} {
		if _, err := r.Blob(t.Context(), h, 0, -1); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("%v: got %v", h, err)
		}
		if _, err := r.BlobSize(t.Context(), h); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("%v: got %v", h, err)
		}
		raw := fmt.Appendf(nil, `{"layers":[{"digest":"%s:%s"}]}`, h.Algorithm, h.Hex)
		if d, err := r.PutManifest(t.Context(), "v1", Manifest{Raw: raw}); err == nil && h != (v1.Hash{}) && blobsOf(Manifest{Raw: raw}) != nil {
			t.Errorf("%v: a manifest with it was taken as %s", h, d)
		}
	}
	for _, ref := range []string{"../secret", "sha256:../../../secret", "../../secret"} {
		if m, err := r.Manifest(t.Context(), ref); err == nil {
			t.Errorf("%s: got %q", ref, m.Raw)
		}
	}
}

func TestLayoutMissingBlobs(t *testing.T) {
	r := newLayout(t.TempDir())
	have, err := r.PutBlob(t.Context(), []byte("have"))
	if err != nil {
		t.Fatal(err)
	}
	lost := sha([]byte("lost"))
	raw := fmt.Appendf(nil, `{"config":{"digest":%q},"layers":[{"digest":%q}]}`, have.Digest, lost)
	_, err = r.PutManifest(t.Context(), "v1", Manifest{MediaType: "x/y", Raw: raw})
	var missing *MissingBlobsError
	if !errors.As(err, &missing) || len(missing.Digests) != 1 || missing.Digests[0].String() != lost || errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestLayoutLockTimeout(t *testing.T) {
	dir := t.TempDir()
	r := newLayout(dir)
	if err := putImage(t.Context(), r, "v1"); err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(t.Context(), filepath.Join(dir, lockName), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	r.lockTimeout = 50 * time.Millisecond
	if err := putImage(t.Context(), r, "v2"); err == nil || !strings.Contains(err.Error(), "another process has held") {
		t.Errorf("got %v", err)
	}
	r.lockTimeout = time.Minute
	if err := putImage(within(t, 50*time.Millisecond), r, "v2"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	time.AfterFunc(50*time.Millisecond, unlock)
	if err := putImage(t.Context(), r, "v2"); err != nil {
		t.Errorf("after the lock was given back: %v", err)
	}
}

func TestLayoutRemovesAbandonedUploads(t *testing.T) {
	dir := t.TempDir()
	if err := putImage(t.Context(), newLayout(dir), "v1"); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * abandonedUpload)
	for _, name := range []string{"blobs/sha256/.upload-old", "blobs/sha256/.upload-new", ".upload-old", ".upload-new"} {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "old") {
			if err := os.Chtimes(name, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := putImage(t.Context(), newLayout(dir), "v2"); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"", "blobs/sha256"} {
		_, errOld := os.Stat(filepath.Join(dir, sub, ".upload-old"))
		_, errNew := os.Stat(filepath.Join(dir, sub, ".upload-new"))
		if !errors.Is(errOld, os.ErrNotExist) || errNew != nil {
			t.Errorf("in %q: old %v, new %v", sub, errOld, errNew)
		}
	}
}

// What was not written whole leaves nothing behind.
func TestLayoutFailedWrites(t *testing.T) {
	dir := t.TempDir()
	r := newLayout(dir)
	boom := errors.New("boom")
	_, err := r.WriteBlob(t.Context(), func(w io.Writer) error {
		_, _ = w.Write([]byte("part"))
		return boom
	})
	if err != boom { //nolint:errorlint // it comes back as it was
		t.Errorf("got %v, want the writer's own error", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err = r.WriteBlob(ctx, func(w io.Writer) error {
		cancel(boom)
		_, err := w.Write([]byte("part"))
		return err
	})
	if !errors.Is(err, boom) {
		t.Errorf("got %v after cancelling", err)
	}
	if entries, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256")); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
