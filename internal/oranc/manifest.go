package oranc

import (
	"encoding/json"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	layerType     = "application/octet-stream"
	keyAnnotation = "com.linyinfeng.oranc.key"
)

// File returns the blob with the file that a manifest holds under a key. Its
// error tells that the manifest is not one of oranc's for that key.
func File(manifest []byte, key string) (v1.Descriptor, error) {
	var m v1.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return v1.Descriptor{}, fmt.Errorf("decoding a manifest: %w", err)
	}
	if len(m.Layers) != 1 || m.Layers[0].MediaType != layerType {
		return v1.Descriptor{}, errors.New("it does not have the one layer of a file of oranc's")
	}
	// the first versions did not write it
	if k, ok := m.Annotations[keyAnnotation]; ok && k != key {
		return v1.Descriptor{}, fmt.Errorf("it is for the key %q", k)
	}
	l := m.Layers[0]
	if l.Digest.Algorithm != "sha256" || l.Size <= 0 {
		return v1.Descriptor{}, fmt.Errorf("its layer is %s with %d bytes", l.Digest, l.Size)
	}
	return v1.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size}, nil
}
