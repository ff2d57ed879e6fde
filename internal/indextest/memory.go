package indextest

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

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/registry"
)

// Memory is a registry as strict as distribution, without its speed limits: a
// manifest needs its blobs, a deleted manifest takes its tags along, and
// collect is "garbage-collect -m".
type Memory struct {
	Mu        sync.Mutex
	Blobs     map[v1.Hash][]byte
	Manifests map[v1.Hash]registry.Manifest
	Tagged    map[string]v1.Hash
}

// NewManifest makes a manifest in the full form.
func NewManifest(kind string, layers []v1.Descriptor, created time.Time) (registry.Manifest, error) {
	return format.FormFull.Manifest(kind, layers, created, "")
}

// NewMemory returns a registry that is empty.
func NewMemory() *Memory {
	return &Memory{Blobs: map[v1.Hash][]byte{}, Manifests: map[v1.Hash]registry.Manifest{}, Tagged: map[string]v1.Hash{}}
}

// String implements registry.Repository.
func (m *Memory) String() string { return "memory" }

// Manifest implements registry.Repository.
func (m *Memory) Manifest(_ context.Context, ref string) (registry.Manifest, error) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	digest, err := v1.NewHash(ref)
	if err != nil {
		digest = m.Tagged[ref]
	}
	man, ok := m.Manifests[digest]
	if !ok {
		return man, fmt.Errorf("manifest %s: %w", ref, registry.ErrNotFound)
	}
	return man, nil
}

// Resolve implements registry.Repository.
func (m *Memory) Resolve(_ context.Context, tag string) (v1.Hash, error) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	if digest, ok := m.Tagged[tag]; ok {
		return digest, nil
	}
	return v1.Hash{}, fmt.Errorf("tag %s: %w", tag, registry.ErrNotFound)
}

// Named are the blobs of a manifest.
func Named(man registry.Manifest) []v1.Hash {
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

// Layers are the layers of a manifest.
func Layers(man registry.Manifest) []v1.Descriptor {
	var im v1.Manifest
	if err := json.Unmarshal(man.Raw, &im); err != nil {
		panic(err)
	}
	return im.Layers
}

// PutManifest implements registry.Repository.
func (m *Memory) PutManifest(_ context.Context, tag string, man registry.Manifest) (v1.Hash, error) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	var missing []v1.Hash
	for _, h := range Named(man) {
		if _, ok := m.Blobs[h]; !ok {
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
	m.Manifests[digest] = man
	if tag != digest.String() {
		m.Tagged[tag] = digest
	}
	return digest, nil
}

// Tags implements registry.Repository.
func (m *Memory) Tags(context.Context) ([]string, error) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	return slices.Collect(maps.Keys(m.Tagged)), nil
}

// Blob implements registry.Repository.
func (m *Memory) Blob(_ context.Context, digest v1.Hash, offset, length int64) (io.ReadCloser, error) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	b, ok := m.Blobs[digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", digest, registry.ErrNotFound)
	}
	if length < 0 {
		length = int64(len(b)) - offset
	}
	return io.NopCloser(bytes.NewReader(b[offset : offset+length])), nil
}

// BlobSize implements registry.Repository.
func (m *Memory) BlobSize(_ context.Context, digest v1.Hash) (int64, error) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	b, ok := m.Blobs[digest]
	if !ok {
		return 0, fmt.Errorf("blob %s: %w", digest, registry.ErrNotFound)
	}
	return int64(len(b)), nil
}

// PutBlob implements registry.Repository.
func (m *Memory) PutBlob(_ context.Context, b []byte) (v1.Descriptor, error) {
	digest, size, err := v1.SHA256(bytes.NewReader(b))
	if err != nil {
		return v1.Descriptor{}, err
	}
	m.Mu.Lock()
	defer m.Mu.Unlock()
	m.Blobs[digest] = bytes.Clone(b)
	return v1.Descriptor{Digest: digest, Size: size}, nil
}

// WriteBlob implements registry.Repository.
func (m *Memory) WriteBlob(ctx context.Context, write func(io.Writer) error) (v1.Descriptor, error) {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return v1.Descriptor{}, err
	}
	return m.PutBlob(ctx, b.Bytes())
}

// DeleteManifest implements registry.Repository.
func (m *Memory) DeleteManifest(_ context.Context, tag string, digest v1.Hash) error {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	delete(m.Manifests, digest)
	maps.DeleteFunc(m.Tagged, func(_ string, h v1.Hash) bool { return h == digest })
	return nil
}

// Untagged implements registry.Repository.
func (m *Memory) Untagged(context.Context, time.Time) ([]v1.Hash, error) { return nil, nil }

// Collect implements registry.Repository.
func (m *Memory) Collect(context.Context, time.Time) (registry.Freed, error) {
	return registry.Freed{}, nil
}

// GarbageCollect removes untagged manifests, and what no manifest names.
func (m *Memory) GarbageCollect() {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	tagged := map[v1.Hash]bool{}
	for _, h := range m.Tagged {
		tagged[h] = true
	}
	maps.DeleteFunc(m.Manifests, func(h v1.Hash, _ registry.Manifest) bool { return !tagged[h] })
	used := map[v1.Hash]bool{}
	for _, man := range m.Manifests {
		for _, h := range Named(man) {
			used[h] = true
		}
	}
	maps.DeleteFunc(m.Blobs, func(h v1.Hash, _ []byte) bool { return !used[h] })
}
