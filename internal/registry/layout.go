package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/nixoci-action/internal/hint"
)

// layout is a repository in a directory, in the OCI image layout
// (image-spec, image-layout.md): blobs by digest, tags in index.json. Any
// number of processes may write to it: blobs are renamed into place, and
// index.json is rewritten under a lock.
type layout struct {
	dir string

	mu    sync.Mutex
	ready bool // the directory has been made, or found
}

var _ Repository = (*layout)(nil)

const (
	tagAnnotation = "org.opencontainers.image.ref.name"
	lockName      = ".lock"
	uploadPattern = ".upload-*"
	// abandonedUpload is the age at which a temporary file belongs to a dead
	// process.
	abandonedUpload = 24 * time.Hour
	lockTimeout     = time.Minute
)

func newLayout(dir string) *layout { return &layout{dir: dir} }

func (l *layout) String() string { return layoutScheme + l.dir }

func (l *layout) blobs() string { return filepath.Join(l.dir, "blobs", "sha256") }

func (l *layout) blobPath(digest v1.Hash) (string, error) {
	// a digest is never a way out of the directory
	if h, err := v1.NewHash(digest.String()); err != nil || h.Algorithm != "sha256" {
		return "", fmt.Errorf("digest %q is not sha256", digest)
	}
	return filepath.Join(l.blobs(), digest.Hex), nil
}

func (l *layout) fail(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cache directory: %w: %w", ErrNotFound, err)
	}
	return fmt.Errorf("cache directory: %w", err)
}

// prepare makes the layout where there is none, and refuses a directory that
// holds something else.
func (l *layout) prepare() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ready {
		return nil
	}
	marker := filepath.Join(l.dir, "oci-layout")
	if _, err := os.Stat(marker); err != nil {
		if names, err := os.ReadDir(l.dir); err == nil && slices.ContainsFunc(names, func(e fs.DirEntry) bool { return e.Name() != "blobs" && e.Name() != lockName }) {
			return hint.Wrap(fmt.Errorf("%s is not empty and is no OCI image layout", l.dir), "name a new or empty directory for oci:")
		}
		if err := os.MkdirAll(l.blobs(), 0o755); err != nil { //nolint:gosec // a cache is there to be read
			return l.fail(err)
		}
		if err := writeFile(marker, []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
			return l.fail(err)
		}
	}
	if old, err := filepath.Glob(filepath.Join(l.blobs(), uploadPattern)); err == nil {
		for _, f := range old {
			if st, err := os.Stat(f); err == nil && time.Since(st.ModTime()) > abandonedUpload {
				_ = os.Remove(f)
			}
		}
	}
	l.ready = true
	return nil
}

func (l *layout) index() (v1.IndexManifest, error) {
	var idx v1.IndexManifest
	b, err := os.ReadFile(filepath.Join(l.dir, "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}, nil
	}
	if err != nil {
		return idx, l.fail(err)
	}
	if err := json.Unmarshal(b, &idx); err != nil {
		return idx, l.fail(fmt.Errorf("decoding index.json: %w", err))
	}
	return idx, nil
}

func tagged(tag string) func(v1.Descriptor) bool {
	return func(d v1.Descriptor) bool { return d.Annotations[tagAnnotation] == tag }
}

func (l *layout) Resolve(_ context.Context, tag string) (v1.Hash, error) {
	idx, err := l.index()
	if err != nil {
		return v1.Hash{}, err
	}
	i := slices.IndexFunc(idx.Manifests, tagged(tag))
	if i < 0 {
		return v1.Hash{}, fmt.Errorf("tag %s: %w", tag, ErrNotFound)
	}
	return idx.Manifests[i].Digest, nil
}

func (l *layout) Manifest(ctx context.Context, ref string) (Manifest, error) {
	digest, err := v1.NewHash(ref)
	if err != nil {
		if digest, err = l.Resolve(ctx, ref); err != nil {
			return Manifest{}, err
		}
	}
	body, err := l.Blob(ctx, digest, 0, -1)
	if err != nil {
		return Manifest{}, err
	}
	defer body.Close()
	raw, err := readBounded(body, MaxManifestSize)
	if err != nil {
		return Manifest{}, l.fail(fmt.Errorf("reading manifest %s: %w", ref, err))
	}
	var typed struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(raw, &typed); err != nil {
		return Manifest{}, l.fail(fmt.Errorf("decoding manifest %s: %w", ref, err))
	}
	return Manifest{MediaType: typed.MediaType, Digest: digest, Raw: raw}, nil
}

func (l *layout) PutManifest(ctx context.Context, tag string, m Manifest) (v1.Hash, error) {
	// as strict as a good registry: nothing that a manifest names is missing
	var missing []v1.Hash
	for _, d := range blobsOf(m) {
		if _, err := l.BlobSize(ctx, d); errors.Is(err, ErrNotFound) {
			missing = append(missing, d)
		} else if err != nil {
			return v1.Hash{}, err
		}
	}
	if missing != nil {
		return v1.Hash{}, &MissingBlobsError{Digests: missing, Err: fmt.Errorf("writing manifest %s into %s: %w", tag, l.dir, ErrNotFound)}
	}
	desc, err := l.PutBlob(ctx, m.Raw)
	if err != nil {
		return v1.Hash{}, err
	}
	desc.MediaType = types.MediaType(m.MediaType)
	desc.Annotations = map[string]string{tagAnnotation: tag}
	unlock, err := lock(ctx, filepath.Join(l.dir, lockName))
	if err != nil {
		return v1.Hash{}, l.fail(err)
	}
	defer unlock()
	idx, err := l.index()
	if err != nil {
		return v1.Hash{}, err
	}
	idx.Manifests = append(slices.DeleteFunc(idx.Manifests, tagged(tag)), desc)
	b, err := json.Marshal(idx)
	if err != nil {
		return v1.Hash{}, err
	}
	return desc.Digest, l.fail(writeFile(filepath.Join(l.dir, "index.json"), b))
}

func (l *layout) Tags(context.Context) ([]string, error) {
	idx, err := l.index()
	var tags []string
	for _, d := range idx.Manifests {
		if t := d.Annotations[tagAnnotation]; t != "" {
			tags = append(tags, t)
		}
	}
	return tags, err
}

func (l *layout) BlobSize(_ context.Context, digest v1.Hash) (int64, error) {
	p, err := l.blobPath(digest)
	if err != nil {
		return 0, err
	}
	st, err := os.Stat(p)
	if err != nil {
		return 0, l.fail(err)
	}
	return st.Size(), nil
}

func (l *layout) Blob(_ context.Context, digest v1.Hash, offset, length int64) (io.ReadCloser, error) {
	p, err := l.blobPath(digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, l.fail(err)
	}
	st, err := f.Stat()
	if err == nil && (offset < 0 || offset > st.Size() || length > st.Size()-offset) {
		err = fmt.Errorf("blob %s has %d bytes, asked for %d from %d", digest, st.Size(), length, offset)
	}
	if err != nil {
		f.Close()
		return nil, l.fail(err)
	}
	if length < 0 {
		length = st.Size() - offset
	}
	r := &fileReader{r: io.NewSectionReader(f, offset, length), f: f}
	if offset == 0 && length == st.Size() {
		r.sum, r.want = sha256.New(), digest
	}
	return r, nil
}

func (l *layout) PutBlob(ctx context.Context, data []byte) (v1.Descriptor, error) {
	return l.WriteBlob(ctx, func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(data))
		return err
	})
}

func (l *layout) WriteBlob(ctx context.Context, write func(io.Writer) error) (v1.Descriptor, error) {
	if err := l.prepare(); err != nil {
		return v1.Descriptor{}, err
	}
	f, err := os.CreateTemp(l.blobs(), uploadPattern)
	if err != nil {
		return v1.Descriptor{}, l.fail(err)
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	defer f.Close()
	sum := &counting{sum: sha256.New()}
	var failed error // of the directory, not of the writer
	if err := write(writerFunc(func(p []byte) (n int, err error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if n, err = f.Write(p); err != nil {
			failed = l.fail(err)
		}
		_, _ = sum.Write(p[:n])
		return n, err
	})); err != nil {
		if failed != nil {
			return v1.Descriptor{}, failed
		}
		return v1.Descriptor{}, err
	}
	desc := v1.Descriptor{Digest: sum.digest(), Size: sum.n}
	return desc, l.fail(finish(f, filepath.Join(l.blobs(), desc.Digest.Hex)))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// writeFile replaces a file in one step.
func writeFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), uploadPattern)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return finish(f, name)
}

// finish makes a temporary file durable under its final name.
func finish(f *os.File, name string) error {
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// fileReader reads a part of a blob's file; the whole of it is verified. Only
// Read is offered, so that nothing passes by the verification.
type fileReader struct {
	r    *io.SectionReader
	f    *os.File
	sum  hash.Hash // nil for a part
	want v1.Hash
}

func (r *fileReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if r.sum == nil {
		return n, err
	}
	r.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(r.sum.Sum(nil)); got != r.want.Hex {
			return n, fmt.Errorf("cache directory: blob %s is damaged: it has the digest sha256:%s", r.want, got)
		}
	}
	return n, err
}

func (r *fileReader) Close() error { return r.f.Close() }
