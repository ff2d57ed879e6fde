package cli

import (
	"cmp"

	"github.com/google/go-containerregistry/pkg/authn"
)

// ghcr gives GITHUB_TOKEN to ghcr.io, and to nobody else. ghcr.io wants a user
// and does not look who it is.
//
// go-containerregistry has the same, but takes the token from the environment
// of the process, where that of a service is not.
type ghcr struct{ getenv func(string) string }

func (g ghcr) Resolve(r authn.Resource) (authn.Authenticator, error) {
	token := g.getenv("GITHUB_TOKEN")
	if token == "" || r.RegistryStr() != "ghcr.io" {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(authn.AuthConfig{Username: cmp.Or(g.getenv("GITHUB_ACTOR"), "unset"), Password: token}), nil
}
