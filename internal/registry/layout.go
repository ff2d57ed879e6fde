package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	dir         string
	lockTimeout time.Duration

	mu    sync.Mutex
	ready bool // the directory has been made, or found
}

var _ Repository = (*layout)(nil)

const (
	tagAnnotation = "org.opencontainers.image.ref.name"
	markerName    = "oci-layout"
	indexName     = "index.json"
	lockName      = ".nixoci-lock" // also says that the directory is ours
	uploadPrefix  = ".upload-"
	// abandonedUpload is the age at which a temporary file belongs to a dead
	// process.
	abandonedUpload = 24 * time.Hour
	lockTimeout     = time.Minute
)

func newLayout(dir string) *layout { return &layout{dir: dir, lockTimeout: lockTimeout} }

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
	return fmt.Errorf("cache directory: %w", err)
}

// absent is fail for look-ups.
func (l *layout) absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return l.fail(err)
}

// prepare makes the layout where there is none, and refuses a directory that
// holds something else.
func (l *layout) prepare(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ready {
		return nil
	}
	if err := l.refuseForeign(); err != nil {
		return err
	}
	if err := os.MkdirAll(l.blobs(), 0o755); err != nil { //nolint:gosec // a cache is there to be read
		return l.fail(err)
	}
	unlock, err := l.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for _, f := range []struct{ name, content string }{
		{indexName, `{"schemaVersion":2,"mediaType":"` + string(types.OCIImageIndex) + `","manifests":[]}`},
		{markerName, `{"imageLayoutVersion":"1.0.0"}`},
	} {
		name := filepath.Join(l.dir, f.name)
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			err = writeFile(name, []byte(f.content))
			if err != nil {
				return l.fail(err)
			}
		}
	}
	removeAbandoned(l.dir)
	removeAbandoned(l.blobs())
	l.ready = true
	return nil
}

// Probe finds out whether the directory can be written to, or made. Unlike a
// write it leaves nothing: work that comes to nothing makes no cache.
func (l *layout) Probe() error {
	if err := l.refuseForeign(); err != nil {
		return err
	}
	dir := l.dir
	for {
		_, err := os.Stat(dir)
		if up := filepath.Dir(dir); errors.Is(err, fs.ErrNotExist) && up != dir {
			dir = up
			continue
		}
		break
	}
	f, err := os.CreateTemp(dir, uploadPrefix)
	if err != nil {
		return l.fail(err)
	}
	return l.fail(errors.Join(f.Close(), os.Remove(f.Name())))
}

// refuseForeign tells a layout, also one whose making was interrupted, from a
// directory that somebody uses for something else.
func (l *layout) refuseForeign() error {
	entries, err := os.ReadDir(l.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return l.fail(err)
	}
	foreign := false
	for _, e := range entries {
		switch e.Name() {
		case markerName, lockName:
			return nil
		case "blobs": // of another process that is about to make the lock
		default:
			foreign = true
		}
	}
	if foreign {
		return hint.Wrap(fmt.Errorf("%s is not empty and is no OCI image layout", l.dir), "name a new or empty directory for oci:")
	}
	return nil
}

// removeAbandoned removes the temporary files of processes that are dead.
func removeAbandoned(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // they are in nobody's way
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), uploadPrefix) {
			continue
		}
		if st, err := e.Info(); err == nil && time.Since(st.ModTime()) > abandonedUpload {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

func (l *layout) index() (v1.IndexManifest, error) {
	var idx v1.IndexManifest
	b, err := os.ReadFile(filepath.Join(l.dir, indexName))
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
	tag := err != nil
	if tag {
		if digest, err = l.Resolve(ctx, ref); err != nil {
			return Manifest{}, err
		}
	}
	body, err := l.Blob(ctx, digest, 0, -1)
	if tag && errors.Is(err, ErrNotFound) { // a tag without its manifest is damage, not absence
		return Manifest{}, l.fail(fmt.Errorf("tag %s: manifest %s is missing", ref, digest))
	}
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

func (l *layout) PutManifest(ctx context.Context, ref string, m Manifest) (v1.Hash, error) {
	if err := l.prepare(ctx); err != nil {
		return v1.Hash{}, err
	}
	var desc v1.Descriptor
	err := l.update(ctx, func(idx *v1.IndexManifest) error {
		// as strict as a good registry: nothing that a manifest names is
		// missing; and under the lock, so that no collector takes it meanwhile
		missing, err := l.missing(ctx, blobsOf(m))
		if err != nil {
			return err
		}
		if missing != nil {
			return &MissingBlobsError{Digests: missing, Err: fmt.Errorf("writing manifest %s into %s", ref, l.dir)}
		}
		if desc, err = l.PutBlob(ctx, m.Raw); err != nil {
			return err
		}
		if _, err := v1.NewHash(ref); err == nil { // Collect frees what has no tag
			return nil
		}
		desc.MediaType = types.MediaType(m.MediaType)
		desc.Annotations = map[string]string{tagAnnotation: ref}
		idx.Manifests = append(slices.DeleteFunc(idx.Manifests, tagged(ref)), desc)
		return nil
	})
	return desc.Digest, err
}

func (l *layout) missing(ctx context.Context, blobs []v1.Hash) ([]v1.Hash, error) {
	var missing []v1.Hash
	for _, d := range blobs {
		if _, err := l.BlobSize(ctx, d); errors.Is(err, ErrNotFound) {
			missing = append(missing, d)
		} else if err != nil {
			return nil, err
		}
	}
	return missing, nil
}

// DeleteManifest removes it from index.json. Its blob stays for Collect.
func (l *layout) DeleteManifest(ctx context.Context, tag string, digest v1.Hash) error {
	unwanted := func(d v1.Descriptor) bool {
		t := d.Annotations[tagAnnotation]
		return d.Digest == digest && (t == "" || t == tag)
	}
	idx, err := l.index()
	if err != nil || !slices.ContainsFunc(idx.Manifests, unwanted) {
		return err
	}
	return l.update(ctx, func(idx *v1.IndexManifest) error {
		idx.Manifests = slices.DeleteFunc(idx.Manifests, unwanted)
		return nil
	})
}

// Untagged lists nothing: to Collect, a manifest that index.json does not name
// is a blob like any other.
func (l *layout) Untagged(context.Context, time.Time) ([]v1.Hash, error) { return nil, nil }

// update changes index.json, which nobody else does meanwhile.
func (l *layout) update(ctx context.Context, change func(*v1.IndexManifest) error) error {
	unlock, err := l.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	idx, err := l.index()
	if err != nil {
		return err
	}
	if err := change(&idx); err != nil {
		return err
	}
	b, err := json.Marshal(idx)
	if err != nil {
		return err
	}
	return l.fail(writeFile(filepath.Join(l.dir, indexName), b))
}

func (l *layout) lock(ctx context.Context) (unlock func(), err error) {
	unlock, err = lock(ctx, filepath.Join(l.dir, lockName), l.lockTimeout)
	return unlock, l.fail(err)
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
