package cli

import (
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/authn/github"
)

// Keychain finds a registry's credentials: those of docker, podman or a
// credential helper, and for ghcr.io else GITHUB_TOKEN.
func Keychain() authn.Keychain {
	return authn.NewMultiKeychain(authn.DefaultKeychain, github.Keychain)
}
