package registry

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/registrytest"
)

// everywhere runs a test on all kinds of repositories.
func everywhere(t *testing.T, f func(t *testing.T, r Repository)) {
	opener := func(cache string) func(*testing.T) Repository {
		return func(t *testing.T) Repository {
			r, err := Open(cache, Options{Push: true})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
	}
	t.Run("oci", func(t *testing.T) { f(t, opener("oci:"+t.TempDir())(t)) })
	t.Run("ggcr", func(t *testing.T) { f(t, opener(registrytest.GGCR(t)+"/a/b")(t)) })
	t.Run("distribution", func(t *testing.T) { f(t, opener(registrytest.NewDistribution(t).Addr+"/a/b")(t)) })
	t.Run("forge", func(t *testing.T) {
		forge := registrytest.NewForge(t)
		r, err := Open(forge.Cache("a/b"), Options{Push: true, Keychain: forge})
		if err != nil {
			t.Fatal(err)
		}
		f(t, r)
	})
	t.Run("fake", func(t *testing.T) { f(t, newFake(t).open()) })
}

func TestRepository(t *testing.T) {
	everywhere(t, func(t *testing.T, r Repository) {
		ctx := within(t, 60*time.Second)
		for name, l := range lookups {
			if err := l.do(t, r); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: got %v", name, err)
			}
		}
		if tags, err := r.Tags(ctx); len(tags) > 0 || err != nil {
			t.Errorf("got tags %q, %v of an empty repository", tags, err)
		}
		for _, size := range []int{0, 1, 100_000, bufferSize - 1, bufferSize, bufferSize + 1, 20 << 20} {
			data := content(size)
			calls := 0
			desc, err := r.WriteBlob(ctx, writing(size, &calls))
			if err != nil || desc.Digest.String() != sha(data) || desc.Size != int64(size) || calls != 1 {
				t.Fatalf("%d bytes: got %+v, %v after %d calls", size, desc, err, calls)
			}
			if n, err := r.BlobSize(ctx, desc.Digest); n != desc.Size || err != nil {
				t.Errorf("%d bytes: got size %d, %v", size, n, err)
			}
			if got, err := ReadBlob(ctx, r, desc.Digest, desc.Size); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes: read %d, %v", size, len(got), err)
			}
			if size < 100 {
				continue
			}
			body, err := r.Blob(ctx, desc.Digest, 50, 17)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, data[50:67]) {
				t.Errorf("a part of %d bytes: got %d, %v", size, len(got), err)
			}
			body.Close()
		}
		for _, tag := range []string{"v1", "v2", "v1"} {
			if err := putImage(ctx, r, tag); err != nil {
				t.Fatal(err)
			}
		}
		tags, err := r.Tags(ctx)
		slices.Sort(tags)
		if !slices.Equal(tags, []string{"v1", "v2"}) || err != nil {
			t.Errorf("got tags %q, %v", tags, err)
		}
		digest, err := r.Resolve(ctx, "v2")
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range []string{"v2", digest.String()} {
			m, err := r.Manifest(ctx, ref)
			if err != nil || m.Digest != digest || sha(m.Raw) != digest.String() || m.MediaType != "application/vnd.oci.image.manifest.v1+json" {
				t.Errorf("%s: got %s %s, %v", ref, m.MediaType, m.Digest, err)
			}
		}
	})
}

// Where a registry looks at what a manifest names, we learn what is missing.
func TestRepositoryMissingBlobs(t *testing.T) {
	lost := sha([]byte("lost"))
	raw := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"` +
		sha([]byte("{}")) + `","size":2},"layers":[{"mediaType":"application/octet-stream","digest":"` + lost + `","size":4}]}`)
	everywhere(t, func(t *testing.T, r Repository) {
		if !strings.Contains(t.Name(), "oci") && !strings.Contains(t.Name(), "distribution") {
			return // these take anything
		}
		if _, err := r.PutBlob(t.Context(), []byte("{}")); err != nil {
			t.Fatal(err)
		}
		_, err := r.PutManifest(t.Context(), "v1", Manifest{MediaType: "application/vnd.oci.image.manifest.v1+json", Raw: raw})
		var missing *MissingBlobsError
		if !errors.As(err, &missing) || len(missing.Digests) != 1 || missing.Digests[0].String() != lost {
			t.Errorf("got %v", err)
		}
	})
}

// A source that fails stores nothing, and its error comes back as it was.
func TestRepositoryFailingSource(t *testing.T) {
	boom := errors.New("boom")
	everywhere(t, func(t *testing.T, r Repository) {
		for _, n := range []int{0, 1000, 10 << 20} {
			calls := 0
			_, err := r.WriteBlob(within(t, 20*time.Second), func(w io.Writer) error {
				calls++
				if _, err := w.Write(content(n)); err != nil {
					return err
				}
				return boom
			})
			if err != boom || calls != 1 { //nolint:errorlint // it comes back as it was
				t.Errorf("after %d bytes: got %v after %d calls", n, err, calls)
			}
			if _, err := r.BlobSize(t.Context(), digestOf(t, sha(content(n)))); !errors.Is(err, ErrNotFound) {
				t.Errorf("after %d bytes: the blob is there: %v", n, err)
			}
		}
	})
}

// A registry that restarts in the middle costs retries, and nothing else.
func TestDistributionRestarts(t *testing.T) {
	d := registrytest.NewDistribution(t)
	r := quick(t, d.Addr+"/a/b", Options{Push: true})
	r.retry = retryPolicy{tries: 20, base: 20 * time.Millisecond, max: 200 * time.Millisecond}
	const size = 30 << 20
	data := content(size)
	calls := 0
	desc, err := r.WriteBlob(within(t, 60*time.Second), func(w io.Writer) error {
		calls++
		for i := 0; i < size; i += 1 << 20 {
			if calls == 1 && i == size/2 {
				d.Stop()
				defer d.Start(t)
			}
			if _, err := w.Write(data[i : i+1<<20]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || calls < 2 {
		t.Fatalf("got %v after %d calls", err, calls)
	}
	if got, err := ReadBlob(within(t, 30*time.Second), r, desc.Digest, desc.Size); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

// Memory stays bounded by the buffers, whatever is sent.
func TestStreamsInBoundedMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it moves a gigabyte")
	}
	r, err := Open(registrytest.NewDistribution(t).Addr+"/a/b", Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	const streams, size = 4, 256 << 20
	piece := content(1 << 20)
	debug.FreeOSMemory()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	errs := make(chan error)
	for range streams {
		go func() {
			_, err := r.WriteBlob(within(t, 5*time.Minute), func(w io.Writer) error {
				nonce := rand.Uint32()
				if _, err := w.Write([]byte{byte(nonce), byte(nonce >> 8), byte(nonce >> 16)}); err != nil {
					return err
				}
				for range size / len(piece) {
					if _, err := w.Write(piece); err != nil {
						return err
					}
				}
				return nil
			})
			errs <- err
		}()
	}
	peak := uint64(0)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for done := 0; done < streams; {
		select {
		case err := <-errs:
			if err != nil {
				t.Error(err)
			}
			done++
		case <-tick.C:
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
		}
	}
	grown := int64(peak) - int64(before.HeapAlloc)
	t.Logf("%d MB were sent in %d streams with %d MB of heap", streams*size>>20, streams, grown>>20)
	if limit := int64(streams*bufferSize + 32<<20); grown > limit {
		t.Errorf("the heap grew by %d MB, want less than %d", grown>>20, limit>>20)
	}
}
