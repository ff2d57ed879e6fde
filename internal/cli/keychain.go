package cli

import (
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/authn/github"
)

// Login names the variables with a user and a password for the cache's
// registry, where nobody has logged in with docker or podman. Both are needed.
var Login = []Variable{
	{Name: EnvPrefix + "USERNAME", Usage: "user at the cache's registry; wins over a docker or podman login if the password is given as well"},
	{Name: EnvPrefix + "PASSWORD", Usage: "password or token of that user"},
}

// Keychain finds the credentials for the cache's registry: those of the
// environment (see Login), those of docker, podman or a credential helper, and
// for ghcr.io else GITHUB_TOKEN. It must not be used for other registries.
func Keychain(getenv func(string) string) authn.Keychain {
	user, password := getenv(Login[0].Name), getenv(Login[1].Name)
	if user != "" && password != "" {
		return Password(user, password)
	}
	return HostKeychain()
}

// HostKeychain finds credentials by the registry's host: those of docker,
// podman or a credential helper, and for ghcr.io else GITHUB_TOKEN. Unlike
// Keychain's they may be used with any registry.
func HostKeychain() authn.Keychain {
	return authn.NewMultiKeychain(authn.DefaultKeychain, github.Keychain)
}

// Password is a keychain with one user and password for every registry.
func Password(user, password string) authn.Keychain {
	return given{authn.FromConfig(authn.AuthConfig{Username: user, Password: password})}
}

type given struct{ auth authn.Authenticator }

func (g given) Resolve(authn.Resource) (authn.Authenticator, error) { return g.auth, nil }
