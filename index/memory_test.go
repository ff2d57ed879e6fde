package index

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/registry"
)

// memory is a registry as strict as distribution, without its speed limits: a
// manifest needs its blobs, a deleted manifest takes its tags along, and
// collect is "garbage-collect -m".
type memory struct {
	mu        sync.Mutex
	blobs     map[v1.Hash][]byte
	manifests map[v1.Hash]registry.Manifest
	tags      map[string]v1.Hash
}

// newManifest makes a manifest in the full form.
func newManifest(kind string, layers []v1.Descriptor, created time.Time) (registry.Manifest, error) {
	return formFull.manifest(kind, layers, created)
}

func newMemory() *memory {
	return &memory{blobs: map[v1.Hash][]byte{}, manifests: map[v1.Hash]registry.Manifest{}, tags: map[string]v1.Hash{}}
}

func (m *memory) String() string { return "memory" }

func (m *memory) Manifest(_ context.Context, ref string) (registry.Manifest, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	digest, err := v1.NewHash(ref)
	if err != nil {
		digest = m.tags[ref]
	}
	man, ok := m.manifests[digest]
	if !ok {
		return man, fmt.Errorf("manifest %s: %w", ref, registry.ErrNotFound)
	}
	return man, nil
}

func (m *memory) Resolve(_ context.Context, tag string) (v1.Hash, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if digest, ok := m.tags[tag]; ok {
		return digest, nil
	}
	return v1.Hash{}, fmt.Errorf("tag %s: %w", tag, registry.ErrNotFound)
}

// named are the blobs of a manifest.
func named(man registry.Manifest) []v1.Hash {
	var im v1.Manifest
	if err := json.Unmarshal(man.Raw, &im); err != nil {
		panic(err)
	}
	hs := []v1.Hash{im.Config.Digest}
	for _, l := range im.Layers {
		hs = append(hs, l.Digest)
	}
	return hs
}

func layers(man registry.Manifest) []v1.Descriptor {
	var im v1.Manifest
	if err := json.Unmarshal(man.Raw, &im); err != nil {
		panic(err)
	}
	return im.Layers
}

func (m *memory) PutManifest(_ context.Context, tag string, man registry.Manifest) (v1.Hash, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var missing []v1.Hash
	for _, h := range named(man) {
		if _, ok := m.blobs[h]; !ok {
			missing = append(missing, h)
		}
	}
	if missing != nil {
		return v1.Hash{}, &registry.MissingBlobsError{Digests: missing, Err: fmt.Errorf("writing manifest %s", tag)}
	}
	digest, _, err := v1.SHA256(bytes.NewReader(man.Raw))
	if err != nil {
		return v1.Hash{}, err
	}
	man.Digest = digest
	m.manifests[digest] = man
	if tag != digest.String() {
		m.tags[tag] = digest
	}
	return digest, nil
}

func (m *memory) Tags(context.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.tags)), nil
}

func (m *memory) Blob(_ context.Context, digest v1.Hash, offset, length int64) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", digest, registry.ErrNotFound)
	}
	if length < 0 {
		length = int64(len(b)) - offset
	}
	return io.NopCloser(bytes.NewReader(b[offset : offset+length])), nil
}

func (m *memory) BlobSize(_ context.Context, digest v1.Hash) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[digest]
	if !ok {
		return 0, fmt.Errorf("blob %s: %w", digest, registry.ErrNotFound)
	}
	return int64(len(b)), nil
}

func (m *memory) PutBlob(_ context.Context, b []byte) (v1.Descriptor, error) {
	digest, size, err := v1.SHA256(bytes.NewReader(b))
	if err != nil {
		return v1.Descriptor{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[digest] = bytes.Clone(b)
	return v1.Descriptor{Digest: digest, Size: size}, nil
}

func (m *memory) WriteBlob(ctx context.Context, write func(io.Writer) error) (v1.Descriptor, error) {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return v1.Descriptor{}, err
	}
	return m.PutBlob(ctx, b.Bytes())
}

func (m *memory) DeleteManifest(_ context.Context, tag string, digest v1.Hash) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.manifests, digest)
	maps.DeleteFunc(m.tags, func(_ string, h v1.Hash) bool { return h == digest })
	return nil
}

func (m *memory) Untagged(context.Context, time.Time) ([]v1.Hash, error) { return nil, nil }

func (m *memory) Collect(context.Context, time.Time) (registry.Freed, error) {
	return registry.Freed{}, nil
}

// collect removes untagged manifests, and what no manifest names.
func (m *memory) collect() {
	m.mu.Lock()
	defer m.mu.Unlock()
	tagged := map[v1.Hash]bool{}
	for _, h := range m.tags {
		tagged[h] = true
	}
	maps.DeleteFunc(m.manifests, func(h v1.Hash, _ registry.Manifest) bool { return !tagged[h] })
	used := map[v1.Hash]bool{}
	for _, man := range m.manifests {
		for _, h := range named(man) {
			used[h] = true
		}
	}
	maps.DeleteFunc(m.blobs, func(h v1.Hash, _ []byte) bool { return !used[h] })
}
