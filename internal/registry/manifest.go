package registry

import (
	"encoding/json"
	"regexp"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// blobsOf lists the blobs that an image manifest names.
func blobsOf(m Manifest) []v1.Hash {
	var im v1.Manifest
	if json.Unmarshal(m.Raw, &im) != nil {
		return nil
	}
	blobs := []v1.Hash{im.Config.Digest}
	for _, l := range im.Layers {
		blobs = append(blobs, l.Digest)
	}
	return blobs
}

var digestRE = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

func digestsIn(s string) []v1.Hash {
	var hs []v1.Hash
	for _, m := range digestRE.FindAllString(s, -1) {
		if h, err := v1.NewHash(m); err == nil {
			hs = append(hs, h)
		}
	}
	return hs
}
