package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const source = "https://github.com/org/nixoci-action"

// program is all that the image holds. It serves a cache unless it is told
// otherwise; proxy and gc are other names of it.
const program = "nixoci"

// imageIndex is the image for each architecture.
func imageIndex(bin, version, revision string) (v1.ImageIndex, error) {
	about := map[string]string{
		"org.opencontainers.image.title":       "nixoci-proxy",
		"org.opencontainers.image.description": "Serves a Nix binary cache from an OCI registry",
		"org.opencontainers.image.source":      source,
		"org.opencontainers.image.licenses":    "MIT",
		"org.opencontainers.image.version":     cmp.Or(version, "source"),
	}
	if revision != "" {
		about["org.opencontainers.image.revision"] = revision
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		img, err := image(bin, arch, about)
		if err != nil {
			return nil, fmt.Errorf("making the image for %s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return mutate.Annotations(index, about).(v1.ImageIndex), nil
}

func image(bin, arch string, about map[string]string) (v1.Image, error) {
	root, err := rootFiles()
	if err != nil {
		return nil, err
	}
	binaries, err := programFile(bin, arch)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, text := range [][]byte{root, binaries} { // what changes least comes first
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil },
			tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestCompression))
		if err != nil {
			return nil, err
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return nil, err
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	config.History = nil
	config.Config = v1.Config{
		User:       fmt.Sprintf("%d:%[1]d", userID), // a number: Kubernetes sees that it is not root
		Entrypoint: []string{"/bin/" + program, "proxy"},
		Env: []string{
			"PATH=/bin",
			"HOME=" + homeDir,
			"NIXOCI_LISTEN=0.0.0.0:37515", // a container's loopback address is reached by nobody
			"NIXOCI_CACHE_DIR=" + cacheDir,
		},
		WorkingDir:   "/",
		ExposedPorts: map[string]struct{}{"37515/tcp": {}},
		Labels:       about,
	}
	return mutate.ConfigFile(img, config)
}
