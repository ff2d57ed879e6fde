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
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// age makes every blob of a layout an hour old.
func age(t *testing.T, l *layout) {
	t.Helper()
	for _, name := range blobNames(t, l) {
		setAge(t, l, name, time.Hour)
	}
}

func setAge(t *testing.T, l *layout, hex string, d time.Duration) {
	t.Helper()
	then := time.Now().Add(-d)
	if err := os.Chtimes(filepath.Join(l.blobs(), hex), then, then); err != nil {
		t.Fatal(err)
	}
}

func blobNames(t *testing.T, l *layout) []string {
	t.Helper()
	entries, err := os.ReadDir(l.blobs())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// collect frees what is older than half an hour.
func collect(t *testing.T, l *layout) Freed {
	t.Helper()
	freed, err := l.Collect(within(t, time.Minute), time.Now().Add(-30*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	return freed
}

func blobOf(t *testing.T, l *layout, text string) v1.Descriptor {
	t.Helper()
	desc, err := l.PutBlob(t.Context(), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func TestCollect(t *testing.T) {
	l := newLayout(t.TempDir() + "/cache")
	a, _ := put(t, l, "a"), put(t, l, "b")
	loose := blobOf(t, l, "loose")
	age(t, l)
	young := blobOf(t, l, "young")
	if freed := collect(t, l); freed != (Freed{1, loose.Size}) {
		t.Errorf("freed %+v, want the loose one", freed)
	}
	if err := l.DeleteManifest(t.Context(), "a", a); err != nil {
		t.Fatal(err)
	}
	checkLayout(t, l.dir, []string{"b"})
	m, err := l.Manifest(t.Context(), a.String())
	if err != nil {
		t.Fatal("the manifest went before its time: ", err)
	}
	want := Freed{Blobs: 1, Bytes: int64(len(m.Raw))}
	for _, b := range blobsOf(m)[1:] { // the other one names the config too
		size, err := l.BlobSize(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		want.Blobs++
		want.Bytes += size
	}
	if freed := collect(t, l); freed != want {
		t.Errorf("freed %+v, want %+v", freed, want)
	}
	if freed := collect(t, l); freed != (Freed{}) {
		t.Errorf("freed %+v when there was nothing", freed)
	}
	checkLayout(t, l.dir, []string{"b"})
	if _, err := l.BlobSize(t.Context(), young.Digest); err != nil {
		t.Errorf("the young blob: %v", err)
	}
}

// Somebody who stores a blob again relies on it: it is as young as a new one.
func TestPutBlobRenewsAge(t *testing.T) {
	l := newLayout(t.TempDir())
	for name, again := range map[string]func() error{
		"put":   func() error { _, err := l.PutBlob(t.Context(), content(1000)); return err },
		"write": func() error { _, err := l.WriteBlob(t.Context(), writing(1000, new(int))); return err },
	} {
		if err := again(); err != nil {
			t.Fatal(err)
		}
		age(t, l)
		if err := again(); err != nil {
			t.Fatal(err)
		}
		if freed := collect(t, l); freed != (Freed{}) {
			t.Errorf("%s: freed %+v", name, freed)
		}
	}
}

// A blob that is written anew in the moment in which it is removed stays.
func TestCollectorPutsBack(t *testing.T) {
	l := newLayout(t.TempDir())
	hex := blobOf(t, l, "x").Digest.Hex
	setAge(t, l, hex, time.Hour)
	name := filepath.Join(l.blobs(), hex)
	c := &collector{layout: l, before: time.Now().Add(-2 * time.Hour)}
	for range 2 {
		if err := c.take(name); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(name); err != nil || c.freed != (Freed{}) {
			t.Errorf("freed %+v: %v", c.freed, err)
		}
	}
	if names := blobNames(t, l); !slices.Equal(names, []string{hex}) {
		t.Errorf("left %q", names)
	}
	c.before = time.Now()
	if err := c.take(name); err != nil || c.freed != (Freed{1, 1}) {
		t.Errorf("freed %+v: %v", c.freed, err)
	}
	if names := blobNames(t, l); len(names) > 0 {
		t.Errorf("left %q", names)
	}
}

// Whatever names a blob keeps it: other tools' indexes, in indexes, by fields
// that we do not know.
func TestCollectKeepsWhatOthersName(t *testing.T) {
	l := newLayout(t.TempDir())
	put(t, l, "ours")
	inner := put(t, l, "inner") // is named by an index only, soon
	if err := l.DeleteManifest(t.Context(), "inner", inner); err != nil {
		t.Fatal(err)
	}
	extra := blobOf(t, l, "named by a field that nobody knows")
	note := blobOf(t, l, "named by an annotation of index.json")
	loose := blobOf(t, l, "named by nobody")
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":1}],"x":{"y":[{"z":%q}]}}`, types.OCIManifestSchema1, inner, extra.Digest)
	mid := blobOf(t, l, index)
	outer := blobOf(t, l, fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"digest":%q},{"digest":%q}]}`, mid.Digest, mid.Digest))
	if err := l.update(t.Context(), func(idx *v1.IndexManifest) error {
		outer.Annotations = map[string]string{"com.example": "see " + note.Digest.String()}
		idx.Manifests = append(idx.Manifests, outer)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(l.blobs(), "README")
	if err := os.WriteFile(foreign, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	upload := filepath.Join(l.blobs(), uploadPrefix+"1")
	if err := os.WriteFile(upload, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	age(t, l)
	before := blobNames(t, l)
	if freed := collect(t, l); freed != (Freed{1, loose.Size}) {
		t.Errorf("freed %+v, want the loose one", freed)
	}
	gone := slices.DeleteFunc(before, func(n string) bool { return slices.Contains(blobNames(t, l), n) })
	if !slices.Equal(gone, []string{loose.Digest.Hex}) {
		t.Errorf("removed %q", gone)
	}
}

// If any of what says which blobs are in use cannot be read, all stay.
func TestCollectFreesNothingWhenUnsure(t *testing.T) {
	setIndex := func(text string) func(*testing.T, *layout, v1.Hash) {
		return func(t *testing.T, l *layout, _ v1.Hash) {
			if err := os.WriteFile(filepath.Join(l.dir, indexName), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	// name makes index.json name one more manifest
	name := func(text string) func(*testing.T, *layout, v1.Hash) {
		return func(t *testing.T, l *layout, _ v1.Hash) {
			desc := blobOf(t, l, text)
			if err := l.update(t.Context(), func(idx *v1.IndexManifest) error {
				idx.Manifests = append(idx.Manifests, desc)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	manifest := func(do func(name string) error) func(*testing.T, *layout, v1.Hash) {
		return func(t *testing.T, l *layout, d v1.Hash) {
			if err := do(filepath.Join(l.blobs(), d.Hex)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for what, damage := range map[string]func(*testing.T, *layout, v1.Hash){
		"manifest is gone":    manifest(os.Remove),
		"manifest is cut off": manifest(func(n string) error { return os.Truncate(n, 10) }),
		"manifest is changed": manifest(func(n string) error {
			b, err := os.ReadFile(n)
			if err != nil {
				return err
			}
			return os.WriteFile(n, bytes.Replace(b, []byte("sha256:"), []byte("sha256;"), 1), 0o644)
		}),
		"manifest is a folder": manifest(func(n string) error { return errors.Join(os.Remove(n), os.Mkdir(n, 0o755)) }),
		"manifest is no JSON":  name("junk"),
		"manifest is a number": name("1"),
		"manifest is a list":   name("[]"),
		"manifest is nothing":  name("null"),
		"manifest is huge":     name(`{"x":"` + strings.Repeat("x", MaxManifestSize) + `"}`),
		"a part is gone":       name(`{"manifests":[{"digest":"` + sha([]byte("gone")) + `"}]}`),
		"a part is elsewhere":  name(`{"manifests":[{"digest":"sha512:` + strings.Repeat("a", 128) + `"}]}`),
		"a part escapes":       name(`{"manifests":[{"digest":"sha256:../../index.json"}]}`),
		"index is gone":        func(t *testing.T, l *layout, _ v1.Hash) { os.Remove(filepath.Join(l.dir, indexName)) },
		"index is empty":       setIndex(""),
		"index is cut off":     setIndex(`{"schemaVersion":2,"manifests":[`),
		"index has no list":    setIndex(`{}`),
		"index has a null":     setIndex(`{"manifests":null}`),
		"index is null":        setIndex(`null`),
		"index escapes":        setIndex(`{"manifests":[{"digest":"sha256:../../index.json"}]}`),
		"index has no digest":  setIndex(`{"manifests":[{}]}`),
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			l := newLayout(t.TempDir())
			digest := put(t, l, "a")
			put(t, l, "b")
			blobOf(t, l, "loose")
			damage(t, l, digest)
			age(t, l)
			before := blobNames(t, l)
			freed, err := l.Collect(t.Context(), time.Now())
			if err == nil || freed != (Freed{}) || errors.Is(err, ErrNotFound) {
				t.Errorf("freed %+v, %v", freed, err)
			}
			if after := blobNames(t, l); !slices.Equal(after, before) {
				t.Errorf("left %q of %q", after, before)
			}
		})
	}
}

// What one collector cannot read, another one may just have removed: only what
// is seen under the lock counts.
func TestCollectAmongCollectors(t *testing.T) {
	l := newLayout(t.TempDir())
	a := put(t, l, "a")
	put(t, l, "b")
	age(t, l)
	unlock, err := l.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(l.blobs(), a.Hex)); err != nil {
		t.Fatal(err)
	}
	type result struct {
		freed Freed
		err   error
	}
	done := make(chan result)
	go func() {
		freed, err := newLayout(l.dir).Collect(context.Background(), time.Now())
		done <- result{freed, err}
	}()
	select {
	case r := <-done:
		t.Fatalf("it did not wait for the lock: %+v", r)
	case <-time.After(50 * time.Millisecond):
	}
	idx, err := l.index()
	if err != nil {
		t.Fatal(err)
	}
	idx.Manifests = slices.DeleteFunc(idx.Manifests, tagged("a"))
	b, err := json.Marshal(idx)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeFile(filepath.Join(l.dir, indexName), b); err != nil {
		t.Fatal(err)
	}
	unlock()
	if r := <-done; r.err != nil || r.freed.Blobs != 2 { // a's layers
		t.Errorf("got %+v", r)
	}
	checkLayout(t, l.dir, []string{"b"})
}

// index.json changes between the first look and the removal.
func TestCollectLooksAgain(t *testing.T) {
	l := newLayout(t.TempDir())
	raw := []byte(`{"schemaVersion":2,"layers":[{"mediaType":"x/y","size":5,"digest":"` + blobOf(t, l, "layer").Digest.String() + `"}]}`)
	loose := blobOf(t, l, "loose")
	age(t, l)
	c := &collector{layout: l, before: time.Now().Add(-time.Minute), parsed: map[v1.Hash]references{}}
	unnamed, err := c.look(t.Context())
	if err != nil || len(unnamed) != 2 {
		t.Fatalf("got %q, %v", unnamed, err)
	}
	if _, err := l.PutManifest(t.Context(), "v1", Manifest{MediaType: string(types.OCIManifestSchema1), Raw: raw}); err != nil {
		t.Fatal(err)
	}
	if left, err := c.bite(t.Context(), unnamed); len(left) > 0 || err != nil {
		t.Fatalf("left %q, %v", left, err)
	}
	if c.freed != (Freed{1, loose.Size}) {
		t.Errorf("freed %+v", c.freed)
	}
	checkBlobs(t, l, "v1")
}

func checkBlobs(t *testing.T, l *layout, tag string) {
	t.Helper()
	m, err := l.Manifest(t.Context(), tag)
	if err != nil {
		t.Fatal(err)
	}
	if missing, err := l.missing(t.Context(), blobsOf(m)); len(missing) > 0 || err != nil {
		t.Errorf("%s lost %v, %v", tag, missing, err)
	}
}

// While many blobs are freed others get the lock, again and again.
func TestCollectLetsOthersWrite(t *testing.T) {
	l := newLayout(t.TempDir())
	put(t, l, "a")
	for i := range 3*maxBite + 1 {
		hex := strings.TrimPrefix(sha(fmt.Append(nil, i)), "sha256:")
		if err := os.WriteFile(filepath.Join(l.blobs(), hex), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	age(t, l)
	writer := newLayout(l.dir)
	writer.lockTimeout = 10 * time.Second
	var written int
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := putImage(t.Context(), writer, fmt.Sprint("w", written)); err != nil {
				t.Error(err)
				return
			}
			written++
		}
	})
	c := &collector{layout: l, before: time.Now().Add(-time.Minute), parsed: map[v1.Hash]references{}}
	unnamed, err := c.look(t.Context())
	bites := 0
	for err == nil && len(unnamed) > 0 {
		had := len(unnamed)
		unnamed, err = c.bite(t.Context(), unnamed)
		if bites++; had-len(unnamed) > maxBite {
			t.Errorf("one bite had %d blobs", had-len(unnamed))
		}
	}
	close(stop)
	wg.Wait()
	if err != nil || c.freed.Blobs != 3*maxBite+1 || bites < 4 {
		t.Errorf("freed %+v in %d bites, %v", c.freed, bites, err)
	}
	t.Logf("%d images were written meanwhile", written)
	for i := range written {
		checkBlobs(t, l, fmt.Sprint("w", i))
	}
}

func TestCollectCanceled(t *testing.T) {
	l := newLayout(t.TempDir())
	blobOf(t, l, "loose")
	age(t, l)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if freed, err := l.Collect(ctx, time.Now()); !errors.Is(err, context.Canceled) || freed != (Freed{}) {
		t.Errorf("freed %+v, %v", freed, err)
	}
	if len(blobNames(t, l)) != 1 {
		t.Error("the blob is gone")
	}
}

// A deletion that is interrupted leaves more than is needed, never less.
func TestDeleteInterrupted(t *testing.T) {
	l := newLayout(t.TempDir())
	a := put(t, l, "a")
	put(t, l, "b")
	age(t, l)
	if err := l.DeleteManifest(t.Context(), "a", a); err != nil {
		t.Fatal(err)
	}
	// it died here, and a second time among the blobs
	c := &collector{layout: l, before: time.Now().Add(-time.Minute), parsed: map[v1.Hash]references{}}
	unnamed, err := c.look(t.Context())
	if err != nil || len(unnamed) != 3 {
		t.Fatalf("got %q, %v", unnamed, err)
	}
	if _, err := c.bite(t.Context(), unnamed[:1]); err != nil {
		t.Fatal(err)
	}
	checkLayout(t, l.dir, []string{"b"})
	// and just after it had moved a blob away
	if err := os.Rename(filepath.Join(l.blobs(), unnamed[1]), filepath.Join(l.blobs(), uploadPrefix+unnamed[1])); err != nil {
		t.Fatal(err)
	}
	if freed := collect(t, newLayout(l.dir)); freed.Blobs != 1 {
		t.Errorf("freed %+v", freed)
	}
	setAge(t, l, uploadPrefix+unnamed[1], 25*time.Hour)
	put(t, newLayout(l.dir), "c")
	for _, name := range blobNames(t, l) {
		if strings.HasPrefix(name, uploadPrefix) {
			t.Errorf("%s is left", name)
		}
	}
	checkLayout(t, l.dir, []string{"b", "c"})
}

func TestLayoutDeleteManifest(t *testing.T) {
	l := newLayout(t.TempDir())
	a := put(t, l, "a")
	retag(t, l, "a", "also-a")
	add := func(tags ...string) {
		t.Helper()
		if err := l.update(t.Context(), func(idx *v1.IndexManifest) error {
			for _, tag := range tags {
				d := idx.Manifests[0]
				d.Annotations = map[string]string{tagAnnotation: tag}
				if tag == "" {
					d.Annotations = nil
				}
				idx.Manifests = append(idx.Manifests, d)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	add("", "", "third")
	index := func() string {
		idx, err := l.index()
		if err != nil {
			t.Fatal(err)
		}
		var tags []string
		for _, d := range idx.Manifests {
			tags = append(tags, "<"+d.Annotations[tagAnnotation]+">")
		}
		return strings.Join(tags, "")
	}
	for i, step := range []struct{ tag, want string }{
		{"", "<a><also-a><third>"},
		{"", "<a><also-a><third>"},
		{"also-a", "<a><third>"}, // and the one without a tag
		{"nobody", "<a><third>"},
		{"third", "<a>"},
		{"a", ""},
	} {
		if i == 2 {
			add("")
		}
		if err := l.DeleteManifest(t.Context(), step.tag, a); err != nil {
			t.Fatal(err)
		}
		if got := index(); got != step.want {
			t.Errorf("after %q: got %s, want %s", step.tag, got, step.want)
		}
	}
	outside := v1.Hash{Algorithm: "sha256", Hex: "../../" + indexName}
	if err := l.DeleteManifest(t.Context(), "", outside); err != nil {
		t.Error(err)
	}
	if got := index(); got != "" {
		t.Errorf("got %s", got)
	}
	if dir := newLayout(t.TempDir() + "/none"); dir.DeleteManifest(t.Context(), "a", a) != nil {
		t.Error("deleting from a layout that is not there failed")
	} else if _, err := os.Stat(dir.dir); err == nil {
		t.Error("deleting made a layout")
	}
}

// What a manifest names must be there in the moment in which it is written:
// nobody removes it between the look and the write.
func TestPutManifestLooksUnderTheLock(t *testing.T) {
	l := newLayout(t.TempDir())
	config := blobOf(t, l, "{}")
	raw, err := json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config})
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := l.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	writer := newLayout(l.dir)
	writer.ready = true
	go func() {
		_, err := writer.PutManifest(context.Background(), "v1", Manifest{MediaType: string(types.OCIManifestSchema1), Raw: raw})
		done <- err
	}()
	// whenever it looks, it must not be before we let go
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := os.Remove(filepath.Join(l.blobs(), config.Digest.Hex)); err != nil {
		t.Fatal(err)
	}
	unlock()
	var missing *MissingBlobsError
	if err := <-done; !errors.As(err, &missing) || !slices.Equal(missing.Digests, []v1.Hash{config.Digest}) {
		t.Errorf("got %v", err)
	}
	if names := blobNames(t, l); len(names) > 0 {
		t.Errorf("it left %q", names)
	}
}

// Writers, deleters and collectors at once, in this process and others, with
// no grace at all: what has been acknowledged and not deleted is whole. Only a
// writer whose blobs were taken before it named them has to begin again.
func TestCollectAmongWriters(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() + "/cache"
	put(t, newLayout(dir), "first")
	ctx := within(t, 60*time.Second)
	var stop atomic.Bool
	var collectors, writers sync.WaitGroup
	var freed, again atomic.Int64
	for range 2 {
		collectors.Go(func() {
			for l := newLayout(dir); !stop.Load(); {
				f, err := l.Collect(ctx, time.Now().Add(time.Hour))
				if err != nil {
					t.Error(err)
					return
				}
				freed.Add(int64(f.Blobs))
			}
		})
	}
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), collectorDir+"="+dir)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	kept := []string{"first"}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for w := range 4 {
		rng := rand.New(rand.NewPCG(seed, uint64(w)))
		writers.Go(func() {
			l := newLayout(dir)
			for i := range 15 {
				tag := fmt.Sprintf("w%d-%d", w, i)
				digest, tries, err := putUntilThere(ctx, l, tag)
				if err != nil {
					t.Error(err)
					return
				}
				again.Add(int64(tries - 1))
				if rng.IntN(2) == 0 {
					if err := l.DeleteManifest(ctx, tag, digest); err != nil {
						t.Error(err)
					}
					continue
				}
				mu.Lock()
				kept = append(kept, tag)
				mu.Unlock()
			}
		})
	}
	writers.Wait()
	stop.Store(true)
	collectors.Wait()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if errs.Len() > 0 {
		t.Errorf("the other process: %s", errs.String())
	}
	t.Logf("%d blobs were freed here, %d images were written again", freed.Load(), again.Load())
	checkLayout(t, dir, kept)
	l := newLayout(dir)
	if got := strings.Fields(tagsOf(t, l)); len(got) != len(kept) {
		t.Errorf("got tags %q, want %q", got, kept)
	}
	if _, err := l.Collect(ctx, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	// the config, and for each image a manifest and two layers
	if n := len(blobNames(t, l)); n != 1+3*len(kept) {
		t.Errorf("%d blobs are left of %d images", n, len(kept))
	}
	checkLayout(t, dir, kept)
}

// putUntilThere stores an image, again if its blobs are taken meanwhile.
func putUntilThere(ctx context.Context, l *layout, tag string) (digest v1.Hash, tries int, err error) {
	for tries = 1; ; tries++ {
		err := putImage(ctx, l, tag)
		if !errors.As(err, new(*MissingBlobsError)) {
			if err == nil {
				digest, err = l.Resolve(ctx, tag)
			}
			return digest, tries, err
		}
	}
}

// collectorDir makes this test binary a process that collects in a layout.
const collectorDir = "NIXOCI_TEST_COLLECTOR"

func collectForEver(dir string, errs io.Writer) {
	for l := newLayout(dir); ; {
		if _, err := l.Collect(context.Background(), time.Now().Add(time.Hour)); err != nil {
			fmt.Fprintln(errs, err)
			return
		}
	}
}
